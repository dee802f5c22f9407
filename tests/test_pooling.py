"""Maxout against `torch.max` over groups: values, gradients of any order, layouts, what is kept, and every backend.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported, and
are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import nnkernels
import nnkernels.functional as F
from nnkernels import dispatch
from nnkernels.reference import pooling as reference
from nnkernels.registry import Reducing, activation

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ON = {"cpu": "cpu", "reference": "cpu", "triton": "cpu" if INTERPRETED else "cuda"}

compiles = pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="needs Triton's compiler")
on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


@pytest.fixture(params=["triton"] if INTERPRETED else ["cpu", "reference", "triton"])
def device(request: pytest.FixtureRequest) -> Any:
    """A device with the backend chosen that serves it."""
    found, at = dispatch.named(request.param), ON[request.param]
    if at == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU; test_under_the_interpreter runs it interpreted")
    if isinstance(found, str):
        pytest.skip(found)
    with nnkernels.backend(request.param):
        yield at


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


@on_torch_alone
def test_nothing_is_recorded_without_a_gradient():
    x = torch.randn(3, 8)
    calls: list[Any] = []
    kernels = dispatch.kernels("pooling", x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "maxout", lambda x, y, winners, *sizes: calls.append(winners))
        F.maxout(x, 4)
        with torch.no_grad():
            F.maxout(x.requires_grad_(), 4)
    assert calls == [None, None]


@on_torch_alone
def test_the_result_may_be_written_in_place():
    x = torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    F.maxout(x, 4).relu_().sum().backward()
    assert torch.equal(x.grad, torch.autograd.grad(truth(x, 4).relu().sum(), x)[0])


@on_torch_alone
@pytest.mark.parametrize("pieces", [2, 3, 6])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_derivatives_of_any_order(pieces, layout):
    x = torch.randperm(2 * 6 * 2 * 3).double().view(2, 6, 2, 3)
    x = (x.to(memory_format=torch.channels_last) if layout == "channels_last" else x).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return F.maxout(x * x / 50, pieces)

    assert torch.autograd.gradcheck(function, x, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, x, check_batched_grad=True)
    (first,) = torch.autograd.grad(F.maxout(x, pieces).sum(), x, create_graph=True)
    assert first.requires_grad is False or torch.equal(torch.autograd.grad(first.sum(), x, allow_unused=True)[0], x * 0)


@on_torch_alone
def test_the_second_derivative_gathers_at_the_winners():
    x = torch.randn(3, 8, 5, requires_grad=True)
    grad = torch.randn(3, 2, 5, requires_grad=True)
    (first,) = torch.autograd.grad(F.maxout(x, 4), x, grad, create_graph=True)
    weight = torch.randn_like(x)
    (second,) = torch.autograd.grad(first, grad, weight)
    index = x.detach().unflatten(1, (2, 4)).max(2, keepdim=True).indices
    assert torch.equal(second, weight.unflatten(1, (2, 4)).gather(2, index).squeeze(2))


@on_torch_alone
def test_under_transforms():
    from torch.func import grad, hessian, jvp, vmap

    x, tangent = torch.randn(4, 8, 3), torch.randn(4, 8, 3)
    assert torch.equal(vmap(lambda x: F.maxout(x, 4, 0))(x), truth(x, 4))
    assert torch.equal(vmap(lambda x: F.maxout(x, 4, 1), in_dims=2, out_dims=2)(x), truth(x, 4))
    ours = jvp(lambda x: F.maxout(x, 4), (x,), (tangent,))
    theirs = jvp(lambda x: truth(x, 4), (x,), (tangent,))
    assert all(map(torch.equal, ours, theirs))
    per_sample = vmap(grad(lambda x: F.maxout(x, 4, 0).square().sum()))(x)
    assert torch.equal(per_sample, grad(lambda x: truth(x, 4).square().sum())(x))
    y = torch.randn(8)
    ours, theirs = (hessian(lambda y, f=f: f(y, 4, 0).pow(3).sum())(y) for f in (F.maxout, truth))
    assert torch.equal(ours, theirs)


@on_torch_alone
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(layout, dynamic):
    torch._dynamo.reset()
    x = torch.randn(2, 8, 5, 6)
    x = (x.to(memory_format=torch.channels_last) if layout == "channels_last" else x).requires_grad_()
    y = torch.compile(F.maxout, fullgraph=True, dynamic=dynamic, backend="aot_eager")(x, 4)
    assert torch.equal(y, truth(x, 4)) and y.stride() == F.maxout(x, 4).stride()
    grad = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], torch.autograd.grad(truth(x, 4), x, grad)[0])


@on_torch_alone
def test_threads_change_nothing():
    x = numbers((64, 32, 33, 5), torch.bfloat16)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(x.detach().requires_grad_())
            F.maxout(found[-1], 4).sum().backward()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].grad, found[1].grad)


@on_torch_alone
@pytest.mark.parametrize(
    ("shape", "pieces", "dim", "error", "named"),
    [
        ((2, 10, 3), 4, 1, ValueError, ["(2, 10, 3)", "10", "dim 1", "num_pieces 4"]),
        ((2, 10), 0, 1, ValueError, ["num_pieces", "0", "(2, 10)"]),
        ((2, 10), -2, 1, ValueError, ["-2", "(2, 10)"]),
        ((2, 10), 2, 2, IndexError, ["dim 2", "(2, 10)"]),
        ((2, 10), 2, -3, IndexError, ["dim -3", "(2, 10)"]),
        ((10,), 2, 1, IndexError, ["dim 1", "(10,)"]),
        ((), 1, 0, ValueError, ["no dimensions"]),
        ((2, 10), 2.0, 1, TypeError, ["num_pieces", "float"]),
    ],
)
def test_bad_arguments_are_named(shape, pieces, dim, error, named):
    with pytest.raises(error) as raised:
        F.maxout(torch.zeros(shape), pieces, dim)
    assert all(part in str(raised.value) for part in named)


@on_torch_alone
@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_other_types_are_refused(dtype):
    with pytest.raises(NotImplementedError, match=re.escape(f"{dtype}")):
        F.maxout(torch.zeros(2, 8, dtype=dtype), 4)


@on_torch_alone
def test_more_pieces_than_a_byte_counts():
    check(torch.randn(2, 600, 3), 300, 1)
    if not isinstance(dispatch.named("cpu"), str):
        with nnkernels.backend("cpu"), pytest.raises(RuntimeError, match="300"):
            F.maxout(torch.randn(2, 600), 300)


@on_torch_alone
def test_overrides_and_subclasses_reach_torch():
    class Logged(Tensor):
        calls: ClassVar[list[Any]] = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.calls.append(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    y = F.maxout(torch.randn(2, 8).as_subclass(Logged), 4)
    assert type(y) is Logged and F.maxout in Logged.calls


@on_torch_alone
def test_module():
    layer = nnkernels.nn.Maxout(4)
    x = torch.randn(2, 8, 3)
    assert repr(layer) == "Maxout(num_pieces=4, dim=1)" and not layer.state_dict()
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(one(x), truth(x, 4))
    assert torch.equal(nnkernels.nn.Maxout(3, dim=-1)(x), truth(x, 3, -1))


@on_torch_alone
def test_catalogue():
    row = activation("maxout")
    assert isinstance(row, Reducing) and row.module == "Maxout" and "2013" in row.source


@on_torch_alone
@pytest.mark.parametrize("module", ["functional.pooling", "nn.pooling"])
def test_examples(module):
    import doctest

    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0


@compiles
def test_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    root = Path(__file__).parent.parent
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def _compiled(kind: str, dtype: str, pieces: int, inner: int, arch: int) -> Any:
    """What `_launch` would have compiled for aligned tensors."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nnkernels.triton import pooling

    size, bits = DTYPES[dtype].itemsize, reference.width(pieces)
    constants: dict[str, Any] = {"PIECES": pieces, "BITS": bits, "RECORD": True}
    if pooling.is_adjacent(pieces, inner):
        kernel, winners = getattr(pooling, f"{kind}_adjacent"), "*u8"
        constants |= {"TILES": pooling.TILES, "BLOCK": pooling.adjacent_block(pieces, size)}
    else:
        vec, vectors = pooling.apart_block(pieces, inner, size)
        unit = max(8, vec * bits)
        kernel, winners = getattr(pooling, f"{kind}_apart"), f"*i{unit}"
        constants |= {"UNIT": unit, "WIDE": False, "VEC": vec, "VECTORS": vectors}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature, aligned = {}, {}
    for i, name in enumerate(kernel.arg_names):
        pointer = winners if name == "winners_ptr" else f"*{dtype}" if name.endswith("_ptr") else "i32"
        signature[name] = "constexpr" if name in constants else pointer
        if name.endswith("_ptr"):
            aligned[i,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": pooling._NUM_WARPS}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@compiles
@pytest.mark.parametrize("arch", [80, 90, 100])
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
        ptx = _compiled(kind, dtype, 4, inner, 90).asm["ptx"]
        assert len(re.findall(rf"{access}\.global\.v4\.b32", ptx)) >= accesses
    assert "bar.sync" not in ptx  # in backward no value changes threads
