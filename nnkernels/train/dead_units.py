"""Which units of a network are dead: off, with a derivative of exactly 0, whatever the sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import nn
from ..registry import activation, activations


def _modules() -> tuple[type[torch.nn.Module], ...]:
    return nn.Gated, *(getattr(nn, activation(name).module) for name in activations())


def units_off(model: torch.nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """For each activation of `model` the share of samples and places in which each of its units is off.

    Args:
        model: any network whose activations are modules of the family.
        inputs: one batch.

    Returns:
        For each activation's name a tensor with one number for each feature that goes in: 1 is a dead unit.

    Example:
        >>> import torch, nnkernels
        >>> from nnkernels.train.dead_units import units_off
        >>> model = torch.nn.Sequential(nnkernels.nn.ReLU())
        >>> units_off(model, torch.tensor([[-1.0, -1.0], [-2.0, 3.0]]))
        {'0': tensor([1.0000, 0.5000])}
    """
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if not given[0].is_floating_point():
                return
            with torch.enable_grad():
                leaf = given[0].detach().requires_grad_()
                (slope,) = torch.autograd.grad(module.forward(leaf).sum(), leaf)
            features = 1 if leaf.ndim > 3 else -1  # of pictures, or of anything else
            off = (slope == 0).movedim(features, -1)
            found[name] = off.flatten(0, -2).float().mean(0).cpu()

        return hook

    watched = [(name, module) for name, module in model.named_modules() if isinstance(module, _modules())]
    hooks = [module.register_forward_hook(watch(name)) for name, module in watched]
    was = model.training
    try:
        with torch.no_grad():
            model.eval()(inputs)
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    return found
