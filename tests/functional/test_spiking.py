"""Spiking neurons against a loop of torch operations with a Function for the step: values, gradients, layouts.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported, and
are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_tools import DTYPES, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret, on_each_backend, spills

import nnkernels.functional as F
from nnkernels.contracts.spiking import RESETS, SURROGATES

DERIVATIVES = {
    "fast_sigmoid": lambda z: (1 + z.abs()).pow(-2),
    "arctan": lambda z: 1 / (1 + z.square()),
    "triangular": lambda z: (1 - z.abs()).clamp(min=0),
    "sigmoid": lambda z: 4 * torch.sigmoid(z) * (1 - torch.sigmoid(z)),
}

on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


device = on_each_backend("cpu", "reference", "triton")


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, above: Tensor, surrogate: str, slope: float) -> Tensor:
        ctx.save_for_backward(above)
        ctx.constants = surrogate, slope
        return (above > 0).to(above)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        surrogate, slope = ctx.constants
        return grad * DERIVATIVES[surrogate](slope * ctx.saved_tensors[0]), None, None


def truth(
    current: Tensor,
    *,
    decay: float = 0.9,
    threshold: float = 1.0,
    surrogate: str = "fast_sigmoid",
    slope: float = 5.0,
    reset: str = "subtract",
    detach_reset: bool = True,
    v0: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes, the last potential, and for each neuron how near to the threshold it ever was."""
    v = torch.zeros_like(current[0]) if v0 is None else v0
    spike = Step.apply(v - threshold, surrogate, slope)
    spikes, nearest = [], torch.full_like(v, torch.inf)
    for received in current.unbind(0):
        fired = spike.detach() if detach_reset else spike
        kept = decay * v - threshold * fired if reset == "subtract" else decay * v * (1 - fired)
        v = kept + received
        nearest = torch.minimum(nearest, (v.detach() - threshold).abs())
        spike = Step.apply(v - threshold, surrogate, slope)
        spikes.append(spike)
    return torch.stack(spikes), v, nearest


def currents(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


LIMIT = {torch.float64: 1e-13, torch.float32: 2e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}
"""Of a gradient's error in its own size. Sums over time cancel, whence more than a rounding in the wide types."""


def check(current: Tensor, v0: Tensor | None = None, potential: bool = False, **constants: Any) -> None:
    """Against the truth in float64; but for neurons so near to the threshold that their rounding decides."""
    given = [current, *([] if v0 is None else [v0])]
    ours = [x.detach().requires_grad_() for x in given]
    wide = [x.detach().double().requires_grad_() for x in given]
    found = F.lif(ours[0], v0=ours[1] if v0 is not None else None, return_potential=potential, **constants)
    spikes, last, nearest = truth(wide[0], v0=wide[1] if v0 is not None else None, **constants)
    sure = nearest > {torch.float64: 1e-12}.get(current.dtype, 1e-5)
    assert sure.double().mean() > 0.9 or not sure.numel()

    got, exact = (found, (spikes, last)) if potential else ((found,), (spikes,))
    assert torch.equal(got[0][:, sure], spikes[:, sure].to(current.dtype)) and got[0].dtype == current.dtype
    limit = LIMIT[current.dtype]
    if potential:
        torch.testing.assert_close(got[1].double()[sure], last[sure], rtol=limit, atol=limit)
    grads = [torch.randn_like(one, dtype=torch.float64).to(one.dtype) for one in got]
    mine = torch.autograd.grad(got, ours, grads)
    theirs = torch.autograd.grad(exact, wide, [one.double() for one in grads])
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == current.dtype
        torch.testing.assert_close(a.double()[..., sure], b[..., sure], rtol=limit, atol=limit)


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("kind", DTYPES)
def test_values_and_gradients(device, kind, surrogate, reset, detach):
    x, v0 = currents(6, 3, 7, dtype=DTYPES[kind], device=device), currents(3, 7, dtype=DTYPES[kind], device=device)
    constants = dict(surrogate=surrogate, reset=reset, detach_reset=detach)
    check(x, **constants)
    check(x, v0, potential=True, decay=0.8, threshold=0.6, slope=2.0, **constants)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 16, 17, 32, 45])
