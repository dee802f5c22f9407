"""The textbook definitions in mpmath, written without a look at the kernels' formulas."""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp

Real = Callable[..., mp.mpf]


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    return mp.log1p(mp.exp(x)) if x < 1000 else x


DEFINITIONS: dict[str, Real] = {
    "sigmoid": lambda x, a, b: sigmoid(x),
    "tanh": lambda x, a, b: mp.tanh(x),
    "relu": lambda x, a, b: max(x, mp.mpf(0)),
    "relu6": lambda x, a, b: min(max(x, mp.mpf(0)), mp.mpf(6)),
    "relu_squared": lambda x, a, b: max(x, mp.mpf(0)) ** 2,
    "leaky_relu": lambda x, a, b: x if x > 0 else a * x,
    "elu": lambda x, a, b: x if x > 0 else a * mp.expm1(x),
    "celu": lambda x, a, b: max(x, mp.mpf(0)) + min(mp.mpf(0), a * mp.expm1(x / a)),
    "selu": lambda x, a, b: (
        mp.mpf("1.0507009873554804934193349852946")
        * (x if x > 0 else mp.mpf("1.6732632423543772848170429916717") * mp.expm1(x))
    ),
    "silu": lambda x, a, b: x * sigmoid(x),
    "swish": lambda x, a, b: x * sigmoid(a * x),
    "gelu": lambda x, a, b: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "gelu_tanh": lambda x, a, b: x * sigmoid(2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)),
    "gelu_sigmoid": lambda x, a, b: x * sigmoid(mp.mpf("1.702") * x),
    "hardsigmoid": lambda x, a, b: min(max(x + 3, mp.mpf(0)), mp.mpf(6)) / 6,
    "hardswish": lambda x, a, b: x * min(max(x + 3, mp.mpf(0)), mp.mpf(6)) / 6,
    "hardtanh": lambda x, a, b: min(max(x, mp.mpf(a)), mp.mpf(b)),
    "mish": lambda x, a, b: x * mp.tanh(softplus(x)),
    "softplus": lambda x, a, b: x if a * x > b else softplus(a * x) / a,
    "softsign": lambda x, a, b: x / (1 + abs(x)),
    "logsigmoid": lambda x, a, b: -softplus(-x),
    "threshold": lambda x, a, b: x if x > a else mp.mpf(b),
    "thresholded_relu": lambda x, a, b: x if x > a else mp.mpf(0),
    "softshrink": lambda x, a, b: x - a if x > a else x + a if x < -a else mp.mpf(0),
    "hardshrink": lambda x, a, b: x if abs(x) > a else mp.mpf(0),
    "tanhshrink": lambda x, a, b: x - mp.tanh(x),
    "softcap": lambda x, a, b: a * mp.tanh(x / a),
    "hardmish": lambda x, a, b: x / 2 * min(mp.mpf(2), max(mp.mpf(0), x + 2)),
    "starrelu": lambda x, a, b: a * max(x, mp.mpf(0)) ** 2 + b,
    "sqrtsoftplus": lambda x, a, b: mp.sqrt(softplus(x)),
}


def slope(name: str, x: mp.mpf, a: float, b: float) -> mp.mpf:
    """The derivative with the digits of the working precision."""
    with mp.workdps(3 * mp.mp.dps):
        definition, step = DEFINITIONS[name], mp.mpf(10) ** -(mp.mp.dps // 3)
        return (definition(x + step, mp.mpf(a), mp.mpf(b)) - definition(x - step, mp.mpf(a), mp.mpf(b))) / (2 * step)


def value(name: str, x: float, a: float, b: float) -> mp.mpf:
    with mp.workdps(400):
        return +DEFINITIONS[name](mp.mpf(x), mp.mpf(a), mp.mpf(b))


def derivative(name: str, x: float, a: float, b: float, order: int = 1) -> mp.mpf:
    """The derivative from differences so close that 400 digits leave hundreds of them."""
    with mp.workdps(900):
        definition, at, step = DEFINITIONS[name], mp.mpf(x), mp.mpf(10) ** -150
        points = [definition(at + k * step, mp.mpf(a), mp.mpf(b)) for k in (-1, 0, 1)]
        if order == 1:
            return (points[2] - points[0]) / (2 * step)
        return (points[2] - 2 * points[1] + points[0]) / step**2
