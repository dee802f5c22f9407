"""Values and derivatives against the truth, over the whole range of every type, on every backend of this machine."""

from __future__ import annotations

import functools
import math

import mpmath as mp
import pytest
import torch
import truth
from triton_tools import INTERPRETED

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
    "softcap": (2.5, 0.0),
    "starrelu": (0.7, -0.3),
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
        off = accuracy.errors(got, exact)
        worst = off.argmax()
        assert off[worst] <= 4, f"{order}: {off[worst]} ulp at {x[worst]}"


# The roots of the derivatives, for mpmath to start from, and constants for which they lie elsewhere.
ROOTS = {
    "silu": (-1.28, [(0.0, 0.0)]),
    "swish": (-1.28, [(1.0, 0.0), (-0.7, 0.0), (1.4, 0.0), (1e-3, 0.0), (300.0, 0.0)]),
    "gelu": (-0.75, [(0.0, 0.0)]),
    "gelu_tanh": (-0.75, [(0.0, 0.0)]),
    "gelu_sigmoid": (-0.75, [(0.0, 0.0)]),
    "mish": (-1.19, [(0.0, 0.0)]),
    "hardswish": (-1.5, [(0.0, 0.0)]),
    "hardmish": (-1.0, [(0.0, 0.0)]),
}
ROOTED = [(name, a, b) for name, (_, constants) in ROOTS.items() for a, b in constants]


def root_and_slope(name: str, a: float, b: float) -> tuple[mp.mpf, list[mp.mpf]]:
    """The derivative's root, and its Taylor series there without the constant term."""
    with mp.workdps(60):
        start = ROOTS[name][0] / (a or 1.0)
        slope = functools.cache(lambda x: truth.slope(name, x, a, b))
        root = mp.findroot(slope, (start, start * 1.01))
        return root, mp.taylor(slope, root, 14)[1:]


def around(root: mp.mpf, dtype: torch.dtype) -> torch.Tensor:
    """All numbers within 1e5 ulp of the root (a part of them when interpreted), and a logarithmic approach to it."""
    bits = torch.tensor([float(root)], dtype=dtype).view(torch.int32 if dtype == torch.float32 else torch.int64)
    reach = torch.arange(-100_000, 100_001, 50 if INTERPRETED else 1, dtype=bits.dtype)
    away = 0.1 * torch.logspace(-6 if dtype == torch.float32 else -13, 0, 2_000, dtype=torch.float64)
    return torch.cat([(bits + reach).view(dtype), *((float(root) * (1 + sign * away)).to(dtype) for sign in (1, -1))])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name, a, b", ROOTED)
def test_derivatives_keep_their_digits_around_their_roots(name, a, b, dtype, backend, device):
    if dtype == torch.float32:
        a = torch.tensor(a).item()
    root, series = root_and_slope(name, a, b)
    high = float(root)
    x = around(root, dtype)
    distance = (x.double() - high) - float(root - high)
    exact = torch.zeros_like(distance)
    for coefficient in reversed(series):
        exact = (exact + float(coefficient)) * distance
    got = backend.backward(name, torch.ones_like(x).to(device), x.to(device), a, b)
    assert accuracy.errors(got.cpu(), exact).max() <= accuracy.LIMITS[dtype]


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
MASKING += ("hardmish", "starrelu")


@pytest.mark.parametrize("name", MASKING)
def test_an_infinite_gradient_is_cut_where_the_derivative_is_zero(name, backend, device):
    a, b = accuracy.constants_of(nnkernels.activation(name))
    x = torch.tensor([-9.0], device=device) if name != "hardshrink" else torch.tensor([0.1], device=device)
    for grad in (math.inf, math.nan):
        assert backend.backward(name, torch.full_like(x, grad), x, a, b).item() == 0


