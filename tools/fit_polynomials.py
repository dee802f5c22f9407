"""Fit the polynomials of the formula layer and write them where the kernels read them.

    python tools/fit_polynomials.py    # rewrites csrc/polynomials.h, nnkernels/{triton,reference}/polynomials.py

Each fit interpolates the exact function at Chebyshev nodes (mpmath, 60 digits), which is within a small factor of the
best polynomial of its degree, and prints the worst relative error of what the rounded coefficients give. `fast` serves
16-bit tensors (an error of 2^-17 is invisible after rounding to 11 bits), `float` and `double` the full precisions.

    expm1    expm1(r) = r + r^2 P(r)                  |r| <= log(2)/2, after subtracting the nearest multiple of log(2)
    log1p    log1p(u) = u P(2u - 1)                   0 <= u <= 1, where softplus and logsigmoid need it
    tanhres  x - tanh(x) = x^3 P(x^2 - 1.125)         |x| <= 1.5, where the difference itself would cancel
    sine     sin(r) = r + r^3 P(r^2)                  |r| <= pi/2, after subtracting the nearest multiple of pi
    tanh2    tanh(x)^2 = x^2 P(x^2 - 0.18)            |x| <= 0.6, where the square would double an error; C++ alone
    mills    Phi(-a) exp(a^2/2) = t P((a - k) t), t = 1/(a + k)   the normal tail without its exponential
    gelu_tail     Phi(-a) = 2^(P(a) - 24)                         0 <= a <= 14, beyond which 16 bits have 0 alone
    gelu_slope    Phi(-a) - a phi(a) = (r - a) 2^(P(a) - 24)      the same, r being its root

    mills_whole   as mills with another k, for every a, and with a derivative as exact

The factor 2^24 of the gelu_ fits keeps what a GPU's exp2 would flush to 0; they serve GPUs alone, as exp2 is one
instruction there. mills_whole serves the reference alone, which autograd differentiates.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mpmath as mp
import numpy as np

mp.mp.dps = 60
ROOT = Path(__file__).resolve().parent.parent
MILLS_K = {"fast": 5.0, "float": 1.5, "double": 5.0}
WHOLE_K = 2.5


@dataclass(frozen=True)
class Fit:
    """A polynomial for `target` on `interval`; `total` maps (variable, P) to the value whose relative error counts."""

    name: str
    target: Callable[[mp.mpf], mp.mpf]
    interval: tuple[float | mp.mpf, float | mp.mpf]
    total: Callable[[mp.mpf, mp.mpf], mp.mpf]
    degrees: dict[str, int]


def _expm1_tail(r: mp.mpf) -> mp.mpf:
    return mp.nsum(lambda n: r**n / mp.factorial(n + 2), [0, 40]) if abs(r) < 0.01 else (mp.expm1(r) - r) / r**2


def _tanh_residual(w: mp.mpf) -> mp.mpf:
    v = w + mp.mpf("1.125")
    x = mp.sqrt(v)
    with mp.workdps(120):
        return (x - mp.tanh(x)) / x**3 if x > mp.mpf("1e-8") else mp.mpf(1) / 3 - 2 * v / 15


def _mills(k: float) -> Callable[[mp.mpf], mp.mpf]:
    def of_w(w: mp.mpf) -> mp.mpf:
        a = k * (1 + w) / (1 - w)
        return mp.erfc(a / mp.sqrt(2)) / 2 * mp.exp(a * a / 2) * (a + k)

    return of_w


def _tanh_square(w: mp.mpf) -> mp.mpf:
    square = w + mp.mpf("0.18")
    return mp.tanh(mp.sqrt(square)) ** 2 / square if square else mp.mpf(1)


def _sine_tail(v: mp.mpf) -> mp.mpf:
    r = mp.sqrt(v)
    return (mp.sin(r) - r) / (v * r) if v > mp.mpf("1e-8") else v / 120 - mp.mpf(1) / 6


def _log1p_ratio(w: mp.mpf) -> mp.mpf:
    u = (w + 1) / 2
    return mp.log1p(u) / u if u else mp.mpf(1)


def _mills_near(w: mp.mpf) -> mp.mpf:
    a = 1.5 * (w + 1)
    return mp.erfc(a / mp.sqrt(2)) / 2 * mp.exp(a * a / 2)


def _gate_root(z: Callable[[mp.mpf], mp.mpf], w: Callable[[mp.mpf], mp.mpf], near: float) -> dict[str, mp.mpf]:
    """Where the derivative of x sigmoid(z(x)), w = x z', is 0: x, z and e^z."""
    root = mp.findroot(lambda x: 1 + w(x) + mp.exp(z(x)), near)
    return {"": root, "_e": mp.exp(z(root))} | ({"_z": z(root)} if z(root) != root else {})