def test_any_number_of_steps(device, steps, reset):
    x, v0 = currents(steps, 37, device=device), currents(37, device=device)
    check(x, reset=reset, detach_reset=False)
    check(x, v0, potential=True, reset=reset, detach_reset=False)


@on_torch_alone
@pytest.mark.parametrize("neurons", [2047, 4097, 9001])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_several_tiles(device, neurons, kind):
    check(currents(4, neurons, dtype=DTYPES[kind], device=device))
    check(currents(neurons, 3, 2, dtype=DTYPES[kind], device=device).transpose(0, 1))


@on_torch_alone
def test_so_many_steps_that_a_tile_gets_smaller(device):
    check(currents(700, 130, device=device), detach_reset=False)


def _layouts(x: Tensor) -> dict[str, Tensor]:
    """Ways in which steps, images, channels and so on of x lie in memory."""
    steps, *_ = x.shape
    return {
        "contiguous": x,
        "channels_last": x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (steps, -1)),
        "batch first": x.transpose(0, 1).contiguous().transpose(0, 1),
        "time last": x.movedim(0, -1).contiguous().movedim(-1, 0),
        "permuted": x.permute(3, 1, 4, 0, 2).contiguous().permute(3, 1, 4, 0, 2),
        "half": torch.cat([x, x], -1)[..., : x.shape[-1]],
        "channels-half": torch.cat([x, x], 2)[:, :, : x.shape[2]],
        "every other": torch.stack([x, x], -1)[..., 0],
        "every other step": torch.stack([x, x], 1)[:, 0],
        "expanded over time": x[:1].expand(steps, *x.shape[1:]),
        "expanded over channels": x[:, :, :1].expand(x.shape),
        "unaligned": torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
    }


@pytest.mark.parametrize("kind", ["fp64", "bf16"])
@pytest.mark.parametrize("layout", _layouts(torch.empty(1, 1, 1, 1, 1)))
def test_layouts(device, layout, kind):
    x = _layouts(currents(5, 2, 3, 4, 3, dtype=DTYPES[kind], device=device))[layout]
    kept = x.clone()
    check(x, potential=True)
    check(x, currents(4, 3, 3, 2, dtype=DTYPES[kind], device=device).permute(3, 2, 0, 1))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("layout", ["channels_last", "batch first", "time last", "permuted"])
def test_spikes_and_gradient_lie_as_the_current_does(device, layout):
    x = _layouts(currents(5, 2, 3, 4, 3, device=device))[layout].requires_grad_()
    spikes, potential = F.lif(x, return_potential=True)
    spikes_alone = F.lif(x)
    (grad,) = torch.autograd.grad(spikes_alone.sum(), x)
    assert spikes_alone.stride() == x.stride() == grad.stride()
    assert torch.equal(spikes, spikes_alone) and potential.shape == x.shape[1:]


@pytest.mark.parametrize("grad_layout", ["expanded", "transposed", "strided"])
def test_gradients_of_any_strides(device, grad_layout):
    x = currents(6, 4, 5, device=device).requires_grad_()
    grad = {
        "expanded": torch.tensor(0.5, device=device, dtype=torch.float64).expand(6, 4, 5),
        "transposed": currents(5, 4, 6, device=device).permute(2, 1, 0),
        "strided": currents(6, 4, 10, device=device)[..., ::2],
    }[grad_layout]
    kept = grad.clone()
    y, exact = F.lif(x), truth(x)[0]
    for _ in range(2):
        got = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
        torch.testing.assert_close(got, torch.autograd.grad(exact, x, grad, retain_graph=True)[0])
    assert torch.equal(grad, kept)


@pytest.mark.parametrize("shape", [(3, 0), (1, 0, 4), (2, 4, 0)])
def test_no_neurons(device, shape):
    x, v0 = torch.empty(shape, device=device).requires_grad_(), torch.empty(shape[1:], device=device).requires_grad_()
    spikes, potential = F.lif(x, v0=v0, return_potential=True)
    assert spikes.shape == shape and potential.shape == shape[1:]
    assert [grad.shape for grad in torch.autograd.grad(spikes.sum() + potential.sum(), (x, v0))] == [shape, shape[1:]]


