"""Content addressing against the formulas of its papers in float64: values, gradients, layouts, contexts, bad input.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported, and
are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_tools import DTYPES, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret, on_each_backend, spills

import nnkernels
import nnkernels.functional as F
from nnkernels import dispatch
from nnkernels.contracts.addressing import Operands

PARTS = {
    "lookup": (),
    "gate": ("gate", "previous"),
    "shift": ("shift",),
    "sharpness": ("sharpness",),
    "gate and sharpness": ("gate", "previous", "sharpness"),
    "all": ("gate", "previous", "shift", "sharpness"),
}
LIMIT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}

on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


device = on_each_backend("cpu", "reference", "triton")


def operands(
    batch: int = 2,
    heads: int = 3,
    slots: int = 9,
    size: int = 5,
    width: int = 3,
    parts: tuple[str, ...] = PARTS["all"],
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Operands:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    every = Operands(
        drawn(batch, slots, size),
        drawn(batch, heads, size),
        drawn(batch, heads).exp(),
        drawn(batch, heads).sigmoid(),
        drawn(batch, heads, slots).softmax(-1),
        drawn(batch, heads, width).softmax(-1),
        1 + drawn(batch, heads).exp(),
    )
    wanted = ("memory", "key", "strength", *parts)
    return Operands(
        *(x.to(device, dtype) if name in wanted else None for name, x in every._asdict().items())  # type: ignore[arg-type]
    )


def truth(
    memory: Tensor,
    key: Tensor,
    strength: Tensor,
    gate: Tensor | None = None,
    previous: Tensor | None = None,
    shift: Tensor | None = None,
    sharpness: Tensor | None = None,
) -> Tensor:
    """As the papers write it, slot by slot."""
    lengths = [(x.square().sum(-1) + 1e-4).sqrt() for x in (key, memory)]
    cosine = torch.einsum("bhd,bnd->bhn", key, memory) / lengths[0].unsqueeze(2) / lengths[1].unsqueeze(1)
    grown = (strength.unsqueeze(2) * cosine).exp()
    where = grown / grown.sum(-1, keepdim=True)
    if gate is not None and previous is not None:
        where = gate.unsqueeze(2) * where + (1 - gate.unsqueeze(2)) * previous
    if shift is not None:
        slots, width = where.shape[2], shift.shape[2]
        where = torch.stack([
            sum(where[..., (j - k + width // 2) % slots] * shift[..., k] for k in range(width)) for j in range(slots)
        ], -1)  # fmt: skip
    if sharpness is not None:
        power = where.clamp(min=1e-12) ** sharpness.unsqueeze(2)
        where = power / power.sum(-1, keepdim=True)
    return where


def there(given: Operands) -> list[Tensor]:
    return [x for x in given if x is not None]


def leaves(given: Operands, dtype: torch.dtype | None = None) -> Operands:
    return Operands(*(None if x is None else x.detach().to(dtype or x.dtype).requires_grad_() for x in given))  # type: ignore[arg-type]


def check(given: Operands, grad: Tensor | None = None) -> None:
    ours, wide = leaves(given), leaves(given, torch.float64)
    y, exact = F.content_addressing(*ours), truth(*wide)
    limit = LIMIT[given.memory.dtype]
    assert y.dtype == given.memory.dtype and y.is_contiguous()
    torch.testing.assert_close(y.double(), exact, rtol=limit, atol=limit)
    grad = torch.randn(y.shape, dtype=torch.float64).to(y) if grad is None else grad
    mine = torch.autograd.grad(y, there(ours), grad)
    for got, found in zip(mine, torch.autograd.grad(exact, there(wide), grad.double()), strict=True):
        scale = max(1.0, found.abs().max().item())
        torch.testing.assert_close(got.double() / scale, found / scale, rtol=limit, atol=limit)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("kind", DTYPES)
def test_values_and_gradients(device, kind, parts):
    check(operands(parts=PARTS[parts], dtype=DTYPES[kind], device=device))


@pytest.mark.parametrize("width", [1, 5, 11])
@pytest.mark.parametrize(("heads", "slots", "size"), [(1, 1, 1), (2, 16, 8), (1, 33, 20), (4, 7, 17)])
def test_any_size(device, heads, slots, size, width):
    check(operands(2, heads, slots, size, width, device=device))


@pytest.mark.parametrize("parts", ["lookup", "all"])
@pytest.mark.parametrize("kind", ["fp32", "fp64", "bf16"])
@pytest.mark.parametrize("batch", [1, 3])
def test_more_heads_than_are_taken_together(device, batch, kind, parts):
    check(operands(batch, 21, 33, 20, parts=PARTS[parts], dtype=DTYPES[kind], device=device))


@pytest.mark.parametrize("slots", [300, 1100])
def test_long_memories_turn_without_a_warps_gather(device, slots):
    check(operands(2, 3, slots, 4, dtype=torch.float64, device=device))


@on_torch_alone
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_memories_of_many_slots(device, kind):
    """Too many for the chip of a GPU, whose kernels, asked for by name, say so."""
    given = operands(3, 2, 700, 40, dtype=DTYPES[kind], device=device)
    if dispatch.chosen() == "triton":
        with pytest.raises(RuntimeError, match=r"\(3, 700, 40\)"):
            check(given)
    else:
        check(given)


@pytest.mark.parametrize("kind", ["fp64", "bf16"])
@pytest.mark.parametrize("layout", ["transposed", "every other", "expanded", "unaligned"])
def test_layouts(device, layout, kind):
    def laid(x: Tensor) -> Tensor:
        if layout == "transposed":
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        if layout == "every other":
            return torch.stack([x, x], -1)[..., 0]
        if layout == "expanded":
            return x[:1].expand(x.shape)
        return torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)

    given = operands(dtype=DTYPES[kind], device=device)
    changed = Operands(*map(laid, there(given)))
    kept = [x.clone() for x in there(changed)]
    check(changed)
    assert all(map(torch.equal, there(changed), kept))


@pytest.mark.parametrize("grad_layout", ["expanded", "transposed", "strided"])
def test_gradients_of_any_strides(device, grad_layout):
    given = operands(device=device)
    grad = {
        "expanded": torch.tensor(0.5, dtype=torch.float64, device=device).expand(2, 3, 9),
        "transposed": torch.randn(9, 3, 2, dtype=torch.float64).to(device).permute(2, 1, 0),
        "strided": torch.randn(2, 3, 18, dtype=torch.float64).to(device)[..., ::2],
    }[grad_layout]
    check(given, grad)


@pytest.mark.parametrize("wanted", ["memory", "key", "previous", "shift"])
def test_only_one_gradient_is_asked_for(device, wanted):
    given = operands(device=device)
    x = getattr(given, wanted).requires_grad_()
    found = torch.autograd.grad(F.content_addressing(*given).sin().sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(truth(*given).sin().sum(), x))


def test_nan_fills_its_memory_and_no_other(device):
    given = operands(device=device)
    given.memory[1, 4, 2] = torch.nan
    y = F.content_addressing(*given)
    assert y[1].isnan().all() and not y[0].isnan().any()


def test_heads_far_from_a_sharp_place_keep_their_digits(device):
    """Powers of these would underflow; their logarithms do not."""
    previous = torch.full((1, 1, 8), 1e-30, dtype=torch.float64, device=device)
    previous[..., 3] = 1e-9
    zero = torch.zeros(1, 1, dtype=torch.float64, device=device)
    memory = torch.ones(1, 8, 2, dtype=torch.float64, device=device)
    y = F.content_addressing(memory, memory[:, :1], zero, zero, previous, sharpness=zero + 60)
    assert y.argmax() == 3 and abs(y.sum().item() - 1) < 1e-12 and y[0, 0, 3] == 1


@pytest.mark.parametrize("shape", [(0, 2, 4, 3), (2, 0, 4, 3)])
def test_nothing_to_find(device, shape):
    given = leaves(operands(*shape, device=device))
    y = F.content_addressing(*given)
    assert y.shape == (shape[0], shape[1], shape[2])
    found = torch.autograd.grad(y.sum(), there(given))
    assert all(one.shape == x.shape and not one.any() for one, x in zip(found, there(given), strict=True))


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not fp16 and not bf16")


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
@pytest.mark.parametrize("kind", ["forward", "backward"])
@pytest.mark.parametrize(
    ("dtype", "heads", "slots", "size", "whole", "registers"),
    [
        ("fp32", 1, 128, 20, True, None),
        ("fp32", 4, 256, 64, True, 128),
        ("fp32", 4, 256, 64, False, 128),
        ("bf16", 4, 64, 64, False, None),
        ("fp64", 2, 64, 16, True, None),
        ("fp32", 2, 512, 16, True, None),
    ],
)
def test_compiles_for_every_gpu_and_hardly_spills(
    arch, kind, dtype, heads, slots, size, whole, registers, fresh_cache, tmp_path
):
    """The assembler keeps a few numbers in local memory of its own accord, where that makes room for one program more.
    Two forward programs with large memories share a multiprocessor."""
    from nnkernels.triton import addressing

    given = operands(1, heads, slots, size, parts=PARTS["all" if whole else "lookup"], dtype=DTYPES[dtype])
    tile = addressing.tiling(given.memory)
    assert tile is not None and tile[2] >= heads
    flags = {name: whole for name in ("GATE", "SHIFT", "SHARPNESS")}
    flags |= {f"GRAD_{name.upper()}": x is not None for name, x in given._asdict().items()}
    block = 1 << (heads - 1).bit_length()
    constants: dict[str, Any] = flags | {"SLOTS": tile[0], "SIZE": tile[1], "HEADS": block, "ONE": True}
    adjacent = ("memory", "key", "previous", "shift", "where", "grad", "grad_memory", "grad_key", "grad_previous")
    constants |= {f"{name}_col": 1 for name in adjacent}
    for name, x in given._asdict().items():
        if x is None:
            constants |= {f"{name}_ptr": None, f"grad_{name}_ptr": None}
    uneven = ("heads", "slots", "width", *(() if size % 16 == 0 else ("size",)))
    options = {} if registers is None or kind == "backward" else {"maxnreg": registers}
    kernel = getattr(addressing, kind)
    compiled = compile_ahead(kernel, arch, dtype, constants, tile[3], uneven=uneven, **options)
    assert spills(compiled, tmp_path) <= 16


@on_torch_alone
@pytest.mark.parametrize("parts", PARTS)
def test_derivatives_of_derivatives(parts):
    given, few = (leaves(operands(*sizes, parts=PARTS[parts])) for sizes in ((2, 2, 5, 3), (1, 2, 4, 2)))

    def call(*tensors: Tensor) -> Tensor:
        named = dict(zip([name for name, x in given._asdict().items() if x is not None], tensors, strict=True))
        return F.content_addressing(**named)

    assert torch.autograd.gradcheck(call, there(given))
    assert torch.autograd.gradgradcheck(call, there(few))


@on_torch_alone
def test_repeated_calls_and_threads_give_what_the_first_ones_gave():
    given, before, found = leaves(operands(64, 2, 128, 20, dtype=torch.float32)), torch.get_num_threads(), []
    try:
        for threads in (1, 1, 1, 1, 2, 2):
            torch.set_num_threads(threads)
            y = F.content_addressing(*given)
            found.append([y, *torch.autograd.grad(y.square().sum(), there(given))])
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, found[0], other)) for other in found[1:])


@on_torch_alone
def test_autocast_computes_in_the_type_of_the_memory():
    given = operands(dtype=torch.float32)
    mixed = given._replace(key=given.key.bfloat16(), strength=given.strength.double())
    with torch.autocast("cpu", torch.bfloat16):
        y = F.content_addressing(*mixed)
    expected = F.content_addressing(*given._replace(key=mixed.key.float()))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected)


@on_torch_alone
def test_triton_by_name_refuses_what_it_cannot_hold():
    memory = torch.zeros(1, 4096, 64)
    with nnkernels.backend("triton"), pytest.raises(RuntimeError, match=re.escape("(1, 4096, 64)")):
        F.content_addressing(memory, memory[:, :1], memory[:, :1, 0])


@on_torch_alone
@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"memory": torch.zeros(9, 5)}, ValueError, "(9, 5)"),
        ({"memory": [1.0]}, TypeError, "list"),
        ({"memory": torch.zeros(2, 9, 5, dtype=torch.int32)}, NotImplementedError, "int32"),
        ({"key": torch.zeros(2, 3, 4, dtype=torch.float64)}, ValueError, "(2, 3, 4)"),
        ({"key": torch.zeros(2, 3, 5)}, TypeError, "float32"),
        ({"strength": torch.zeros(2, 3, 1, dtype=torch.float64)}, ValueError, "(2, 3, 1)"),
        ({"strength": None}, TypeError, "NoneType"),
        ({"gate": None}, ValueError, "previous is given without gate"),
        ({"previous": None}, ValueError, "gate is given without previous"),
        ({"previous": torch.zeros(2, 3, 8, dtype=torch.float64)}, ValueError, "(2, 3, 8)"),
        ({"shift": torch.zeros(2, 3, 4, dtype=torch.float64)}, ValueError, "4 shares"),
        ({"sharpness": torch.zeros(3, dtype=torch.float64)}, ValueError, "(3,)"),
        ({"eps": 0.0}, ValueError, "0.0"),
        ({"eps": "little"}, TypeError, "eps"),
    ],
)
def test_bad_arguments_are_named(changes, error, named):
    with pytest.raises(error, match=re.escape(named)):
        F.content_addressing(**(operands()._asdict() | changes))


@on_torch_alone
@pytest.mark.parametrize("module", ["functional.addressing", "nn.addressing"])
def test_examples(module):
    import doctest

    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0
