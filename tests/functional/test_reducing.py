"""softmax and its kin: every backend against float64, in every layout, with scales, masks and the causal form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels.functional as F
from nnkernels import dispatch, nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [((5, 7), -1), ((3, 1000), -1), ((2, 3, 4, 5), 1), ((2, 20_000), -1), ((4, 300, 9), 1), ((6,), 0)]


@pytest.fixture
def device(chosen):
    return chosen


def truth(x, dim, log=False, scale=1.0, mask=None, causal=False):
    """In float64; rows of which nothing is left are 0."""
    z = x.double() * scale
    if mask is not None:
        z = z.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else z + mask.double()
    if causal:
        dim %= x.dim()
        keep = torch.ones(x.shape[dim - 1], x.shape[dim], dtype=torch.bool, device=x.device).tril()
        z = z.masked_fill(~keep.view(*keep.shape, *[1] * (x.dim() - dim - 1)), -torch.inf)
    empty = (z == -torch.inf).all(dim, keepdim=True)
    z = z.masked_fill(empty, 0.0)
    if log:
        return torch.log_softmax(z, dim).masked_fill(empty, -torch.inf)
    return torch.softmax(z, dim).masked_fill(empty, 0.0)


def options(kind, shape):
    if kind == "keep":
        keep = torch.rand(shape) > 0.3
        keep.view(-1)[0] = True
        return {"mask": keep}
    return {
        "plain": {},
        "scale": {"scale": 0.3},
        "negative": {"scale": -2.0},
        "add": {"mask": torch.randn(shape[-1])},
        "causal": {"causal": True},
    }[kind]


@pytest.mark.parametrize("kind", ["plain", "scale", "negative", "keep", "add", "causal"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_value_and_gradient(shape, dim, dtype, kind, device):
    if kind == "causal" and (len(shape) == 1 or shape[dim] > 1000):
        pytest.skip("needs a dimension of queries, of a size worth its time")
    torch.manual_seed(1)
    x = (torch.randn(shape) * 3).to(device, dtype).requires_grad_()
    chosen = {name: one.to(device) if torch.is_tensor(one) else one for name, one in options(kind, shape).items()}
    # The truth is in float64 as well, where a logit's rounding shows in its exponential.
    eps = torch.finfo(dtype).eps * (16 if dtype == torch.float64 else 1)
    for log, function in ((False, F.softmax), (True, F.log_softmax)):
        y = function(x, dim, **chosen)
        exact = truth(x.detach(), dim, log, **chosen)
        finite = exact.isfinite()
        assert torch.equal(y.detach()[~finite].double(), exact[~finite])
        # torch's log_softmax is itself off by an epsilon of 1.
        size = exact[finite].abs() + (1.0 if log and dtype == torch.float64 else 0.0)
        assert ((y.detach() - exact)[finite].abs() <= 4 * eps * size + torch.finfo(dtype).tiny).all()
        grad = torch.randn(shape).to(device, dtype)
        (found,) = torch.autograd.grad(y, x, grad)
        scale = chosen.get("scale", 1.0)
        p, g = truth(x.detach(), dim, **chosen), grad.double()
        want = scale * ((g.masked_fill(~finite, 0.0) - p * g.masked_fill(~finite, 0.0).sum(dim, keepdim=True))
                        if log else p * (g - (g * p).sum(dim, keepdim=True)))  # fmt: skip
        want = want.masked_fill(~finite, 0.0)
        # From a rounded output: errors count in what the row's terms are made of.
        terms = p * g.abs().sum(dim, keepdim=True) + g.abs() * (1 if log else p)
        assert ((found - want).abs() <= 16 * eps * abs(scale) * terms + torch.finfo(dtype).tiny).all()


@settings(max_examples=60, deadline=None)
@given(shape=st.lists(st.integers(0, 6), min_size=0, max_size=4), dim=st.integers(-4, 3), layout=st.booleans())
def test_any_shape_is_torchs(shape, dim, layout):
    x = torch.randn(shape, dtype=torch.float64)
    x = x.transpose(0, -1) if layout and len(shape) > 1 else x
    dim = dim % len(shape) if shape else 0
    for ours, theirs in ((F.softmax, torch.softmax), (F.log_softmax, torch.log_softmax)):
        y, z = ours(x, dim), theirs(x, dim)
        assert torch.allclose(y, z, rtol=1e-13, atol=1e-15, equal_nan=True) and y.stride() == z.stride()
    assert torch.allclose(F.softmin(x, dim), torch.softmax(-x, dim), rtol=1e-13, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_large_logits_and_long_rows(dtype, device):
    shift = torch.tensor([1e4, -1e4, 0.0]).unsqueeze(1)
    cols = 20_000 if device == "cpu" and dispatch.chosen() == "triton" else 262_144
    x = (torch.randn(3, cols) + shift).to(device, dtype)
    x[2, 5] = 3e4
    y, exact = F.softmax(x, -1), truth(x, -1)
    eps = torch.finfo(dtype).eps
    assert ((y - exact).abs() <= 4 * eps * exact + torch.finfo(dtype).tiny).all()
    off = (F.log_softmax(x, -1) - truth(x, -1, log=True)).abs()
    assert (off[:2] <= 4 * eps * 16).all()


def assert_close(x, dim, grad):
    """Both functions and their gradients, against float64."""
    eps = torch.finfo(x.dtype).eps
    for log, function in ((False, F.softmax), (True, F.log_softmax)):
        x = x.detach().requires_grad_()
        y = function(x, dim)
        exact = truth(x.detach(), dim, log)
        assert ((y - exact).abs() <= 4 * eps * exact.abs() + torch.finfo(x.dtype).tiny).all()
        (found,) = torch.autograd.grad(y, x, grad)
        p, g = truth(x.detach(), dim), grad.double()
        want = g - p * g.sum(dim, keepdim=True) if log else p * (g - (g * p).sum(dim, keepdim=True))
        terms = p * g.abs().sum(dim, keepdim=True) + g.abs() * (1 if log else p)
        assert ((found - want).abs() <= 16 * eps * terms + torch.finfo(x.dtype).tiny).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("cols", [1021, 1024, 1025, 4097, 16_381])
def test_rows_that_begin_between_vectors(cols, dtype, device):
    torch.manual_seed(2)
    x, grad = (torch.randn(3, 2 * cols).to(device, dtype) for _ in range(2))
    assert_close(x[:, :cols].contiguous(), -1, grad[:, :cols].contiguous())
    assert_close(x[:, cols:], -1, grad[:, cols:])  # rows further apart than they are long


def test_what_is_masked_is_zero_and_has_no_gradient(device):
    x = torch.randn(3, 5, device=device, requires_grad=True)
    keep = torch.tensor([[True, False, True, True, False], [False] * 5, [True] * 5], device=device)
    y = F.softmax(x, -1, mask=keep)
    assert (y[~keep] == 0).all() and y[1].sum() == 0 and torch.allclose(y[2], torch.softmax(x[2], -1))
    assert F.log_softmax(x, -1, mask=keep)[1].isneginf().all()
    (grad,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert (grad[~keep] == 0).all()
    assert torch.softmax(torch.full((2,), -torch.inf), 0).isnan().all()
    assert F.softmax(torch.full((2,), -torch.inf, device=device), 0).isnan().all()  # without a mask as torch does


def test_derivatives_of_every_order():
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 1, 5) > 0.2
    for function in (F.softmax, F.log_softmax, F.softmin):
        for more in ({}, {"scale": 0.5}, {"causal": True}, {"mask": keep}):
            if function is F.log_softmax and more:
                continue  # infinite where masked
            assert torch.autograd.gradcheck(lambda x, f=function, more=more: f(x, -1, **more), (x,))
            assert torch.autograd.gradgradcheck(lambda x, f=function, more=more: f(x, -1, **more), (x,))
    assert torch.autograd.gradcheck(lambda x, bias: F.softmax(x, -1, mask=bias), (x, bias))


def test_the_same_for_any_number_of_threads():
    x = torch.randn(64, 5000)
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        found.append(F.softmax(x, -1))
    torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_backward_keeps_the_output_alone():
    kept = []
    x = torch.randn(8, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = F.softmax(x, -1)
    assert [tensor.data_ptr() for tensor in kept] == [y.data_ptr()]


@pytest.mark.parametrize(
    ("error", "says", "call"),
    [
        (Exception, r"\(3, 4\).*\(2, 5\)|\(2, 5\).*\(3, 4\)", lambda x: F.softmax(x, -1, mask=torch.ones(2, 5))),
        (Exception, "int64", lambda x: F.softmax(x, -1, mask=torch.ones(4, dtype=torch.int64))),
        (IndexError, "2", lambda x: F.softmax(x, 2)),
        (Exception, "causal", lambda x: F.softmax(x[0], -1, causal=True)),
    ],
)
def test_bad_input_is_named(error, says, call):
    with pytest.raises(error, match=says):
        call(torch.randn(3, 4))


def test_modules_are_torchs():
    x = torch.randn(2, 3, 4, 5)
    for name, arguments in (("Softmax", (1,)), ("LogSoftmax", (1,)), ("Softmin", (1,)), ("Softmax2d", ())):
        ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
        assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
        assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
