"""Maxout against `torch.max` over groups: values, gradients of any order, layouts, what is kept, and every backend.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported, and
are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton_tools import DTYPES, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret, on_each_backend

import nnkernels.functional as F
from nnkernels.reference import pooling as reference

on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


device = on_each_backend("cpu", "reference", "triton")


def truth(x: Tensor, pieces: int, dim: int = 1) -> Tensor:
    dim %= x.dim()
    return torch.max(x.unflatten(dim, (x.shape[dim] // pieces, pieces)), dim + 1).values


def same(a: Tensor, b: Tensor) -> bool:
    """Bitwise, but for the payload of NaN."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Few distinct values, so that many tie, with NaN, infinities and both zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([-1.5, -0.0, 0.0, 1.0, 1.0, 2.0, math.inf, -math.inf, -math.inf, math.nan], dtype=dtype)
    return values[torch.randint(0, len(values), shape, generator=generator)]


def check(x: Tensor, pieces: int, dim: int) -> None:
    a, b = x.detach().requires_grad_(), x.detach().clone().requires_grad_()
    y, exact = F.maxout(a, pieces, dim), truth(b, pieces, dim)
    assert y.shape == exact.shape and same(y, exact) and same(F.maxout(x.detach(), pieces, dim), exact)
    assert torch.equal(y.signbit() | y.isnan(), exact.signbit() | exact.isnan())
    grad = torch.randn(y.shape, device=x.device).to(x.dtype)
    got, wanted = torch.autograd.grad(y, a, grad)[0], torch.autograd.grad(exact, b, grad)[0]
    assert torch.equal(got, wanted)
    if pieces > 1 and x.numel() and 1 not in x.shape:
        assert got.stride() == torch.empty_like(x).stride()


SHAPES = {
    "nchw": ((2, 24, 4, 8), 1),
    "nchw-7x7": ((3, 24, 7, 7), 1),
    "last": ((5, 7, 24), -1),
    "first": ((24, 5), 0),
    "vector": ((48,), 0),
    "several-tiles": ((3, 24, 300), 1),
    "several-tiles-last": ((311, 24), -1),
}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 8, 24])
def test_value_and_gradient_are_those_of_torch_max(device, shape, kind, pieces):
    if INTERPRETED and (kind, pieces) not in [("bf16", 4), ("fp32", 2), ("fp32", 3), ("fp64", 8), ("fp16", 24)]:
        pytest.skip("slow when interpreted")
    sizes, dim = SHAPES[shape]
    check(numbers(sizes, DTYPES[kind]).to(device), pieces, dim)


@pytest.mark.parametrize("pieces", [5, 16, 17, 64, 200, 256])
@pytest.mark.parametrize("inner", [1, 6])
def test_many_pieces(device, pieces, inner):
    check(numbers((3, 2 * pieces, inner), torch.float32).to(device), pieces, 1)


@on_torch_alone
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    groups=st.integers(0, 5),
    pieces=st.integers(1, 9),
    data=st.data(),
    kind=st.sampled_from(list(DTYPES)),
)
def test_any_shape_and_dim(sizes, groups, pieces, data, kind):
    at = data.draw(st.integers(0, len(sizes) - 1))
    sizes[at] = groups * pieces
    dim = at - data.draw(st.sampled_from([0, len(sizes)]))
    order = data.draw(st.permutations(range(len(sizes))))
    x = numbers(tuple(sizes[axis] for axis in order), DTYPES[kind], seed=sum(sizes))
    x = x.permute([order.index(axis) for axis in range(len(sizes))])
    check(x, pieces, dim)
    assert F.maxout(x, pieces, dim).permute(order).is_contiguous()  # as the input is


def _layouts() -> dict[str, tuple[Tensor, int]]:
    image = numbers((3, 8, 5, 6), torch.float32)
    return {
        "channels_last": (image.to(memory_format=torch.channels_last), 1),
        "permuted": (image.permute(2, 0, 3, 1), 3),
        "permuted-other-dim": (image.permute(2, 1, 3, 0), 1),
        "half": (numbers((7, 3, 32), torch.float32).chunk(2, -1)[1], -1),
        "channels-half": (numbers((4, 16, 5, 5), torch.float32).chunk(2, 1)[1], 1),
        "strided": (numbers((9, 16), torch.float32)[::2, ::2], 1),
        "expanded": (numbers((1, 8), torch.float32).expand(6, 8), 1),
        "expanded-channels": (numbers((6, 1), torch.float32).expand(6, 8), 1),
        "unaligned": (numbers((65,), torch.float32)[1:].view(8, 8), 1),
        "empty": (torch.empty(0, 8, 3), 1),
        "empty-inner": (torch.empty(2, 8, 0), 1),
        "no-channels": (torch.empty(2, 0, 3), 1),
    }


