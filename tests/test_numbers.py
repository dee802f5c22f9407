"""Values and derivatives against the truth, over the whole range of every type, on every backend of this machine."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
import truth

import nnkernels
from nnkernels import accuracy, reference

OTHER_CONSTANTS = {
    "leaky_relu": (0.2, 0.0),
    "elu": (1.7, 0.0),
    "celu": (0.7, 0.0),
    "swish": (1.4, 0.0),
    "hardtanh": (-2.0, 0.5),
    "softplus": (2.5, 7.0),
    "threshold": (-0.3, 1.5),
    "thresholded_relu": (0.1, 0.0),
    "softshrink": (0.2, 0.0),
    "hardshrink": (1.1, 0.0),
}
SPECIAL = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan])


@pytest.mark.parametrize("dtype", accuracy.LIMITS, ids=lambda dtype: str(dtype)[6:])
def test_within_the_promised_ulps_over_the_whole_range(row, backend, device, dtype):
    found = accuracy.measure(row, backend, dtype, device)
    assert found.ok, str(found)


@pytest.mark.parametrize("name", OTHER_CONSTANTS)
def test_other_constants_are_as_exact(name, backend, device):
    a, b = OTHER_CONSTANTS[name]
    x = accuracy.inputs(torch.float32)[::7].to(device)
    for order, got in (
        ("value", backend.forward(name, x, a, b)),
        ("d1", backend.backward(name, torch.ones_like(x), x, a, b)),
    ):
        exact = accuracy.truth_of(nnkernels.activation(name), order, x, a, b)
        floor = torch.where(accuracy.near_root(x.double(), exact), 2.0**-6, 0.0) if order == "d1" else 0.0
        off = accuracy.errors(got, exact, floor)
        worst = off.argmax()
        assert off[worst] <= 4, f"{order}: {off[worst]} ulp at {x[worst]}"


def points_for(row) -> list[float]:
    tails = [-700.0, -120.5, -38.1, -21.2, -12.3, -6.7, -2.1, -0.6, -1e-3, -1e-9, 1e-9, 1e-3, 0.4, 1.7, 5.3, 19.0, 60.5]
    a, b = accuracy.constants_of(row)
    return [x for x in tails if min(abs(x - a), abs(x - b)) > 1e-6]


def test_reference_in_float64_agrees_with_mpmath(row):
    a, b = accuracy.constants_of(row)
    x = torch.tensor(points_for(row), dtype=torch.float64)
    for order in (0, 1, 2):
        got = getattr(reference.FORMULAS[row.name], ("value", "d1", "d2")[order])(x, a, b)
        for at, actual in zip(x.tolist(), got.tolist(), strict=True):
            exact = truth.value(row.name, at, a, b) if order == 0 else truth.derivative(row.name, at, a, b, order)
            scale = max(abs(exact), mp.mpf(2) ** -1022)
            tolerance = 1e-14 if order < 2 else 1e-12
            assert abs(actual - exact) <= tolerance * scale, f"order {order} at {at}: {actual} instead of {exact}"


def test_float64_kernels_agree_with_mpmath(row, backend, device):
    a, b = accuracy.constants_of(row)
    x = torch.tensor(points_for(row), dtype=torch.float64, device=device)
    value, d1 = backend.forward(row.name, x, a, b), backend.backward(row.name, torch.ones_like(x), x, a, b)
    for at, y, slope in zip(x.tolist(), value.tolist(), d1.tolist(), strict=True):
        for actual, exact in ((y, truth.value(row.name, at, a, b)), (slope, truth.derivative(row.name, at, a, b))):
            assert abs(actual - exact) <= 1e-14 * max(abs(exact), mp.mpf(2) ** -1022), f"at {at}: {actual} not {exact}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_second_derivative_from_the_double_backward_kernel(row, backend, device, dtype):
    a, b = accuracy.constants_of(row)
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64).to(device, dtype)
    x = x[(x.double().abs() - 3).abs() > 1e-6]
    one = torch.ones_like(x)
    for_grad, for_x = backend.double_backward(row.name, one * 3, one * 0.5, x, a, b)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
    for got, order, factor in ((for_grad, "d1", 3.0), (for_x, "d2", 1.5)):
        exact = factor * accuracy.truth_of(row, order, x, a, b)
        torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance * 1e-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_special_values_are_the_limits(row, backend, device, dtype):
    a, b = accuracy.constants_of(row)
    x = SPECIAL.to(device, dtype)
    for got, order in (
        (backend.forward(row.name, x, a, b), "value"),
        (backend.backward(row.name, torch.ones_like(x), x, a, b), "d1"),
    ):
        torch.testing.assert_close(
            got.double(),
            accuracy.truth_of(row, order, x, a, b).to(dtype).double(),
            equal_nan=True,
            rtol=1e-2,
            atol=1e-6,
        )
    assert backend.forward(row.name, x, a, b)[4].isnan()


KNEES = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0])


def test_derivatives_at_the_knees_are_those_of_pytorch(row, backend, device):
    peer = getattr(torch.nn.functional, row.name, None)
    if peer is None:
        pytest.skip("torch has no function of this name")
    constants = accuracy.constants_of(row)[: len(row.parameters)]
    x = KNEES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(peer(x, *constants).sum(), x)
    got = backend.backward(row.name, torch.ones(8, device=device), KNEES.to(device), *accuracy.constants_of(row))
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-5, atol=1e-6)


MASKING = ("relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "threshold", "thresholded_relu", "hardshrink")


@pytest.mark.parametrize("name", MASKING)
def test_an_infinite_gradient_is_cut_where_the_derivative_is_zero(name, backend, device):
    a, b = accuracy.constants_of(nnkernels.activation(name))
    x = torch.tensor([-9.0], device=device) if name != "hardshrink" else torch.tensor([0.1], device=device)
    for grad in (math.inf, math.nan):
        assert backend.backward(name, torch.full_like(x, grad), x, a, b).item() == 0
