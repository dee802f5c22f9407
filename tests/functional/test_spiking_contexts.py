"""Spiking neurons where a user of torch meets them: derivatives of derivatives, transforms, compilers, bad input."""

from __future__ import annotations

import copy
import importlib
import pickle
import re
from typing import Any, ClassVar

import pytest
import torch
from test_spiking import currents, truth
from torch import Tensor

import nnkernels
import nnkernels.functional as F
from nnkernels.contracts.spiking import SURROGATES


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_the_second_derivative_is_that_of_the_surrogate_gradient(surrogate):
    x = currents(5, 6).requires_grad_()
    constants = dict(surrogate=surrogate, slope=1.5, detach_reset=False)
    grad = currents(5, 6, seed=1).requires_grad_()
    firsts = [torch.autograd.grad(y, x, grad, create_graph=True)[0] for y in
              (F.lif(x, **constants), truth(x, **constants)[0])]  # fmt: skip
    torch.testing.assert_close(*firsts)
    weight = currents(5, 6, seed=2)
    ours, theirs = (torch.autograd.grad((first * weight).sum(), (x, grad)) for first in firsts)
    torch.testing.assert_close(ours, theirs)


def test_under_transforms():
    from torch.func import grad, jvp, vmap

    x, tangent = currents(4, 5, 3), currents(4, 5, 3, seed=1)
    assert torch.equal(vmap(F.lif, in_dims=1, out_dims=1)(x), F.lif(x))
    y, moved = jvp(F.lif, (x,), (tangent,))
    weight = currents(4, 5, 3, seed=2)
    pulled = grad(lambda x: (F.lif(x) * weight).sum())(x)
    assert torch.equal(y, F.lif(x))
    torch.testing.assert_close((moved * weight).sum(), (pulled * tangent).sum())
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(pulled, torch.autograd.grad(truth(leaf)[0], leaf, weight)[0])


@pytest.mark.parametrize("layout", ["contiguous", "batch first"])
def test_compiles_whole(layout):
    torch._dynamo.reset()
    x = currents(4, 3, 5)
    x = (x.transpose(0, 1).contiguous().transpose(0, 1) if layout == "batch first" else x).requires_grad_()
    y = torch.compile(F.lif, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(y, F.lif(x)) and y.stride() == F.lif(x).stride()
    grad = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad), torch.autograd.grad(F.lif(x), x, grad))


def test_repeated_calls_give_what_the_first_ones_gave():
    x, v0 = currents(6, 3, 5).transpose(1, 2).requires_grad_(), currents(5, 3).requires_grad_()
    grad = currents(6, 5, 3, seed=1)
    found = []
    for _ in range(6):
        y = F.lif(x, v0=v0, detach_reset=False)
        found.append([y.detach(), *torch.autograd.grad(y, (x, v0), grad)])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_threads_change_nothing():
    x = currents(16, 9000, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(x.clone().requires_grad_())
            F.lif(found[-1]).square().sum().backward()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].grad, found[1].grad)


def test_the_result_may_be_written_in_place():
    x = currents(4, 3, 5).transpose(1, 2).requires_grad_()
    F.lif(x).mul_(2).sum().backward()
    leaf = x.detach().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(F.lif(leaf).sum() * 2, leaf)[0], torch.autograd.grad(
        (2 * truth(leaf)[0]).sum(), leaf)[0])  # fmt: skip


def test_tau_is_a_decay():
    x = currents(9, 5)
    assert torch.equal(F.lif(x, tau=4.0), F.lif(x, decay=0.75)) and torch.equal(F.lif(x), F.lif(x, decay=0.9))


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"decay": 1.5}, ValueError, "1.5"),
        ({"decay": float("nan")}, ValueError, "nan"),
        ({"tau": 0.5}, ValueError, "0.5"),
        ({"decay": 0.9, "tau": 2.0}, ValueError, "tau 2.0"),
        ({"threshold": 0.0}, ValueError, "threshold"),
        ({"slope": -1.0}, ValueError, "slope"),
        ({"slope": float("inf")}, ValueError, "slope"),
        ({"slope": "5"}, TypeError, "slope"),
        ({"surrogate": "arctang"}, ValueError, "arctan"),
        ({"reset": "hard"}, ValueError, "subtract, zero"),
        ({"v0": torch.zeros(4)}, ValueError, "(4,)"),
        ({"v0": torch.zeros(3, dtype=torch.float64)}, TypeError, "float64"),
        ({"v0": 0.0}, TypeError, "v0"),
        ({"threshold": torch.ones((), requires_grad=True)}, TypeError, "threshold"),
    ],
)
def test_bad_arguments_are_named(arguments, error, named):
    with pytest.raises(error, match=re.escape(named)):
        F.lif(torch.zeros(2, 3), **arguments)


@pytest.mark.parametrize(
    ("current", "error", "named"),
    [
        (torch.zeros(()), ValueError, "()"),
        (torch.zeros(0, 3), ValueError, "(0, 3)"),
        (torch.zeros(2, 3, dtype=torch.int32), NotImplementedError, "int32"),
        ([1.0], TypeError, "list"),
    ],
)
def test_what_is_no_current_is_refused(current, error, named):
    with pytest.raises(error, match=re.escape(named)):
        F.lif(current)


def test_jagged_tensors_are_refused():
    jagged = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)], layout=torch.jagged)
    with pytest.raises((NotImplementedError, RuntimeError), match="jagged"):
        F.lif(jagged)


def test_overrides_and_subclasses_reach_torch():
    class Logged(Tensor):
        calls: ClassVar[list[Any]] = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.calls.append(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    y = F.lif(torch.randn(2, 8).as_subclass(Logged))
    assert type(y) is Logged and F.lif in Logged.calls


def test_module():
    layer = nnkernels.nn.LIF(tau=2.0, surrogate="arctan", reset="zero", return_potential=True)
    x, v0 = currents(6, 3), currents(3)
    wanted = F.lif(x, tau=2.0, surrogate="arctan", reset="zero", v0=v0, return_potential=True)
    assert "decay=0.5" in repr(layer) and "reset='zero'" in repr(layer) and not layer.state_dict()
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(map(torch.equal, one(x, v0), wanted))
    assert torch.equal(nnkernels.nn.LIF()(x), F.lif(x))


@pytest.mark.parametrize("module", ["functional.spiking", "nn.spiking"])
def test_examples(module):
    import doctest

    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0