def _mish_root() -> dict[str, mp.mpf]:
    def numerator(x: mp.mpf) -> mp.mpf:
        e = mp.exp(x)
        return (2 + e) * (2 + 2 * e + e * e) + 4 * x * (1 + e)

    root = mp.findroot(numerator, -1.2)
    return {"": root, "_e": mp.exp(root)}


C1 = 2 * mp.sqrt(2 / mp.pi)
C2 = mp.mpf("0.044715") * C1
ROOTS = {
    "silu_root": _gate_root(lambda x: x, lambda x: x, -1.28),
    "gelu_tanh_root": _gate_root(lambda x: x * (C1 + C2 * x * x), lambda x: x * (C1 + 3 * C2 * x * x), -0.75),
    "mish_root": _mish_root(),
}
GELU_ROOT = mp.findroot(lambda x: mp.ncdf(x) + x * mp.npdf(x), -0.75)


def _gelu_slope(v: mp.mpf) -> mp.mpf:
    x = v - mp.mpf("0.625")
    return (mp.ncdf(x) + x * mp.npdf(x)) / (x - GELU_ROOT)


LIFT = 24


def _gelu_tail(a: mp.mpf) -> mp.mpf:
    return LIFT + mp.log(mp.erfc(a / mp.sqrt(2)) / 2, 2)


def _gelu_slope_tail(a: mp.mpf) -> mp.mpf:
    return LIFT + mp.log((mp.erfc(a / mp.sqrt(2)) / 2 - a * mp.npdf(a)) / (-GELU_ROOT - a), 2)


def _mills_fit(precision: str, first: float, last: float, degree: int) -> Fit:
    k = MILLS_K[precision]
    ends = ((first - k) / (first + k), (last - k) / (last + k))
    return Fit("mills", _mills(k), ends, lambda w, p: p, {precision: degree})


HALF_LN2 = mp.log(2) / 2
FITS = [
    Fit(
        "expm1",
        _expm1_tail,
        (-HALF_LN2, HALF_LN2),
        lambda r, p: 1 + r + r * r * p,
        {"fast": 3, "float": 4, "double": 10},
    ),
    Fit("log1p", _log1p_ratio, (-1, 1), lambda w, p: p, {"fast": 6, "float": 11, "double": 21}),
    Fit("tanhres", _tanh_residual, (-1.125, 1.125), lambda w, p: p, {"fast": 6, "float": 10, "double": 21}),
    Fit("sine", _sine_tail, (0, mp.pi**2 / 4), lambda v, p: 1 + v * p, {"fast": 2, "float": 4, "double": 7}),
    Fit("tanh2", _tanh_square, (-0.18, 0.18), lambda w, p: p, {"fast": 3, "float": 5, "double": 11}),
    _mills_fit("fast", 0.0, 15.0, 6),
    _mills_fit("float", 0.0, 15.0, 12),
    _mills_fit("double", 3.0, 40.0, 17),
    Fit("mills_whole", _mills(WHOLE_K), (-1, 5 / 7), lambda w, p: p, {"float": 12}),
    Fit("near", _mills_near, (-1, 1), lambda w, p: p, {"double": 23}),
    Fit("gelu_d1", _gelu_slope, (-1.125, 1.125), lambda v, p: p, {"float": 13, "double": 23}),
    Fit("gelu_tail", _gelu_tail, (0, 14), lambda a, p: mp.power(2, p), {"fast": 9}),
    Fit("gelu_slope", _gelu_slope_tail, (0, 14), lambda a, p: mp.power(2, p), {"fast": 11}),
]


REFERENCE_ALONE = ("mills_whole",)
CPP_ALONE = ("tanh2",)


def chebyshev_fit(f: Callable[[mp.mpf], mp.mpf], low: mp.mpf, high: mp.mpf, degree: int) -> list[mp.mpf]:
    """Coefficients, lowest power first, of the interpolant of `f` at the Chebyshev nodes of [low, high]."""
    mid, half = (mp.mpf(low) + high) / 2, (mp.mpf(high) - low) / 2
    nodes = [mid + half * mp.cos(mp.pi * (2 * i + 1) / (2 * degree + 2)) for i in range(degree + 1)]
    matrix = mp.matrix([[x**j for j in range(degree + 1)] for x in nodes])
    return list(mp.lu_solve(matrix, mp.matrix([f(x) for x in nodes])))


