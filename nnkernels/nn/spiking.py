"""Neurons that leak, integrate and fire, as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.spiking import lif, neuron_of

__all__ = ["LIF"]


class LIF(torch.nn.Module):
    """Leaky integrate-and-fire neurons over time, which is dimension 0; see `nnkernels.functional.lif`.

    The module has no state: each call begins with `v0`, or with empty neurons.

    Args:
        decay: what is left of a potential one step later; 0.9 if neither it nor `tau` is given.
        tau: instead of `decay`, the time constant in steps.
        threshold: above which a neuron fires.
        surrogate: "fast_sigmoid", "arctan", "triangular" or "sigmoid".
        slope: how fast the surrogate falls off away from the threshold.
        reset: "subtract" or "zero".
        detach_reset: whether gradients pass by the reset.
        return_potential: whether to return the potential after the last step too.

    Shape: `(steps, *)` to `(steps, *)`, and `(*)` for the potential.
    Source: Neftci, Mostafa & Zenke 2019, Surrogate Gradient Learning in Spiking Neural Networks.

    Example:
        >>> import torch, nnkernels
        >>> layer = torch.nn.Sequential(torch.nn.Linear(8, 4), nnkernels.nn.LIF(tau=2.0))
        >>> layer(torch.zeros(16, 2, 8)).shape
        torch.Size([16, 2, 4])
    """

    def __init__(
        self,
        decay: float | None = None,
        tau: float | None = None,
        threshold: float = 1.0,
        surrogate: str = "fast_sigmoid",
        slope: float = 5.0,
        reset: str = "subtract",
        detach_reset: bool = True,
        return_potential: bool = False,
    ) -> None:
        super().__init__()
        self.neuron = neuron_of(decay, tau, threshold, surrogate, slope, reset, detach_reset)
        self.return_potential = return_potential

    def forward(self, input: Tensor, v0: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        return lif(input, **self.neuron._asdict(), v0=v0, return_potential=self.return_potential)

    def extra_repr(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.neuron._asdict().items())
        return told + (", return_potential=True" if self.return_potential else "")
