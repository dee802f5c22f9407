"""Spiking neurons in torch operations; the formulas are told in `contracts/spiking.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contracts.spiking import Neuron
from ..layout import memory_order, restored
from . import base


def _from_the_axis(z: Tensor) -> Tensor:
    """z / (1 + |z|), whose derivative at 0 is 1 also for autograd; for an infinite z, 1."""
    right = z >= 0
    size = torch.where(right, z, -z)
    return torch.where(right, 1.0, -1.0) * (1 - 1 / (1 + size))


def _hat_below(z: Tensor) -> Tensor:
    inside = z.clamp(-1, 1)
    return inside - 0.5 * inside * inside.abs()


_SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "fast_sigmoid": _from_the_axis,
    "arctan": torch.atan,
    "triangular": _hat_below,
    "sigmoid": lambda z: 4 * torch.sigmoid(z),
}
"""A function whose derivative is the surrogate."""

SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "fast_sigmoid": lambda z: (1 / (1 + z.abs())).square(),
    "arctan": lambda z: 1 / (1 + z.square()),
    "triangular": lambda z: torch.relu(1 - z.abs()),
    "sigmoid": lambda z: 4 * torch.sigmoid(z) * torch.sigmoid(-z),
}


def _spikes(neuron: Neuron, v: Tensor) -> Tensor:
    """The step at the threshold with the derivatives of a smooth function, to any order and in any mode; NaN of NaN.

    Not a Function, whose forward mode drops the second derivative where it is nested (pytorch #197867).
    """
    smooth = _SMOOTH[neuron.surrogate](neuron.slope * (v - neuron.threshold)) / neuron.slope
    return (v > neuron.threshold).to(v.dtype) + (smooth - smooth.detach())


def _advanced(neuron: Neuron, v: Tensor, fired: Tensor, current: Tensor) -> Tensor:
    if neuron.reset == "subtract":
        return neuron.decay * v + current - neuron.threshold * fired
    return neuron.decay * v * (1 - fired) + current


def _wide(x: Tensor) -> Tensor:
    """Not in float64 for float32: near the threshold, neurons would fire otherwise than the kernels' do."""
    return x if x.dtype == torch.float32 else x.to(base.compute_dtype(x))


def composed(neuron: Neuron, current: Tensor, start: Tensor | None, with_potential: bool = False) -> Tensor:
    """The spikes for any tensors, differentiable to any order and lying as `current` does.

    With the potential after the last step, which is then one more step at the end.
    """
    received = _wide(current).unbind(0)
    v = torch.zeros_like(received[0]) if start is None else start.to(received[0].dtype)
    spikes: list[Tensor] = []
    fired = _spikes(neuron, v)
    for one in received:
        v = _advanced(neuron, v, fired.detach() if neuron.detach_reset else fired, one)
        fired = _spikes(neuron, v)
        spikes.append(fired.to(current.dtype))
    if with_potential:
        spikes.append(v.to(current.dtype))
    order = memory_order(current)
    if order is None:
        return torch.stack(spikes)
    neurons = [dim - 1 for dim in order if dim]
    return restored(torch.stack([one.permute(neurons) for one in spikes], order.index(0)), order)


def _potentials(neuron: Neuron, current: Tensor, start: Tensor | None) -> list[Tensor]:
    """Before the first step, and after each."""
    received = _wide(current).unbind(0)
    potentials = [torch.zeros_like(received[0]) if start is None else start.to(received[0].dtype)]
    for one in received:
        v = potentials[-1]
        potentials.append(_advanced(neuron, v, (v > neuron.threshold).to(v.dtype), one))
    return potentials


def lif(neuron: Neuron, current: Tensor, start: Tensor | None, spikes: Tensor, potential: Tensor | None) -> None:
    potentials = _potentials(neuron, current, start)
    for v, fired in zip(potentials[1:], spikes.unbind(0), strict=True):
        fired.copy_(torch.where(v.isnan(), v, (v > neuron.threshold).to(v.dtype)))
    if potential is not None:
        potential.copy_(potentials[-1])


def lif_backward(
    neuron: Neuron,
    grad: Tensor,
    grad_potential: Tensor | None,
    current: Tensor,
    start: Tensor | None,
    grad_current: Tensor,
    grad_start: Tensor | None,
) -> None:
    before, *potentials = _potentials(neuron, current, start)
    carried = torch.zeros_like(before)
    for t in reversed(range(len(potentials))):
        carried = _pulled(neuron, potentials[t], grad[t].to(before.dtype), carried)
        if grad_potential is not None and t == len(potentials) - 1:
            carried = carried + grad_potential
        grad_current[t].copy_(carried)
    if grad_start is not None:
        grad_start.copy_(_pulled(neuron, before, torch.zeros_like(before), carried))


def _pulled(neuron: Neuron, v: Tensor, grad: Tensor, carried: Tensor) -> Tensor:
    """The gradient at the potential `v`, told the one at that of the next step."""
    kept = neuron.decay * carried
    lost = neuron.threshold * carried
    if neuron.reset == "zero":
        kept, lost = torch.where(v > neuron.threshold, 0.0, kept), v * kept
    if not neuron.detach_reset:
        grad = grad - lost
    return kept + grad * SURROGATES[neuron.surrogate](neuron.slope * (v - neuron.threshold))
