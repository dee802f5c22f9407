"""Maxout where a user of torch meets it: derivatives of any order, transforms, compilers, bad input, the module."""

from __future__ import annotations

import copy
import importlib
import pickle
import re
from typing import Any, ClassVar

import pytest
import torch
from test_pooling import check, numbers, truth
from torch import Tensor

import nnkernels
import nnkernels.functional as F
from nnkernels import dispatch
from nnkernels.registry import Reducing, activation


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


def test_the_result_may_be_written_in_place():
    x = torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    F.maxout(x, 4).relu_().sum().backward()
    assert torch.equal(x.grad, torch.autograd.grad(truth(x, 4).relu().sum(), x)[0])


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


def test_the_second_derivative_gathers_at_the_winners():
    x = torch.randn(3, 8, 5, requires_grad=True)
    grad = torch.randn(3, 2, 5, requires_grad=True)
    (first,) = torch.autograd.grad(F.maxout(x, 4), x, grad, create_graph=True)
    weight = torch.randn_like(x)
    (second,) = torch.autograd.grad(first, grad, weight)
    index = x.detach().unflatten(1, (2, 4)).max(2, keepdim=True).indices
    assert torch.equal(second, weight.unflatten(1, (2, 4)).gather(2, index).squeeze(2))


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


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_other_types_are_refused(dtype):
    with pytest.raises(NotImplementedError, match=re.escape(f"{dtype}")):
        F.maxout(torch.zeros(2, 8, dtype=dtype), 4)


def test_more_pieces_than_a_byte_counts():
    check(torch.randn(2, 600, 3), 300, 1)
    if not isinstance(dispatch.named("cpu"), str):
        with nnkernels.backend("cpu"), pytest.raises(RuntimeError, match="300"):
            F.maxout(torch.randn(2, 600), 300)


def test_overrides_and_subclasses_reach_torch():
    class Logged(Tensor):
        calls: ClassVar[list[Any]] = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.calls.append(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    y = F.maxout(torch.randn(2, 8).as_subclass(Logged), 4)
    assert type(y) is Logged and F.maxout in Logged.calls


def test_module():
    layer = nnkernels.nn.Maxout(4)
    x = torch.randn(2, 8, 3)
    assert repr(layer) == "Maxout(num_pieces=4, dim=1)" and not layer.state_dict()
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(one(x), truth(x, 4))
    assert torch.equal(nnkernels.nn.Maxout(3, dim=-1)(x), truth(x, 3, -1))


def test_catalogue():
    row = activation("maxout")
    assert isinstance(row, Reducing) and row.module == "Maxout" and "2013" in row.source


@pytest.mark.parametrize("module", ["functional.pooling", "nn.pooling"])
def test_examples(module):
    import doctest

    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0