def rounded(value: mp.mpf, precision: str) -> float:
    double = float(value)
    return double if precision == "double" else struct.unpack("f", struct.pack("f", double))[0]


def worst_error(fit: Fit, coefficients: list[float]) -> float:
    low, high = fit.interval
    worst = mp.mpf(0)
    for x in np.linspace(0, 1, 301)[1:-1]:
        v = low + (mp.mpf(high) - low) * mp.mpf(float(x))
        got = mp.polyval([mp.mpf(c) for c in reversed(coefficients)], v)
        exact = fit.total(v, fit.target(v))
        worst = max(worst, abs(fit.total(v, got) / exact - 1))
    return float(mp.log(worst, 2))


def main() -> None:
    table: dict[tuple[str, str], list[float]] = {}
    for fit in FITS:
        for precision, degree in fit.degrees.items():
            exact = chebyshev_fit(fit.target, *fit.interval, degree)
            table[fit.name, precision] = [rounded(c, precision) for c in exact]
            error = worst_error(fit, table[fit.name, precision])
            print(f"{fit.name:8} {precision:7} degree {degree:2}   relative error 2^{error:.1f}")
    note = "Written by tools/fit_polynomials.py, which says what each serves. Lowest power first."
    theirs = {key: table.pop(key) for key in list(table) if key[0] in REFERENCE_ALONE}
    (ROOT / "csrc/polynomials.h").write_text(as_cpp(table, note))
    (ROOT / "nnkernels/triton/polynomials.py").write_text(as_python(table, note))
    (ROOT / "nnkernels/reference/polynomials.py").write_text(as_python(theirs, note))


def constants(precision: str) -> dict[str, float]:
    """The roots of the derivatives in two parts, and the exponentials there."""
    exact = {"gelu_root": GELU_ROOT}
    exact |= {name + part: value for name, parts in ROOTS.items() for part, value in parts.items()}
    split: dict[str, float] = {}
    for name, value in exact.items():
        high = rounded(value, precision)
        if name.endswith("_e") and precision != "double":
            high = with_exact_square(high)
        split |= {f"{name}_hi": high, f"{name}_lo": rounded(value - high, precision)}
    return split


def with_exact_square(value: float) -> float:
    """Of `value` and its two neighbours in float32 the one whose square is the nearest to a number of that type.

    The square multiplies what e^z is above e^root: its rounding would be an error of every derivative.
    """
    near = (np.nextafter(np.float32(value), np.float32(end), dtype=np.float32) for end in (0.0, value, 1.0))
    return min(map(float, near), key=lambda v: abs(rounded(mp.mpf(v * v), "float") / (v * v) - 1))


def as_cpp(table: dict[tuple[str, str], list[float]], note: str) -> str:
    types = {"fast": "float", "float": "float", "double": "double"}
    lines = [f"// {note}", "#pragma once", "", "namespace nnk {", ""]
    for precision, scalar in types.items():
        suffix = "f" if scalar == "float" else ""
        lines.append(f"struct {precision.capitalize()}Polynomials {{")
        for (name, of), values in table.items():
            if of == precision:
                body = ", ".join(f"{v!r}{suffix}" for v in values)
                lines.append(f"  static constexpr {scalar} {name}[] = {{{body}}};")
        lines.append(f"  static constexpr {scalar} mills_k = {MILLS_K[precision]}{suffix};")
        lines += [
            f"  static constexpr {scalar} {name} = {value!r}{suffix};" for name, value in constants(precision).items()
        ]
        lines.append("};\n")
    return "\n".join([*lines, "}  // namespace nnk", ""])


def as_python(table: dict[tuple[str, str], list[float]], note: str) -> str:
    lines = [f'"""{note}"""', "", "# fmt: off", ""]
    for (name, precision), values in table.items():
        if name not in CPP_ALONE:
            lines.append(f"{name.upper()}_{precision.upper()} = (")
            lines += [f"    {v!r}," for v in values]
            lines.append(")")
    if ("mills", "float") not in table:  # the reference's
        return "\n".join([*lines, f"WHOLE_K = {WHOLE_K}", ""])
    lines += [f"MILLS_K_{of.upper()} = {MILLS_K[of]}" for name, of in table if name == "mills"]
    for precision in ("float", "double"):
        for name, value in constants(precision).items():
            lines.append(f"{name.upper()}_{precision.upper()} = {value!r}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
