"""Backends: what is chosen, what is refused, and how bad input is answered."""

from __future__ import annotations

import pytest
import torch

import nnkernels
import nnkernels.functional as F
from nnkernels import arguments, dispatch, native


def test_a_choice_holds_until_its_end():
    with nnkernels.backend("reference"):
        assert dispatch.select("mish", torch.empty(3)).name == "reference"
        with nnkernels.backend("auto"):
            assert dispatch.chosen() == "auto"
        assert dispatch.chosen() == "reference"
    assert dispatch.chosen() == "auto"
    nnkernels.backend("reference")
    assert dispatch.chosen() == "reference"


def test_backward_uses_the_backend_of_its_forward():
    x = torch.randn(3, requires_grad=True)
    with nnkernels.backend("reference"):
        y = F.mish(x)
    assert y.grad_fn.constants[1].name == "reference"
    y.sum().backward()


def test_auto_prefers_the_measured_fastest():
    if isinstance(dispatch.named("cpu"), str):
        pytest.skip("the C++ kernels were not built")
    assert dispatch.select("mish", torch.empty(3)).name == "cpu"
    assert dispatch.select("mish", torch.empty(3, device="meta")).name == "reference"


def test_crossovers_name_known_backends():
    for by_dtype in dispatch.crossovers().values():
        for steps in by_dtype.values():
            assert [least for least, _ in steps] == sorted(least for least, _ in steps)
            assert all(set(ranked) <= set(dispatch.NAMES) for _, ranked in steps)


def test_a_missing_row_falls_back_under_auto_and_raises_by_name(monkeypatch):
    found = dispatch.named("cpu")
    if isinstance(found, str):
        pytest.skip(found)
    monkeypatch.setattr(type(found), "has", lambda self, name: False)
    assert dispatch.select("mish", torch.empty(3)).name == "reference"
    with nnkernels.backend("cpu"), pytest.raises(RuntimeError, match="mish"):
        F.mish(torch.randn(3))


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_an_explicit_choice_that_cannot_be_honoured_raises(name):
    with nnkernels.backend(name), pytest.raises(RuntimeError, match=name):
        F.mish(torch.randn(3))


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"cudnn.*auto.*reference"):
        nnkernels.backend("cudnn")


UNSUPPORTED = [torch.int64, torch.uint8, torch.bool, torch.complex64]


@pytest.mark.parametrize("dtype", UNSUPPORTED, ids=str)
def test_other_types_behave_as_in_torch_or_name_what_was_passed(row, dtype):
    constants = (0.25, 0.5)[: len(row.parameters)]
    x = torch.ones(3).to(dtype)
    peer = getattr(torch.nn.functional, row.name, None)
    try:
        expected = peer(x, *constants) if peer else None
    except Exception as error:
        with pytest.raises(type(error), match=f"{row.name}.*{dtype}"):
            F.function_of(row)(x, *constants)
    else:
        if peer is None:
            with pytest.raises(NotImplementedError, match=f"{row.name}.*{dtype}"):
                F.function_of(row)(x, *constants)
        else:
            torch.testing.assert_close(F.function_of(row)(x, *constants), expected)


@pytest.mark.parametrize("wrong", [3.0, [1.0], None, "x"])
def test_something_that_is_no_tensor(wrong):
    with pytest.raises(TypeError, match=type(wrong).__name__):
        F.mish(wrong)


def test_unknown_approximation():
    with pytest.raises(RuntimeError, match=r"'none'.*'tanh'.*'sigmoid'.*'cubic'"):
        F.gelu(torch.randn(3), approximate="cubic")
    with pytest.raises(RuntimeError, match="cubic"):
        nnkernels.nn.GELU("cubic")(torch.randn(3))


def test_inplace_on_a_leaf_that_needs_a_gradient():
    x = torch.randn(2, 3, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match=r"leaf Variable.*\(2, 3\)"):
        F.relu(x, inplace=True)
    assert torch.equal(x.detach(), before)


def test_inplace_on_memory_that_overlaps():
    with pytest.raises(RuntimeError, match="single memory location"):
        F.mish(torch.randn(3).expand(4, 3), inplace=True)


def test_a_constant_that_is_no_number():
    with pytest.raises((TypeError, ValueError)):
        F.leaky_relu(torch.randn(3), "steep")


def test_the_operators_refuse_what_does_not_fit():
    if isinstance(native.library("cpu"), str):
        pytest.skip("the C++ kernels were not built")
    ops, x = torch.ops.nnkernels, torch.randn(4)
    for bad in (
        lambda: ops.forward(x, 1000, 0.0, 0.0),
        lambda: ops.forward(x, -1, 0.0, 0.0),
        lambda: ops.forward(x.long(), 0, 0.0, 0.0),
        lambda: ops.backward(torch.randn(5), x, 0, 0.0, 0.0),
        lambda: ops.backward(x.double(), x, 0, 0.0, 0.0),
    ):
        with pytest.raises(RuntimeError, match="nnkernels"):
            bad()


@pytest.mark.parametrize(("name", "constants"), [("hardtanh", (1.0, -1.0)), ("celu", (0.0,)), ("softshrink", (-0.5,))])
def test_constants_that_torch_refuses(name, constants):
    x = torch.randn(3)
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        getattr(torch.nn.functional, name)(x, *constants)
    with pytest.raises(theirs.type, match=name):
        getattr(F, name)(x, *constants)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'mish'"):
        nnkernels.activation("mihs")
    with pytest.raises(AttributeError, match="'mish'"):
        F.mihs  # noqa: B018
    with pytest.raises(AttributeError, match="'Mish'"):
        nnkernels.nn.Mihs  # noqa: B018


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 0.0, 1e300, -1e300])
def test_no_constant_crashes(row, value, backend, device):
    constants = [value] * len(row.parameters) + [0.0, 0.0]
    x = torch.linspace(-3, 3, 50, device=device)
    for dtype in arguments.SUPPORTED_DTYPES:
        y = backend.forward(row.name, x.to(dtype), *constants[:2])
        assert y.shape == x.shape and y.dtype == dtype