def test_a_single_neuron(device):
    check(currents(9, device=device), currents(1, device=device)[0], potential=True)


@pytest.mark.parametrize("reset", RESETS)
def test_pieces_of_time_joined_by_the_potential_are_the_whole(device, reset):
    x = currents(11, 6, device=device).requires_grad_()
    constants = dict(reset=reset, detach_reset=False)
    whole = F.lif(x, **constants)
    first, potential = F.lif(x[:4], return_potential=True, **constants)
    joined = torch.cat([first, F.lif(x[4:], v0=potential, **constants)])
    assert torch.equal(joined, whole)
    grad = currents(11, 6, device=device, seed=1)
    got, exact = (torch.autograd.grad(y, x, grad)[0] for y in (joined, whole))
    torch.testing.assert_close(got, exact)


def test_nan_stays_nan_and_keeps_to_its_neuron(device):
    x = currents(6, 4, dtype=torch.float32, device=device)
    x[2, 1] = torch.nan
    x.requires_grad_()
    y = F.lif(x)
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[2:, 1] = True
    assert torch.equal(y.isnan(), expected)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert grad[2:, 1].isnan().all() and not grad[:, [0, 2, 3]].isnan().any()


def test_backward_keeps_the_current_and_nothing_else(device):
    x = currents(16, 32, device=device).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        F.lif(x)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not fp16 and (not layouts or fp64) and not (values and fp32)")


def _compiled(kind: str, dtype: str, arch: str, surrogate: str, steps: int, by_rows: bool, reset: str) -> Any:
    """What `lif` and `lif_backward` would have compiled for contiguous tensors; in rows, without the optional ones."""
    from nnkernels.triton import spiking

    each = spiking.most(DTYPES[dtype]) // (2 if kind == "backward" else 1)
    segment = min(spiking.SEGMENT if kind == "backward" else spiking.AHEAD, steps)
    given = not by_rows
    constants: dict[str, Any] = {
        "START": given, "POTENTIAL": given, "GRAD_START": given, "SUBTRACT": reset == "subtract", "DETACH": False,
        "KIND": surrogate, "EVEN": steps % segment == 0, "SEGMENT": segment, "AHEAD": segment, "BY_ROWS": by_rows,
        "LONG": steps > segment, "BLOCK": each * 32 * spiking.NUM_WARPS,
        **{f"{name}_col": 1 for name in ("x", "y", "start", "potential", "grad", "grad_potential", "grad_x",
                                         "grad_start")},
    }  # fmt: skip
    if not given:
        constants |= dict.fromkeys(("start_ptr", "potential_ptr", "grad_potential_ptr", "grad_start_ptr"))
    if steps <= segment:
        constants["begun_ptr"] = None
    types = {"begun_ptr": "*fp64" if dtype == "fp64" else "*fp32"}
    return compile_ahead(
        getattr(spiking, kind), arch, dtype, constants, spiking.NUM_WARPS, types, ("steps", "segments", "neurons")
    )


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu_without_spilling(arch, fresh_cache, tmp_path):
    cases = [("bf16", "fast_sigmoid", 16, True, "subtract"), ("fp32", "sigmoid", 45, True, "zero"),
             ("fp64", "arctan", 4, False, "subtract"), ("fp16", "triangular", 16, False, "zero")]  # fmt: skip
    for kind, (dtype, surrogate, steps, by_rows, reset) in itertools.product(("forward", "backward"), cases):
        compiled = _compiled(kind, dtype, arch, surrogate, steps, by_rows, reset)
        assert spills(compiled, tmp_path) == 0, (kind, dtype, surrogate)


@compiles
@pytest.mark.parametrize(("kind", "width", "loads", "stores"), [("forward", 4, 8, 8), ("backward", 2, 32, 16)])
def test_all_of_a_threads_neurons_are_moved_at_once(kind, width, loads, stores, fresh_cache):
    ptx = _compiled(kind, "fp32", "sm_90", "fast_sigmoid", 16, True, "subtract").asm["ptx"]
    assert ptx.count(f"ld.global.v{width}.b32") >= loads and ptx.count(f"st.global.v{width}.b32") >= stores
