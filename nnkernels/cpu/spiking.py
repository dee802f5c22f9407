"""Spiking neurons in C++; what each function computes is told in `contracts/spiking.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.spiking import SURROGATES, Neuron


def lif(neuron: Neuron, current: Tensor, start: Tensor | None, spikes: Tensor, potential: Tensor | None) -> None:
    subtract = neuron.reset == "subtract"
    torch.ops.nnkernels.lif(current, start, spikes, potential, neuron.decay, neuron.threshold, subtract)


def lif_backward(
    neuron: Neuron,
    grad: Tensor,
    grad_potential: Tensor | None,
    current: Tensor,
    start: Tensor | None,
    grad_current: Tensor,
    grad_start: Tensor | None,
) -> None:
    torch.ops.nnkernels.lif_backward(
        grad, grad_potential, current, start, grad_current, grad_start,
        neuron.decay, neuron.threshold, SURROGATES.index(neuron.surrogate), neuron.slope, neuron.reset == "subtract",
        neuron.detach_reset,
    )  # fmt: skip
