"""In-place calls: what autograd learns of them, and that every transform follows them as it follows torch's."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from conftest import DEVICE

import nnkernels
import nnkernels.functional as F
from nnkernels.accuracy import constants_of
from nnkernels.registry import Activation, catalogue


def _stateless(row: Activation, x: torch.Tensor) -> torch.Tensor:
    return getattr(F, row.name)(x, *constants_of(row)[: len(row.parameters)], inplace=True)


CALLS = {row.name: partial(_stateless, row) for row in catalogue(Activation) if row.inplace}
CALLS |= {
    "relu_": F.relu_,
    "rrelu in training": lambda x: F.rrelu(x, training=True, inplace=True),
    "rrelu in evaluation": lambda x: F.rrelu(x, inplace=True),
    "dropout": lambda x: F.dropout(x, 0.5, True, True),
    "swish of a tensor": lambda x: F.swish_(x, torch.tensor(1.5, dtype=x.dtype, device=x.device)),
    "starrelu of a tensor": lambda x: F.starrelu_(x, torch.tensor(1.5, dtype=x.dtype, device=x.device)),
}
DRAWN = ("rrelu in training", "dropout")
KINDS = [name for name in CALLS if name not in DRAWN]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", ["dense", "view", "overlapping rows"])
def test_the_version_moves_by_one(name, shape):
    base = torch.randn(6, 8, device=DEVICE)
    x = {"dense": base, "view": base[:, 2:6], "overlapping rows": base.t()[::2]}[shape]
    before = base._version
    assert CALLS[name](x) is x
    assert base._version == x._version == before + 1


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("chosen", ["auto", "reference"])
def test_what_was_kept_for_backward_is_missed(name, chosen):
    w = torch.randn(8, device=DEVICE, requires_grad=True)
    h = w * 1
    z = (h * h).sum()
    with torch.no_grad(), nnkernels.backend(chosen):
        CALLS[name](h)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.backward()


def test_inference_tensors_have_no_version():
    with torch.inference_mode():
        x = torch.tensor([-1.0, 2.0], device=DEVICE)
        assert F.relu_(x) is x
    assert x.tolist() == [0.0, 2.0]


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones((), device=x.device))[0],
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "hessian": lambda f, x: torch.func.hessian(f)(x),
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(f))(torch.stack([x, -x])),
    "jvp of grad": lambda f, x: torch.func.jvp(torch.func.grad(f), (x,), (torch.ones_like(x),))[1],
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_follow(name, transform):
    x = torch.tensor([-2.1, -0.7, 0.3, 1.9], dtype=torch.float64, device=DEVICE)

    def written(v):
        return CALLS[name](v * 1.5).square().sum()

    def apart(v):
        return CALLS[name]((v * 1.5).clone()).square().sum()

    with nnkernels.backend("reference"):
        expected = _by_autograd(apart, transform, x)
    torch.testing.assert_close(TRANSFORMS[transform](written, x), expected, rtol=1e-10, atol=1e-12)


def _by_autograd(f, transform, x):
    """The same with torch.autograd alone."""

    def gradient(x):
        return torch.autograd.grad(f(x), x, create_graph=True)[0]

    if transform == "vmap of grad":
        return torch.stack([gradient(one.clone().requires_grad_()).detach() for one in (x, -x)])
    if transform in ("hessian", "jvp of grad"):
        hessian = torch.autograd.functional.hessian(f, x)
        return hessian if transform == "hessian" else hessian.sum(1)
    return gradient(x.clone().requires_grad_()).detach()


@pytest.mark.parametrize("name", DRAWN)
def test_transforms_follow_what_is_drawn(name):
    torch.manual_seed(0)
    x = torch.randn(64, device=DEVICE)
    gradient = torch.func.grad(lambda v: CALLS[name](v * 2).sum())(x)
    assert gradient.isfinite().all() and gradient.unique().numel() > 1


def test_a_leaf_is_refused_under_grad_as_torch_does():
    with pytest.raises(RuntimeError, match="leaf"):
        torch.func.grad(lambda v: F.relu_(v).sum())(torch.tensor([-1.0, 2.0], device=DEVICE))


@pytest.mark.parametrize("name", KINDS)
def test_forward_mode_follows(name):
    x = torch.tensor([-2.1, -0.7, 0.3, 1.9], dtype=torch.float64, device=DEVICE)
    expected = torch.func.jvp(lambda v: CALLS[name](v * 2), (x,), (torch.ones_like(x),))[1]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(CALLS[name](dual * 2)).tangent
    torch.testing.assert_close(tangent, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("name", ["relu", "silu", "elu", "swish of a tensor"])
def test_jit_trace_and_its_own_check(name, learns):
    example = torch.randn(5, device=DEVICE, requires_grad=learns)
    traced = torch.jit.trace(lambda v: CALLS[name](v * 2), example)
    x = torch.randn(5, device=DEVICE)
    torch.testing.assert_close(traced(x), CALLS[name](x * 2))