EXTREMES = {
    "leaky_relu": [(c, 0.0) for c in (-3.0, 0.0, 1e-30, 1e30, math.inf)],
    "elu": [(c, 0.0) for c in (-2.0, 0.0, 1e-30, -1e-30, 1e30, -1e30)],
    "celu": [(c, 0.0) for c in (-2.0, -0.7, 1e-30, -1e-30, 1e30, -1e30)],
    "swish": [(c, 0.0) for c in (-2.0, 0.0, 1e-6, -1e-6, 1e20, -1e20)],
    "softplus": [(c, 20.0) for c in (-2.0, 1e-10, 1e10, -1e10)] + [(1.0, c) for c in (-5.0, 0.0, 1e30, math.inf)],
    "hardtanh": [(-1e30, 1e-30), (-math.inf, math.inf), (2.0, 3.0)],
    "threshold": [(c, d) for c in (-math.inf, 1e-30, 1e30) for d in (-1e30, math.inf)],
    "thresholded_relu": [(c, 0.0) for c in (-1e30, 0.0, 1e-30, 1e30, math.inf)],
    "softshrink": [(c, 0.0) for c in (0.0, 1e-30, 1e30)],
    "hardshrink": [(c, 0.0) for c in (-1.0, 0.0, 1e-30, 1e30, math.inf)],
    "softcap": [(c, 0.0) for c in (1e-30, 1e-3, 1e30)],
    "starrelu": [(0.0, 1.0), (-2.0, 3.0), (1e30, -1e-30), (1e-30, 1e30)],
}
SCALES = torch.tensor([0.0, 1e-38, 1e-30, 1e-10, 1e-3, 0.3, 1.0, 3.0, 17.0, 49.5, 90.0, 1e3, 1e10, 1e29, 7e30, 3e31])


@pytest.mark.parametrize("dtype", accuracy.LIMITS, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name, a, b", [(name, a, b) for name, given in EXTREMES.items() for a, b in given])
def test_extreme_constants(name, a, b, dtype, backend, device):
    row = nnkernels.activation(name)
    of_constant = SCALES[2:12] * (abs(a) if 0 < abs(a) < math.inf else 1.0)
    x = torch.cat([SCALES, of_constant, torch.tensor([math.inf])]).to(dtype)
    x = torch.cat([x, -x]).to(device)
    for order, got in (
        ("value", backend.forward(name, x, a, b)),
        ("d1", backend.backward(name, torch.ones_like(x), x, a, b)),
    ):
        off = accuracy.errors(got, accuracy.truth_of(row, order, x, a, b))
        worst = off.argmax()
        assert off[worst] <= accuracy.LIMITS[dtype], f"{order}: {off[worst]} ulp at {x[worst]}: {got[worst]}"


def test_truth_of_extreme_celus_and_elus():
    """The reference, which the kernels are held against, where exp(x / alpha) grows or a product leaves float32."""
    x = torch.tensor([-100.0], dtype=torch.float64)
    for name, a in (("celu", -2.0), ("celu", -30.0), ("elu", 1e30), ("elu", -2.0)):
        for order, exact in (("value", truth.value(name, -100.0, a, 0)), ("d1", truth.derivative(name, -100.0, a, 0))):
            got = getattr(reference.FORMULAS[name], order)(x, a, 0.0).item()
            assert abs(got / exact - 1) < 1e-14


@pytest.mark.parametrize("dtype", accuracy.LIMITS, ids=lambda dtype: str(dtype)[6:])
def test_the_sign_of_zero(row, backend, device, dtype):
    """Where torch has the function, as there; elsewhere x times something keeps the sign.

    softshrink and tanhshrink are odd: torch's sign depends on the lane and on a difference.
    """
    a, b = accuracy.constants_of(row)
    x = torch.tensor([-0.0, 0.0] * 9, dtype=dtype)
    got = backend.forward(row.name, x.to(device), a, b).cpu()
    peer = getattr(torch.nn.functional, row.name, None)
    if row.name in ("softshrink", "tanhshrink"):
        expected = x
    elif peer is not None:
        where = device if backend.name == "reference" else "cpu"  # torch's own relu gives +0 on a GPU
        expected = peer(x.to(where), *(a, b)[: len(row.parameters)]).cpu()
    else:
        expected = accuracy.truth_of(row, "value", x, a, b).to(dtype)
        assert row.name in ("relu_squared", "thresholded_relu", "identity") or expected[0] != 0 or expected[0].signbit()
    assert torch.equal(got.signbit(), expected.signbit())


def test_a_dense_sample_is_within_the_promised_ulps(row, backend, device):
    """A regular grid misses the worst roundings: logarithmic and even samples of a fixed seed."""
    if INTERPRETED:
        pytest.skip("the interpreter takes minutes for so many numbers")
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0x00800000, 0x7F800000, (60_000,), generator=generator, dtype=torch.int32)
    even = torch.rand(240_000, generator=generator, dtype=torch.float64) * 6
    x = torch.cat([patterns.view(torch.float32), even.float(), 0.1 * even.float(), 20 * even[:60_000].float()])
    x = torch.cat([x, -x]).to(device)
    a, b = accuracy.constants_of(row)
    for order, got in (
        ("value", backend.forward(row.name, x, a, b)),
        ("d1", backend.backward(row.name, torch.ones_like(x), x, a, b)),
    ):
        off = accuracy.errors(got, accuracy.truth_of(row, order, x, a, b))
        worst = off.argmax()
        # The worst roundings of gelu_tanh' together are a little more.
        limit = 4.2 if (row.name, order) == ("gelu_tanh", "d1") else accuracy.LIMITS[torch.float32]
        assert off[worst] <= limit, f"{order}: {off[worst]} ulp at {x[worst]}"


