"""Looks at each loss without making a device wait, and finds the layer that made one infinite or NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class NotFinite(ArithmeticError):
    """A loss that is NaN or infinite; the message has the step, the batch and the layer."""


class Glance:
    """A loss on its way to the host, asked for before backward and read after it, so that a GPU never waits for us."""

    def __init__(self, loss: Tensor) -> None:
        self._here = loss.detach().to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if loss.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def value(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return self._here.item()


def all_finite(values: Any) -> bool:
    """Whether no number of a tensor, or of several in a list or tuple, is NaN or infinite."""
    tensors = values if isinstance(values, tuple | list) else [values]
    return all(bool(one.isfinite().all()) for one in tensors if isinstance(one, Tensor) and one.is_floating_point())


def culprit(model: torch.nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> str:
    """In words, where the first number that is not finite comes from.

    Args:
        model: as it was when it computed the loss.
        inputs, targets: the batch.
        loss: of outputs and targets.
    """
    for what, batch in (("input", inputs), ("target", targets)):
        bad = [sample for sample, values in enumerate(batch) if not all_finite(values)]
        if bad:
            return f"the {what} of sample {bad[0]} of the batch, before any layer"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, given: Any, output: Any) -> None:
            if found or all_finite(output):
                return
            ruined = [one for one, weight in module.named_parameters(recurse=False) if not all_finite(weight)]
            why = f"its {ruined[0]} is not finite" if ruined else "from a finite input"
            found.append(f"the layer {name} ({type(module).__name__}), {why}")

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    hooks = [module.register_forward_hook(watch(name or "the network")) for name, module in leaves]
    try:
        with torch.no_grad():
            outputs = model(inputs)
            if not found and not all_finite(loss(outputs, targets)):
                found.append(f"the loss itself, of outputs up to {outputs.abs().max().item():g} that are finite")
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "no layer when the batch was computed again (dropout drew other units)"


def few(samples: list[int]) -> str:
    """Their numbers in a sentence, the first eight."""
    return ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
