"""The product with a broadcast factor: as torch's composition says, in every layout and combination of types.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported, and
are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_tools import DTYPES, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret, on_each_backend, spills

import nnkernels
import nnkernels.functional as F
from nnkernels import nn
from nnkernels.autograd.scaling import frame_of
from nnkernels.contracts.scaling import Frame
from nnkernels.registry import IDENTITY, Activation, catalogue, elementwise

ORDERS = {"contiguous": (0, 1, 2, 3), "channels_last": (0, 2, 3, 1), "swapped": (1, 0, 2, 3)}
SHAPES = {
    "gate": ((2, 5, 7, 7), (2, 5, 1, 1)),
    "gate over many pixels": ((1, 3, 70, 60), (1, 3, 1, 1)),
    "gate over one pixel": ((3, 8, 1, 1), (3, 8, 1, 1)),
    "layer scale": ((6, 9, 4, 12), (12,)),
    "layer scale of many rows": ((9, 25, 40, 3), (3,)),
    "channels": ((3, 5, 4, 4), (5, 1, 1)),
    "samples": ((3, 5, 4, 4), (3, 1, 1, 1)),
    "single": ((3, 5, 4, 4), (1,)),
    "everything": ((2, 3, 4, 5), (2, 3, 4, 5)),
    "pixels": ((2, 3, 4, 5), (4, 5)),
}
TYPES = [*itertools.product(DTYPES, DTYPES, [None, *DTYPES])]

on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


device = on_each_backend("cpu", "reference", "triton")


def leaf(shape: tuple[int, ...], dtype: torch.dtype, device: str, order: tuple[int, ...] | None = None) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64)
    if order is not None:
        x = x.permute(order).contiguous().permute([order.index(d) for d in range(len(order))])
    return x.to(device, dtype).requires_grad_()


def composition(x: Tensor, scale: Tensor, residual: Tensor | None = None) -> Tensor:
    y = x * torch.sigmoid(scale)
    return y if residual is None else y + residual


def check(x: Tensor, scale: Tensor, residual: Tensor | None, grad: Tensor | None = None) -> None:
    """Value and gradients against float64 within a few roundings of what is summed, types and strides against torch."""
    given = [tensor for tensor in (x, scale, residual) if tensor is not None]
    y = F.scale_act(x, scale, "sigmoid", residual=residual)
    eager = composition(*given)
    assert y.dtype == eager.dtype and y.stride() == torch.empty_like(x).stride()
    exact_given = [tensor.detach().double().requires_grad_() for tensor in given]
    exact = composition(*exact_given)
    grad = torch.randn_like(y) if grad is None else grad.to(y)
    found = torch.autograd.grad(y, given, grad)
    wanted = torch.autograd.grad(exact, exact_given, grad.double())
    around = torch.autograd.grad(composition(*(t.abs() for t in exact_given)), exact_given, grad.double().abs())
    for got, want, size, like in zip(
        (y, *found), (exact, *wanted), (exact.abs() + 1, *around), (eager, *given), strict=True
    ):
        assert got.dtype == like.dtype and got.shape == like.shape
        eps = torch.finfo(like.dtype).eps + 8 * torch.finfo(torch.promote_types(y.dtype, torch.float32)).eps
        subnormal = torch.finfo(like.dtype).smallest_normal * torch.finfo(like.dtype).eps
        assert ((got - want).abs() <= eps * (want.abs() + size.abs()) + subnormal).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_in_every_layout(shape: str, order: str, device: str):
    sizes, scales = SHAPES[shape]
    x = leaf(sizes, torch.float32, device, ORDERS[order])
    if frame_of(sizes, x.stride(), scales) is None:
        pytest.skip("left to torch operations")
    check(x, leaf(scales, torch.float32, device), leaf(sizes, torch.float32, device))


@pytest.mark.parametrize(("x", "scale", "residual"), TYPES)
def test_values_and_gradients_in_all_types(x: str, scale: str, residual: str | None, device: str):
    shape = (2, 5, 6, 4)
    added = None if residual is None else leaf(shape, DTYPES[residual], device)
    check(leaf(shape, DTYPES[x], device), leaf((2, 5, 1, 1), DTYPES[scale], device), added)
    check(leaf(shape, DTYPES[x], device), leaf((4,), DTYPES[scale], device), added)


@pytest.mark.parametrize("grad", ["expanded", "transposed", "rows"])
def test_gradients_and_inputs_of_any_strides(grad: str, device: str):
    x = leaf((4, 6, 10), torch.float32, device)
    given = {
        "expanded": torch.tensor(0.5, device=device).expand(4, 6, 10),
        "transposed": torch.randn(10, 6, 4, device=device).permute(2, 1, 0),
        "rows": torch.randn(4, 6, 20, device=device)[..., :10],
    }[grad]
    check(x, leaf((10,), torch.float32, device), None, given)
    wide = torch.randn(4, 6, 20, device=device).requires_grad_()
    scale = torch.randn(2, 10, device=device).requires_grad_()
    y = F.scale_act(wide.chunk(2, -1)[1], scale.t()[:, 0], residual=given)
    torch.testing.assert_close(y, wide[..., 10:] * scale[0] + given)
    y.backward(given)
    torch.testing.assert_close(scale.grad[0], (given * wide[..., 10:]).sum((0, 1)))
    torch.testing.assert_close(wide.grad[..., 10:], given * scale[0])
    assert not scale.grad[1].any() and not wide.grad[..., :10].any()


def test_a_residual_that_broadcasts(device: str):
    x, scale = leaf((3, 4, 5), torch.bfloat16, device), leaf((5,), torch.float32, device)
    residual = leaf((4, 1), torch.float32, device)
    y = F.scale_act(x, scale, residual=residual)
    torch.testing.assert_close(y, x * scale + residual)
    y.sum().backward()
    torch.testing.assert_close(residual.grad, torch.full((4, 1), 15.0, device=device))


@pytest.mark.parametrize("wanted", [*itertools.product([False, True], repeat=3)][1:], ids=str)
def test_gradients_are_made_for_those_who_ask(wanted: tuple[bool, ...], device: str):
    given = [leaf(shape, torch.float32, device) for shape in ((6, 4), (4,), (6, 4))]
    asking = [tensor for tensor, wants in zip(given, wanted, strict=True) if wants]
    whole = torch.autograd.grad(F.scale_act(given[0], given[1], "tanh", residual=given[2]).sum(), given)
    for tensor, wants in zip(given, wanted, strict=True):
        tensor.requires_grad_(wants)
    some = torch.autograd.grad(F.scale_act(given[0], given[1], "tanh", residual=given[2]).sum(), asking)
    expected = [gradient for gradient, wants in zip(whole, wanted, strict=True) if wants]
    assert all(torch.equal(one, other) for one, other in zip(some, expected, strict=True))


def test_the_same_call_gives_the_same_bits(device: str):
    x, scale = leaf((30, 50, 3), torch.float32, device), leaf((3,), torch.float32, device)
    grad = torch.randn_like(x)
    first, second = (torch.autograd.grad(F.scale_act(x, scale), (x, scale), grad) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", [*(row.name for row in catalogue(Activation)), IDENTITY.name])
def test_every_activation(name: str, device: str):
    constants = {"threshold": 0.5, "value": 0.25} if name == "threshold" else {}
    x, scale = leaf((4, 6), torch.float64, device), leaf((4, 1), torch.float64, device)
    y = F.scale_act(x, scale, name, **constants)
    factor = scale if name == IDENTITY.name else getattr(F, name)(scale, **constants)
    torch.testing.assert_close(y, x * factor)
    grad = torch.randn_like(y)
    for got, want in zip(*(torch.autograd.grad(one, (x, scale), grad) for one in (y, x * factor)), strict=True):
        torch.testing.assert_close(got, want)


def test_a_closed_gate_hides_what_is_infinite(device: str):
    x = torch.tensor([[torch.inf, 1.0], [torch.nan, 2.0]], device=device)
    scale = torch.tensor([[-1.0], [1.0]], device=device, requires_grad=True)
    F.scale_act(x, scale, "relu").sum().backward()
    assert scale.grad.flatten()[0] == 0 and scale.grad.flatten()[1].isnan()


@on_torch_alone
@pytest.mark.parametrize("scale", [(2, 3, 1, 1), (4,), (3, 1, 4), (2, 1, 2, 1), (), (1, 1)], ids=str)
def test_second_derivatives(scale: tuple[int, ...]):
    given = (
        leaf((2, 3, 2, 4), torch.float64, "cpu"),
        leaf(scale, torch.float64, "cpu"),
        leaf((2, 4), torch.float64, "cpu"),
    )

    def call(x: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
        return F.scale_act(x, scale, "silu", residual=residual)

    assert torch.autograd.gradcheck(call, given) and torch.autograd.gradgradcheck(call, given)


@on_torch_alone
def test_scales_that_vary_along_dimensions_apart_are_composed_and_refused_by_name():
    x, scale = leaf((2, 3, 4, 5), torch.float32, "cpu"), leaf((2, 1, 4, 1), torch.float32, "cpu")
    check(x, scale, None)
    with (
        nnkernels.backend("cpu"),
        pytest.raises(RuntimeError, match=re.escape("(2, 3, 4, 5) with a scale of (2, 1, 4, 1)")),
    ):
        F.scale_act(x, scale)


@on_torch_alone
@pytest.mark.parametrize(("shape", "scale"), [((0, 3, 4), (4,)), ((2, 0, 4, 4), (2, 0, 1, 1)), ((), ())], ids=str)
def test_empty_and_single_tensors(shape: tuple[int, ...], scale: tuple[int, ...]):
    x, factor = leaf(shape, torch.float32, "cpu"), leaf(scale, torch.float32, "cpu")
    y = F.scale_act(x, factor, residual=torch.ones(shape))
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    torch.testing.assert_close(factor.grad, x.detach().sum_to_size(scale))


def test_the_result_may_be_written_in_place(device: str):
    x, scale = (
        leaf((3, 4, 5, 6), torch.float32, device, ORDERS["channels_last"]),
        leaf((3, 4, 1, 1), torch.float32, device),
    )
    F.scale_act(x, scale).add_(1).mul_(2).sum().backward()
    torch.testing.assert_close(scale.grad, 2 * x.detach().sum((2, 3), keepdim=True))


@on_torch_alone
def test_types_are_promoted_as_torch_does():
    for kinds in itertools.product((torch.bfloat16, torch.float32, torch.float64), repeat=3):
        for shapes in itertools.product(((2, 3), ()), ((3,), ()), ((3,), ())):
            if shapes[0] or shapes == ((), (), ()):
                x, scale, residual = (torch.ones(s, dtype=kind) for s, kind in zip(shapes, kinds, strict=True))
                assert F.scale_act(x, scale, residual=residual).dtype == (x * scale + residual).dtype


@on_torch_alone
@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda x: F.scale_act(x, torch.ones(4)), ValueError, "scale of shape (4,) does not broadcast to"),
        (lambda x: F.scale_act(x[0], torch.ones(2, 3)), ValueError, "(2, 3)"),
        (lambda x: F.scale_act(x[:, :1], torch.ones(3)), ValueError, "(2, 1)"),
        (lambda x: F.scale_act(x, torch.ones(3), residual=torch.ones(5, 3)), ValueError, "residual of shape (5, 3)"),
        (lambda x: F.scale_act(x, torch.ones(3), "prelu"), ValueError, "prelu"),
        (lambda x: F.scale_act(x, torch.ones(3), "relu", beta=1), TypeError, "beta"),
        (lambda x: F.scale_act(x, torch.ones(3).int()), NotImplementedError, "int32"),
        (lambda x: F.scale_act(x, 2.0), TypeError, "float"),
        (lambda x: F.scale_act(x, torch.ones(3, device="meta")), ValueError, "meta"),
        (lambda x: nn.LayerScale(3, channel_dim=2)(x), IndexError, "channel_dim=2"),
        (lambda x: nn.LayerScale(4)(x), ValueError, "(4,)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call: Any, error: type[Exception], told: str):
    with pytest.raises(error, match=re.escape(told)):
        call(torch.ones(2, 3))


@on_torch_alone
def test_layer_scale_is_a_module_like_timms():
    module = nn.LayerScale(6, 0.25, channel_dim=1)
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == {"gamma": (6,)}
    x, shortcut = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(module(x, shortcut), x / 4 + shortcut)
    assert repr(module) == "LayerScale(6, init_values=0.25, channel_dim=1)"
    assert repr(nn.LayerScale(6)) == "LayerScale(6, init_values=1e-05)"


@on_torch_alone
def test_how_tensors_lie_for_a_scale():
    assert frame_of((2, 3, 4, 4), (48, 16, 4, 1), (2, 3, 1, 1)) == Frame(1, 6, 16, False, 6)
    assert frame_of((2, 3, 4, 4), (48, 1, 12, 3), (2, 3, 1, 1)) == Frame(2, 16, 3, True, 6)
    assert frame_of((2, 3, 4, 4), (48, 16, 4, 1), (3, 1, 1)) == Frame(1, 6, 16, False, 3)
    assert frame_of((2, 3, 4, 4), (48, 1, 12, 3), (3, 1, 1)) == Frame(1, 32, 3, True, 3)
    assert frame_of((5, 7, 9), (63, 9, 1), (9,)) == Frame(1, 35, 9, True, 9)
    assert frame_of((5, 7), (7, 1), ()) == Frame(1, 1, 35, False, 1)
    assert frame_of((5, 7), (7, 1), (5, 7)) == Frame(1, 1, 35, True, 35)
    assert frame_of((), (), ()) == Frame(1, 1, 1, False, 1)
    assert frame_of((2, 3, 4, 4), (48, 16, 4, 1), (2, 1, 4, 1)) is None
    assert frame_of((5, 7), (1, 5), (5, 7)) is None  # the scale lies in another order


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not fp16 and not every_activation or every_activation and sigmoid")


def _compiled(kind: str, frame: Frame, dtype: str, arch: str) -> Any:
    """What a gate or a layer scale of float32 has compiled for a tensor that lies as `frame` says."""
    from nnkernels.triton import scaling
    from nnkernels.triton.activations import FORMULAS

    *_, vector, block_rows, block_cols = scaling._tiles(frame, DTYPES[dtype].itemsize, kind == "_backward")
    formula = FORMULAS["sigmoid"]
    constants = {
        "VALUE": formula.value, "D1": formula.d1, "MASKS": elementwise("sigmoid").masks,
        "BY_COLUMNS": frame.by_columns, "VECTOR": vector, "BLOCK_ROWS": block_rows, "BLOCK_COLS": block_cols,
        "STAGES": scaling._STAGES, "partial_ptr": None,
    }  # fmt: skip
    uneven = ("rows", "factors", "steps", *(["cols"] if frame.cols % 16 else []))
    types = {"scale_ptr": "*fp32", "grad_scale_ptr": "*fp32"}
    return compile_ahead(getattr(scaling, kind), arch, dtype, constants, scaling._NUM_WARPS, types, uneven)


FRAMES = {
    "rows": Frame(1, 8192, 12544, False, 8192),
    "short rows": Frame(1, 172032, 196, False, 172032),
    "columns": Frame(256, 12544, 32, True, 8192),
    "many rows": Frame(1, 400_000, 96, True, 96),
}


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
@pytest.mark.parametrize("frame", FRAMES)
def test_compiles_for_every_gpu_without_spilling(frame: str, arch: str, fresh_cache: Any, tmp_path: Any):
    for kind, dtype in itertools.product(("_forward", "_backward"), ("bf16", "fp32", "fp64")):
        assert spills(_compiled(kind, FRAMES[frame], dtype, arch), tmp_path) == 0, (kind, dtype)


@compiles
@pytest.mark.parametrize(("frame", "width"), [("rows", 4), ("short rows", 2), ("columns", 4), ("many rows", 4)])
def test_memory_accesses_are_as_wide_as_rows_allow(frame: str, width: int, fresh_cache: Any):
    ptx = _compiled("_forward", FRAMES[frame], "bf16", "sm_90").asm["ptx"]
    assert set(re.findall(r"st\.global\S*", ptx)) == {f"st.global.v{width}.b32"}
    assert f"ld.global.v{width}.b32" in ptx