# Those whose value or derivative falls like an exponential, and where in float32 that is subnormal, and 0.
DECAYING = ("sigmoid", "silu", "gelu_sigmoid", "gelu_tanh", "gelu", "mish", "softplus", "logsigmoid", "tanh", "elu")
DECAYING += ("sqrtsoftplus",)


def test_the_root_of_starrelu_keeps_its_digits(backend, device):
    """Where the square times the scale is the bias, all that is left is what rounding took from them."""
    root = math.sqrt(0.5)
    for dtype in (torch.float32, torch.float64):
        x = around(mp.mpf(root), dtype).to(device)
        a, b = reference.rounded(x, *accuracy.constants_of(nnkernels.activation("starrelu")))
        scale, bias = mp.mpf(a), mp.mpf(b)
        with mp.workdps(60):
            at = mp.sqrt(-bias / scale)
            high = float(at)
            low = float(at - high)
        distance = (x.double() - high) - low
        exact = a * distance * (x.double() + high)
        got = backend.forward("starrelu", x, a, b)
        assert accuracy.errors(got.cpu(), exact.cpu()).max() <= accuracy.LIMITS[dtype]


@pytest.mark.parametrize("name", DECAYING)
def test_tails_are_rounded_once_to_subnormal_numbers_and_end_in_a_signed_zero(name, backend, device):
    row = nnkernels.activation(name)
    a, b = accuracy.constants_of(row)
    x = torch.linspace(-135, 135, 54_001, device=device)
    smallest = 2.0**-149
    for order, got in (
        ("value", backend.forward(row.name, x, a, b)),
        ("d1", backend.backward(row.name, torch.ones_like(x), x, a, b)),
    ):
        exact = accuracy.truth_of(row, order, x, a, b)
        subnormal = exact.abs() < 2.0**-126
        # Half of the last place for one rounding, and 4 ulp of what was rounded.
        off = (got.double() - exact).abs() / (0.5 * smallest + 2.0**-22 * exact.abs())
        assert torch.all(off[subnormal] <= 1.01)
        gone = exact.abs() < 0.4 * smallest
        assert torch.all(got[gone] == 0)
        signed = gone & (exact != 0)
        assert torch.equal(got.signbit()[signed], exact.signbit()[signed])