@pytest.mark.parametrize("layout", _layouts())
def test_layouts(device, layout):
    x, dim = _layouts()[layout]
    x = x.to(device) if device == "cuda" else x
    kept = x.clone()
    check(x, 4, dim)
    assert same(x, kept)


def test_channels_last_stays(device):
    x = numbers((3, 8, 5, 6), torch.float32).to(device).to(memory_format=torch.channels_last)
    assert F.maxout(x, 4).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("grad_layout", ["expanded", "transposed", "rows"])
def test_gradients_of_any_strides(device, grad_layout):
    x = torch.randn(6, 8, 10, device=device, requires_grad=True)
    grad = {
        "expanded": torch.tensor(0.5, device=device).expand(6, 2, 10),
        "transposed": torch.randn(10, 2, 6, device=device).permute(2, 1, 0),
        "rows": torch.randn(6, 2, 20, device=device)[..., ::2],
    }[grad_layout]
    kept = grad.clone()
    y, exact = F.maxout(x, 4), truth(x, 4)
    for _ in range(2):
        got = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
        assert torch.equal(got, torch.autograd.grad(exact, x, grad, retain_graph=True)[0])
    assert torch.equal(grad, kept)


@pytest.mark.parametrize(("pieces", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)])
def test_backward_keeps_the_winners_and_nothing_else(device, pieces, bits):
    x = torch.randn(4, pieces * 16, 8, device=device, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = F.maxout(x, pieces)
    assert sum(tensor.nbytes for tensor in kept) * 8 == bits * y.numel()
    grad = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], torch.autograd.grad(truth(x, pieces), x, grad)[0])


@pytest.mark.parametrize("pieces", [2, 3, 8, 100])
@pytest.mark.parametrize("inner", [1, 3, 8])
def test_the_layout_of_the_winners_is_the_documented_one(device, pieces, inner):
    x = torch.randn(5, pieces * 3, inner, device=device, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        F.maxout(x, pieces)
    bits = reference.width(pieces)
    index = x.detach().unflatten(1, (3, pieces)).max(2).indices.flatten().tolist()
    packed = int.from_bytes(bytes(kept[0].tolist()), "little")
    assert [packed >> bits * i & (1 << bits) - 1 for i in range(len(index))] == index


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter")


def _compiled(kind: str, dtype: str, pieces: int, inner: int, arch: str) -> Any:
    """What `_launch` would have compiled for aligned tensors."""
    from nnkernels.triton import pooling

    size, bits = DTYPES[dtype].itemsize, reference.width(pieces)
    constants: dict[str, Any] = {"PIECES": pieces, "BITS": bits, "RECORD": True}
    if pooling.is_adjacent(pieces, inner):
        kernel, winners = getattr(pooling, f"{kind}_adjacent"), "*u8"
        constants |= {"TILES": pooling.TILES, "BLOCK": pooling.adjacent_block(pieces, size)}
    else:
        vec, vectors = pooling.apart_block(pieces, inner, size, backward=kind == "backward")
        unit = max(8, vec * bits)
        kernel, winners = getattr(pooling, f"{kind}_apart"), f"*i{unit}"
        constants |= {"UNIT": unit, "WIDE": False, "VEC": vec, "VECTORS": vectors}
    uneven = ("outputs", "count", "cols")
    return compile_ahead(kernel, arch, dtype, constants, pooling._NUM_WARPS, {"winners_ptr": winners}, uneven)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu(arch, fresh_cache):
    cases = [("bf16", 4, 3136), ("bf16", 4, 1), ("fp32", 3, 49), ("fp64", 17, 8)]
    for kind, (dtype, pieces, inner) in itertools.product(("forward", "backward"), cases):
        assert ".local" not in _compiled(kind, dtype, pieces, inner, arch).asm["ptx"]


@compiles
@pytest.mark.parametrize("inner", [1, 3136])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_pieces_are_moved_16_bytes_at_a_time(dtype, inner, fresh_cache):
    from nnkernels.triton import pooling

    accesses = pooling.TILES if inner == 1 else 4
    for kind, access in (("forward", "ld"), ("backward", "st")):
        ptx = _compiled(kind, dtype, 4, inner, "sm_90").asm["ptx"]
        assert len(re.findall(rf"{access}\.global\S*\.v4\.b32", ptx)) >= accesses
    assert "bar.sync" not in ptx  # in backward no value changes threads
