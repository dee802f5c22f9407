"""Initial weights for the layers around each activation.

The criterion is that of He et al. 2015: the second moment of the pre-activations shall be the same in every layer.
Where y = W f(x) and x has the second moment 1, that takes weights of variance gain^2 / fan_in with
gain = 1 / sqrt(E[f(z)^2]), z standard normal: in closed form where there is one, else by quadrature in float64 from the
reference formula.

The moment includes the mean. Sigmoid, hardsigmoid, softplus and logsigmoid have 70 to 90 % of theirs in it: the gain
keeps the size of the signal, not the part that differs between samples.

The gain puts a fixed point at 1; `Initializer.sensitivity` says whether signals return to it. Positively homogeneous
activations (ReLU, leaky ReLU, PReLU, Maxout) have 1: every size is a fixed point. Below 1 (tanh, SELU, ELU) deviations
die out. Above 1 (GELU, SiLU, Mish, squared ReLU, shrinkage, gated units) they grow from layer to layer, whatever the
gain: deep stacks of those need normalisation layers or residual connections as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from . import reference
from .reference import learned
from .registry import IDENTITY, Activation, Gated, Learned, Row, elementwise
from .registry import activation as row_called

_FAR, _PANELS_PER_UNIT, _NODES = 14, 16, 16


@dataclass(frozen=True)
class Initializer:
    """Fills weights in place; made by `init_for`.

    Attributes:
        activation: the activation whose output the weights take as input.
        gain: the standard deviation of the weights times sqrt(fan).
        sensitivity: by how many per cent the second moment changes behind a layer if it changes by one per cent
            before it. Above 1 deviations grow with depth.
        mode: "fan_in", which keeps the signal, "fan_out" or "fan_avg".
        distribution: "normal" or "uniform".
    """

    activation: str
    gain: float
    sensitivity: float
    mode: str = "fan_in"
    distribution: str = "normal"

    def __call__(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills `weight` and returns it.

        Args:
            weight: (out, in, ...), as in `torch.nn.Linear` and `torch.nn.Conv2d`.
            generator: where the random numbers come from; torch's own by default.

        Raises:
            ValueError: `weight` has fewer than two dimensions, so that there is no fan.
        """
        if weight.ndim < 2:
            raise ValueError(
                f"only weights of two dimensions (out, in) and more have a fan, got the shape {tuple(weight.shape)}; "
                "biases start best at 0: torch.nn.init.zeros_"
            )
        receptive = weight.shape[2:].numel()
        fan_in, fan_out = weight.shape[1] * receptive, weight.shape[0] * receptive
        fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        deviation = self.gain / math.sqrt(max(fans[self.mode], 1))
        with torch.no_grad():
            if self.distribution == "normal":
                return weight.normal_(0, deviation, generator=generator)
            bound = math.sqrt(3) * deviation
            return weight.uniform_(-bound, bound, generator=generator)


def init_for(
    activation: str | Row, *constants: float, mode: str = "fan_in", distribution: str = "normal"
) -> Initializer:
    """The initialiser for weights whose input comes out of an activation.

    Args:
        activation: a name or row of the catalogue, or "linear" for no activation at all.
        constants: the activation's constants, in the order of its function; by default those of the catalogue. A
            learned activation counts with its initial parameters.
        mode: "fan_in" counts the inputs, which keeps the second moment of the signal; "fan_out" counts the outputs,
            for the gradient's sake; "fan_avg" is their mean (Glorot & Bengio 2010).
        distribution: "normal" or "uniform".

    Returns:
        An `Initializer`: call it on a weight; `gain`, `sensitivity`, `mode` and `distribution` are its attributes.

    Raises:
        ValueError: the activation, mode or distribution is not known, or the activation is 0 on normal inputs.
        TypeError: too many constants are given, or one that has no default is missing.

    Two gains are not what the criterion gives but what is customary or exact: tanh has PyTorch's heuristic 5/3 (the
    criterion gives 1.593), and SELU has 1 with normal weights, LeCun's, for which its constants were derived.
    `torch.nn.init.calculate_gain` gives SELU 3/4, which favours gradients in rectangular layers and gives up the fixed
    point, and sigmoid 1, under which the second moment falls to 0.27.

    Source: He et al. 2015, Delving Deep into Rectifiers; Klambauer et al. 2017 for SELU.

    Example:
        >>> import torch, nnkernels
        >>> init = nnkernels.init_for("selu")
        >>> linear = torch.nn.Linear(512, 512)
        >>> _ = init(linear.weight)
        >>> init.gain, init.mode, init.distribution
        (1.0, 'fan_in', 'normal')
        >>> round(nnkernels.init_for("leaky_relu", 0.2).gain, 4)
        1.3868
    """
    for what, given, known in (
        ("mode", mode, ("fan_in", "fan_out", "fan_avg")),
        ("distribution", distribution, ("normal", "uniform")),
    ):
        if given not in known:
            raise ValueError(f"{what} must be one of {', '.join(map(repr, known))}, got {given!r}")
    row = activation if isinstance(activation, Row) else IDENTITY if activation == "linear" else row_called(activation)
    gain, sensitivity = _measured(row, _completed(row, tuple(map(float, constants))))
    return Initializer("linear" if row is IDENTITY else row.name, gain, sensitivity, mode, distribution)


