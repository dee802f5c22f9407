"""The gradients of softmax and its kin: as exact as their type allows, of every order, from what is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from triton_tools import INTERPRETED

import nnkernels
import nnkernels.functional as F

HALVES = [torch.bfloat16, torch.float16]
SHAPES = [((5, 7), 1), ((2, 1500), 1), ((3, 40, 9), 1), ((6,), 0), ((300, 3), 0)]


@pytest.fixture
def device(chosen):
    return chosen


def ideal(x, grad, dim, scale=1.0, mask=None, causal=False):
    """log_softmax's gradient in float64."""
    dim %= x.dim()
    z = x.double() * scale
    here = torch.ones_like(z, dtype=torch.bool)
    if mask is not None:
        here = mask.expand(x.shape) if mask.dtype == torch.bool else (mask != -torch.inf).expand(x.shape)
        z = z if mask.dtype == torch.bool else z + mask.double()
    if causal:
        rows = torch.ones(x.shape[dim - 1], x.shape[dim], dtype=torch.bool, device=x.device).tril()
        here = here & rows.view(*rows.shape, *[1] * (x.dim() - dim - 1))
    z, g = z.masked_fill(~here, -1e300), grad.double().masked_fill(~here, 0.0)
    return (scale * (g - torch.softmax(z, dim) * g.sum(dim, keepdim=True))).masked_fill(~here, 0.0)


def options(kind, shape, device):
    if kind == "causal":
        return {"causal": True}
    if kind in ("keep", "keep negative"):
        mask = torch.rand(shape, device=device) > 0.3
        mask.view(-1)[:3] = True
        return {"mask": mask} | ({"scale": -1.5} if kind == "keep negative" else {})
    if kind in ("add", "add negative"):
        mask = torch.randn(shape[-1], device=device) * 3
        mask[0] = -torch.inf if len(shape) > 1 and kind == "add" else 0.0
        return {"mask": mask} | ({"scale": -1.5} if kind == "add negative" else {})
    return {"plain": {}, "scale": {"scale": 0.3}, "negative": {"scale": -2.0}}[kind]


@pytest.mark.parametrize("gradient", ["one-hot", "any"])
@pytest.mark.parametrize(
    "kind", ["plain", "scale", "negative", "keep", "keep negative", "add", "add negative", "causal"]
)
@pytest.mark.parametrize("wide", [False, True], ids=["same", "float32"])
@pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: str(dtype)[6:])
def test_16_bit_log_softmax_has_the_ideal_gradient(dtype, wide, kind, gradient, device):
    torch.manual_seed(4)
    for shape, dim in SHAPES:
        if kind == "causal" and (dim == 0 or shape[dim] > 1000):
            continue
        x = (torch.randn(shape, device=device) * 3).to(dtype).requires_grad_()
        chosen = options(kind, shape, device)
        y = F.log_softmax(x, dim, dtype=torch.float32 if wide else None, **chosen)
        grad = torch.randn_like(y)
        if gradient == "one-hot":
            grad = torch.zeros_like(y).scatter_(dim, y.detach().argmin(dim, keepdim=True), 1.0)
        (found,) = torch.autograd.grad(y, x, grad)
        assert found.dtype == dtype and found.is_contiguous()
        exact = ideal(x.detach(), grad, dim, **chosen)
        best = (exact.to(dtype).double() - exact).norm()
        assert (found.double() - exact).norm() <= 1.1 * best + 1e-7
        if gradient == "one-hot":  # nothing cancels but in the one element
            finfo = torch.finfo(dtype)
            inexact = (
                found.double() - exact
            ).abs() > 0.65 * finfo.eps * exact.abs() + finfo.smallest_normal * finfo.eps
            assert not inexact[grad == 0].any()


@pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: str(dtype)[6:])
def test_a_narrower_type_is_the_rounded_inputs(dtype, device):
    x = torch.randn(4, 50, device=device, requires_grad=True)
    grad = torch.zeros(4, 50, device=device, dtype=dtype)
    grad[:, 3] = 1
    (found,) = torch.autograd.grad(F.log_softmax(x, -1, dtype=dtype), x, grad)
    exact = ideal(x.detach().to(dtype), grad, -1)
    assert found.dtype == torch.float32
    assert (found.double() - exact).norm() <= (exact.to(dtype).double() - exact).norm() * 1.1


def kept_by(call) -> list[Tensor]:
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        call()
    return kept


def test_what_16_bit_log_softmax_keeps():
    """The input and the mask, which are there anyway, and two numbers of each row; no copy."""
    x = torch.randn(8, 64).bfloat16().requires_grad_()
    mask = torch.ones(64, dtype=torch.bool)
    for dtype in (None, torch.float32):
        kept = kept_by(lambda dtype=dtype: F.log_softmax(x, -1, dtype=dtype))
        assert sum(t.data_ptr() == x.data_ptr() for t in kept) == 1
        assert sum(t.numel() * t.element_size() for t in kept if t.data_ptr() != x.data_ptr()) == 8 * 8
        kept = kept_by(lambda dtype=dtype: F.log_softmax(x, -1, dtype=dtype, mask=mask))
        assert {x.data_ptr(), mask.data_ptr()} < {t.data_ptr() for t in kept} and len(kept) == 3


