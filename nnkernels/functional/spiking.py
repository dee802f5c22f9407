"""Neurons that leak, integrate and fire, as a function of the current over time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, number, refusal
from ..autograd import spiking as autograd
from ..autograd.shortcut import shortcut
from ..contracts.spiking import RESETS, SURROGATES, Neuron
from ..names import check

__all__ = ["lif"]

DECAY = 0.9
"""What is left of a potential one step later, unless a decay or time constant is given."""


@shortcut
def lif(
    current: Tensor,
    *,
    decay: float | None = None,
    tau: float | None = None,
    threshold: float = 1.0,
    surrogate: str = "fast_sigmoid",
    slope: float = 5.0,
    reset: str = "subtract",
    detach_reset: bool = True,
    v0: Tensor | None = None,
    return_potential: bool = False,
) -> Any:
    """Leaky integrate-and-fire neurons: v[t] = decay v[t-1] + current[t], a spike where v exceeds the threshold.

    A neuron that has fired begins the next step lower by the threshold, or anew at 0; so does snnTorch's `Leaky`.
    Backward is backpropagation through time with S'(slope (v - threshold)) in the place of the step's derivative:

        fast_sigmoid  1 / (1 + |z|)^2, snnTorch's with the same slope
        arctan        1 / (1 + z^2), snnTorch's and SpikingJelly's with slope pi alpha / 2, over alpha / 2
        triangular    max(0, 1 - |z|)
        sigmoid       4 sigmoid(z) sigmoid(-z), theirs with the same slope, over slope / 4

    One pass each way. Backward keeps `current` and `v0`, neither potentials nor spikes: it fires the neurons again.

    Args:
        current: `(steps, *)`, what each neuron receives at each step, in any layout, expanded along the steps for
            instance; float64, float32, bfloat16 or float16. The potential is float32 at least.
        decay: what is left of a potential one step later, in [0, 1]; snnTorch calls it beta. 0.9 by default.
        tau: instead of `decay`, the time constant in steps, at least 1: decay = 1 - 1/tau, as SpikingJelly's
            `LIFNode(tau, decay_input=False)`.
        threshold: above which a neuron fires, positive.
        surrogate: "fast_sigmoid", "arctan", "triangular" or "sigmoid".
        slope: how fast the surrogate falls off away from the threshold, where it is 1; positive.
        reset: "subtract" takes the threshold off, which does not decay with the rest; "zero" empties the neuron.
        detach_reset: whether gradients pass by the reset, as Zenke & Vogels (2021) advise.
        v0: the potential before the first step, of the shape `(*)` and type of one step; 0 if None. One above the
            threshold is reset first, as after a spike.
        return_potential: whether to return the potential after the last step too, from before its reset: the `v0` with
            which the neurons go on (rounded to the type of `current`).

    Returns:
        The spikes, 0 and 1 (NaN where the potential is), with the shape, type and layout of `current`; or these and the
        potential, of the shape `(*)`.

    Raises:
        ValueError: there is no step, a number is out of its range, both `decay` and `tau` are given, `v0` has another
            shape, or a name is not known.
        TypeError: `v0` has another type than `current`, or an argument is no tensor, or no number.
        NotImplementedError: the type is not one of the four.
        RuntimeError: `v0` is on another device, or the backend chosen by name cannot serve the input.

    Source: Neftci, Mostafa & Zenke 2019, Surrogate Gradient Learning in Spiking Neural Networks.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.lif(torch.full((6,), 0.5), decay=1.0)
        tensor([0., 0., 1., 0., 1., 0.])
    """
    given = (current,) if v0 is None else (current, v0)
    if has_torch_function(given):
        return handle_torch_function(
            lif, given, current, decay=decay, tau=tau, threshold=threshold, surrogate=surrogate, slope=slope,
            reset=reset, detach_reset=detach_reset, v0=v0, return_potential=return_potential,
        )  # fmt: skip
    neuron = neuron_of(decay, tau, threshold, surrogate, slope, reset, detach_reset)
    _check_current(current)
    if v0 is not None:
        _check_start(v0, current)
    result = autograd.call(neuron, current, v0, bool(return_potential))
    return (result[:-1], result[-1]) if return_potential else result


def neuron_of(
    decay: float | None,
    tau: float | None,
    threshold: float,
    surrogate: str,
    slope: float,
    reset: str,
    detach_reset: bool,
) -> Neuron:
    """The constants of `lif`.

    Raises:
        ValueError: one is out of its range, a name is not known, or both `decay` and `tau` are given.
        TypeError: one is no number.
    """
    check("surrogate", surrogate, SURROGATES)
    check("reset", reset, RESETS)
    if tau is not None:
        if decay is not None:
            raise ValueError(f"lif(): decay {decay} and tau {tau} say the same thing; give one of them")
        if not number("lif", "tau", tau) >= 1:
            raise ValueError(f"lif(): tau must be at least 1 step, got {tau}")
        decay = 1 - 1 / number("lif", "tau", tau)
    decay = DECAY if decay is None else number("lif", "decay", decay)
    if not 0 <= decay <= 1:
        raise ValueError(f"lif(): decay must lie in [0, 1], got {decay}")
    threshold, slope = number("lif", "threshold", threshold), number("lif", "slope", slope)
    for name, value in (("threshold", threshold), ("slope", slope)):
        if not 0 < value < math.inf:
            raise ValueError(f"lif(): {name} must be positive and finite, got {value}")
    return Neuron(decay, threshold, surrogate, slope, reset, bool(detach_reset))


def _check_current(current: Tensor) -> None:
    if not isinstance(current, Tensor):
        raise TypeError(f"lif(): argument 'current' must be Tensor, not {type(current).__name__}")
    if current.layout == torch.jagged:
        raise NotImplementedError(
            f"lif(): jagged tensors are not supported (current of shape {tuple(current.shape)}), whose first dimension "
            "is not time; use .to_padded_tensor()"
        )
    if not accepts(current):
        raise NotImplementedError(refusal("lif", current, "current"))
    if current.dim() == 0 or current.shape[0] == 0:
        raise ValueError(f"lif(): current has the shape (steps, *) with one step at least, got {tuple(current.shape)}")


def _check_start(v0: Tensor, current: Tensor) -> None:
    if not isinstance(v0, Tensor):
        raise TypeError(f"lif(): argument 'v0' must be Tensor or None, not {type(v0).__name__}")
    if v0.shape != current.shape[1:]:
        raise ValueError(
            f"lif(): v0 has shape {tuple(v0.shape)}, expected {tuple(current.shape[1:])}, one step of the current's "
            f"{tuple(current.shape)}"
        )
    if v0.dtype != current.dtype:
        raise TypeError(f"lif(): v0 is {v0.dtype}, the current {current.dtype}; give v0.to({current.dtype})")
    if v0.device != current.device:
        raise RuntimeError(f"lif(): v0 is on {v0.device}, the current on {current.device}")
