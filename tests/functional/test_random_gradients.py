"""Backward draws what forward drew, for any layout, to any order, and keeps no more than it needs."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from draws import (
    BACKENDS,
    DEVICE,
    EVERY_DTYPE,
    FUNCTIONS,
    LAYOUTS,
    LOWER,
    UPPER,
    draw,
    require,
    small_tiles,  # noqa: F401  (autouse fixtures)
)
from hypothesis import given, settings
from torch import Tensor

import nnkernels
import nnkernels.functional as F
from nnkernels import dispatch

GRADS = {
    "alike": torch.ones_like,
    "expanded": lambda y: torch.ones((), device=y.device, dtype=y.dtype).expand(y.shape),
    "transposed": lambda y: torch.ones(y.shape[::-1], device=y.device, dtype=y.dtype).permute([*range(y.dim())][::-1]),
    "rows": lambda y: (
        torch.ones(*y.shape[:-1], 16 * y.shape[-1], device=y.device)[..., : y.shape[-1]] if y.dim() else y * 0 + 1
    ),
}


def meaningful_strides(x: Tensor) -> list[int]:
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1 and x.numel()]


@FUNCTIONS
@pytest.mark.parametrize("grad_layout", GRADS)
@pytest.mark.parametrize("layout", LAYOUTS)
@BACKENDS
def test_backward_draws_what_forward_drew(name, layout, grad_layout, function):
    """With a gradient of ones, the gradient is y / x: for any layout of either, in PyTorch's strides."""
    require(name)
    with nnkernels.backend(name):
        x = LAYOUTS[layout]().to(DEVICE)
        kept = x.clone()
        x.requires_grad_()
        y = draw(function, x)
        (slope,) = torch.autograd.grad(y, x, GRADS[grad_layout](y).detach())
        assert torch.equal(x, kept)
        torch.testing.assert_close(slope * x, y, rtol=3e-7, atol=0)
        assert meaningful_strides(y) == meaningful_strides(slope) == meaningful_strides(torch.empty_like(x))
        if function == "rrelu" and x.numel() > 8:
            below = slope[x < 0]
            assert (slope[x > 0] == 1).all() and below.min() >= LOWER and below.max() <= UPPER
            assert len(below.unique()) > 0.8 * len(below) if layout != "expanded" else True


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=0, max_size=4),
    order=st.randoms(use_true_random=False),
    steps=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    pad=st.integers(0, 3),
    inplace=st.booleans(),
)
def test_any_strided_view(sizes, order, steps, pad, inplace):
    dims = list(range(len(sizes)))
    order.shuffle(dims)
    base = torch.randn([sizes[d] * steps[d] + (pad if sizes[d] else 0) for d in dims])
    x = base.permute([dims.index(d) for d in range(len(sizes))])
    for d, size in enumerate(sizes):
        x = x.narrow(d, 0, size * steps[d])[(slice(None),) * d + (slice(None, None, steps[d]),)]
    start = x.clone(memory_format=torch.preserve_format)
    scale = torch.ones((), requires_grad=True)
    leaf = torch.ones_like(x).requires_grad_() if not inplace else scale
    if inplace:
        target = x.detach()
        work = target.mul_(scale)
        y = F.rrelu_(work, 0.1, 0.9, training=True)
        assert y.data_ptr() == x.data_ptr()
        (got,) = torch.autograd.grad(y.sum(), scale)
        torch.testing.assert_close(got, y.detach().sum(), rtol=1e-4, atol=1e-5)
    else:
        y = F.rrelu(x * leaf, 0.1, 0.9, training=True)
        (got,) = torch.autograd.grad(y.sum(), leaf)
        torch.testing.assert_close(got, y.detach())
    assert ((y >= 0) == (start >= 0)).all()


@FUNCTIONS
@EVERY_DTYPE
def test_gradients_of_every_dtype(function, dtype):
    x = torch.full((4000,), -1.0, dtype=dtype, device=DEVICE, requires_grad=True)
    y = draw(function, x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(slope, -y)


def seeded(function: str):
    def call(x: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            return draw(function, x)

    return call


@FUNCTIONS
def test_gradcheck(function):
    x = torch.randn(3, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    assert torch.autograd.gradcheck(seeded(function), x, check_batched_grad=True, check_forward_ad=False)
    assert torch.autograd.gradgradcheck(seeded(function), x, check_batched_grad=True)


@pytest.mark.parametrize("lower", [-0.5, 0.0])
def test_gradcheck_in_place(lower):
    """With a negative slope backward needs the input that was overwritten; else the output has its sign."""

    def call(x: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            return F.rrelu_(x * 1, lower, 0.5, training=True)

    x = torch.randn(3, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)


@FUNCTIONS
def test_forward_mode(function):
    x = torch.randn(50, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        y = draw(function, torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        value, slope = torch.autograd.forward_ad.unpack_dual(y)
    torch.testing.assert_close(value, slope * x)


@FUNCTIONS
def test_a_second_backward_gives_the_same(function):
    x = torch.randn(100, device=DEVICE, requires_grad=True)
    y = draw(function, x)
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y.sum(), x)[0])


@pytest.mark.parametrize("inplace", [False, True])
@FUNCTIONS
def test_backward_keeps_a_seed_and_at_most_one_tensor(function, inplace):
    """Where the C++ kernels draw, and are not asked to write into the input, dropout's decisions or rrelu's slopes."""
    kept = []
    stored = DEVICE == "cpu" and not inplace and not isinstance(dispatch.named("cpu"), str)
    x = torch.randn(1000, device=DEVICE, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = F.rrelu(x, training=True, inplace=inplace) if function == "rrelu" else F.dropout(x, inplace=inplace)
    if function == "dropout":
        assert sorted(t.numel() for t in kept) == ([1, 125] if stored else [1])
    elif stored:
        (slopes,) = kept
        torch.testing.assert_close(slopes, (y / x).detach(), rtol=3e-7, atol=0)
    else:
        assert sorted(t.numel() for t in kept) == [1, 1000]
        assert next(t for t in kept if t.numel() > 1).data_ptr() == x.data_ptr()
    assert (y is x) == inplace


@pytest.mark.parametrize("layout", ["channels_last", "permuted", "half"])
def test_hooks_may_hand_the_input_back_in_other_strides(layout):
    x = LAYOUTS[layout]().to(DEVICE).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous()):
        y = F.rrelu(x, training=True)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope * x, y)