def test_in_place_changes_of_what_was_kept_are_seen():
    x = torch.randn(3, 4).bfloat16().requires_grad_()
    mask = torch.zeros(4)
    for changed in ("input", "mask"):
        z = x * 1
        y = F.log_softmax(z, -1, mask=mask)
        (z if changed == "input" else mask).add_(1)
        with pytest.raises(RuntimeError, match="inplace"):
            y.sum().backward()
    y = F.log_softmax(x, -1)
    first, second = (torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.skipif(not INTERPRETED, reason="the interpreter runs one program at a time: of rows of one chunk each")
@pytest.mark.parametrize("kind", ["plain", "negative", "keep", "add", "causal"])
def test_rows_in_chunks(kind, monkeypatch):
    from nnkernels.triton import reducing

    monkeypatch.setattr(reducing, "_longest", lambda y: 0)
    monkeypatch.setattr(reducing, "_processors", lambda device: 4)
    monkeypatch.setattr(reducing.reducing_kernels, "softmax_columns", None)
    x = torch.randn(3, 40).bfloat16().requires_grad_()
    chosen = options(kind, (3, 40), "cpu")
    with nnkernels.backend("triton"):
        y = F.log_softmax(x, -1, **chosen)
        grad = torch.randn_like(y)
        (found,) = torch.autograd.grad(y, x, grad)
    exact = ideal(x.detach(), grad, -1, **chosen)
    assert (found.double() - exact).norm() <= 1.1 * (exact.bfloat16().double() - exact).norm()


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax, F.softmin])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "hook", [lambda t: t[:1], lambda t: t.double(), lambda t: t.flatten(), lambda t: t.new_ones(2)]
)
def test_saved_tensors_of_another_kind_are_refused(hook, dtype, function, device):
    x = torch.randn(8, 16, device=device, dtype=dtype, requires_grad=True)
    with saved_tensors_hooks(lambda t: t, hook):
        y = function(x, -1)
    with pytest.raises(RuntimeError, match="8, 16"):
        y.backward(torch.ones_like(y))


def test_replaced_data_is_never_read(device):
    """As in torch, what keeps its output has no use for the input's."""
    for function in (F.softmax, F.log_softmax):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(8, device=device, dtype=dtype, requires_grad=True)
            grad = torch.randn_like(x)
            (exact,) = torch.autograd.grad(function(x, -1), x, grad)
            y = function(x, -1)
            x.data = torch.randn(50_000, device=device, dtype=dtype)
            if function is F.log_softmax and dtype == torch.bfloat16:
                with pytest.raises(RuntimeError, match="50000"):
                    y.backward(grad)
            else:
                y.backward(grad)
                assert torch.equal(x.grad, exact)


def _composed(x: Tensor, log: bool) -> Tensor:
    e = (x - x.detach().amax(-1, keepdim=True)).exp()
    y = e / e.sum(-1, keepdim=True)
    return y.log() if log else y


@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])
def test_reverse_over_forward_and_forward_over_reverse(log):
    ours = lambda x: (F.log_softmax if log else F.softmax)(x, -1)  # noqa: E731
    torch.manual_seed(5)
    x, tangent, v = (torch.randn(3, 5, dtype=torch.float64) for _ in range(3))

    def of_tangent(f):
        point, direction = x.clone().requires_grad_(), tangent.clone().requires_grad_()
        with forward_ad.dual_level():
            y = forward_ad.unpack_dual(f(forward_ad.make_dual(point, direction)))
        return torch.autograd.grad((y.tangent * v).sum() + (y.primal * v).sum(), (point, direction))

    def of_gradient(f):
        point = x.clone().requires_grad_()
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(point, tangent)
            (found,) = torch.autograd.grad(f(dual), dual, v, create_graph=True)
            return [part.detach() for part in forward_ad.unpack_dual(found)]

    def of_dual_gradient(f):
        point = x.clone().requires_grad_()
        y = f(point)
        with forward_ad.dual_level():
            (found,) = torch.autograd.grad(y, point, forward_ad.make_dual(v, tangent))
            return [part.detach() for part in forward_ad.unpack_dual(found)]

    def by_transforms(f):
        of = lambda x: (f(x) * v).sum()  # noqa: E731
        forward = torch.func.jvp(torch.func.grad(of), (x,), (tangent,))
        reverse = torch.func.grad(lambda x: (torch.func.jvp(f, (x,), (tangent,))[1] * v).sum())(x)
        return [*forward, reverse]

    for derivatives in (of_tangent, of_gradient, of_dual_gradient, by_transforms):
        for found, exact in zip(derivatives(ours), derivatives(lambda x: _composed(x, log)), strict=True):
            assert torch.allclose(found, exact, rtol=1e-11, atol=1e-13), derivatives.__name__


@pytest.mark.parametrize("kind", ["plain", "scale", "keep", "add", "causal"])
def test_16_bit_second_derivatives(kind):
    torch.manual_seed(6)
    values, v = torch.randn(3, 5), torch.randn(3, 5)
    chosen = options(kind, (3, 5), "cpu")

    def second(dtype):
        x = values.bfloat16().to(dtype).requires_grad_()
        y = F.log_softmax(x, -1, **chosen)
        v16 = v.bfloat16().to(dtype).masked_fill(y.isinf(), 0.0)
        (first,) = torch.autograd.grad(y, x, v16, create_graph=True)
        return torch.autograd.grad(first, x, v16)[0]

    assert torch.allclose(second(torch.bfloat16).double(), second(torch.float64), rtol=0.05, atol=0.02)