def has_gain(row: Row) -> bool:
    """Whether `init_for` knows this row."""
    return row.moment is not None or isinstance(row, Activation | Gated) or _starts(row)


def _starts(row: Row) -> bool:
    """Whether it is learned, and tells where its parameters start, which the gain is for."""
    return isinstance(row, Learned) and bool(row.start)


def _mean(q: float, square: Callable[[Tensor], Tensor], knees: tuple[float, ...] = ()) -> float:
    """E[square(x)], x normal with variance q: Gauss-Legendre panels that end at the knees, so that jumps are exact."""
    grid = {i / _PANELS_PER_UNIT for i in range(-_FAR * _PANELS_PER_UNIT, _FAR * _PANELS_PER_UNIT + 1)}
    ends = torch.tensor(
        sorted(grid.union(knee for knee in knees if abs(knee) < _FAR)), dtype=torch.float64, device="cpu"
    )
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(_NODES))
    half = (ends[1:] - ends[:-1]).unsqueeze(1) / 2
    x = ends[:-1].unsqueeze(1) + half * (1 + nodes)
    density = torch.exp(-x * x / (2 * q)) / math.sqrt(2 * math.pi * q)
    return (half * weights * density * square(x)).sum().item()


def _elementwise(name: str, q: float, constants: tuple[float, ...]) -> float:
    a, b = [*constants, 0.0, 0.0][:2]
    knees = [a, -a, b, -b, *((b / a, -b / a) if a else ())]
    return _mean(q, lambda x: reference.FORMULAS[name].value(x, a, b).square(), tuple(knees))


def _moment(row: Row, q: float, constants: tuple[float, ...]) -> float:
    """E[f(x)^2], x normal with variance q; of a gate and what it gates, which are independent, the moments multiply."""
    if row.moment is not None:
        return row.moment.value(_mean, q, *constants)
    if isinstance(row, Learned):
        formula, start = learned.FORMULAS[row.name], torch.tensor(constants, dtype=torch.float64).unbind()
        return _mean(q, lambda x: formula(x, *start).square())
    return q * _elementwise(row.gate, q, constants) if isinstance(row, Gated) else _elementwise(row.name, q, constants)


def _known(row: Row) -> Mapping[str, float]:
    """The constants on which the moment depends, and their defaults."""
    if row.moment is not None:
        return row.moment.constants
    if isinstance(row, Learned) and row.start:
        return row.start
    if not isinstance(row, Activation | Gated):
        raise ValueError(f"no gain is known for {row.name!r}, a {type(row).__name__} row")
    return elementwise(row.gate if isinstance(row, Gated) else row.name).parameters


def _completed(row: Row, given: tuple[float, ...]) -> tuple[float, ...]:
    """The constants, with defaults where none are given."""
    known = _known(row)
    if len(given) > len(known):
        raise TypeError(f"{row.name} takes {len(known)} constants ({', '.join(known) or 'none'}), got {len(given)}")
    constants = (*given, *list(known.values())[len(given) :])
    missing = [constant for constant, value in zip(known, constants, strict=True) if math.isnan(value)]
    if missing:
        raise TypeError(f"{row.name} has no default for {', '.join(missing)}: give the constants {', '.join(known)}")
    if isinstance(row, Activation) and row.refuses and (refusal := row.refuses(*[*constants, 0.0, 0.0][:2])):
        raise refusal
    return constants


@cache
def _measured(row: Row, constants: tuple[float, ...]) -> tuple[float, float]:
    """The gain, and the logarithmic derivative of the second moment by the variance."""
    size, step = _moment(row, 1.0, constants), 1e-4
    if not (math.isfinite(size) and size > 1e-30):
        shown = ", ".join(f"{constant:g}" for constant in constants)
        raise ValueError(
            f"{row.name}({shown}) has the second moment {size:g} on normal inputs, for which there is no gain"
        )
    known = row.gain if isinstance(row, Activation) else None
    gain = 1 / math.sqrt(size) if known is None else known(*constants)
    above, below = (_moment(row, q, constants) for q in (1 + step, 1 - step))
    return gain, math.log(above / below) / math.log((1 + step) / (1 - step))
