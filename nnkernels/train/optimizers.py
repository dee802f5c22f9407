"""Losses of torch.nn, optimisers of torch.optim and schedules, each by name."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer, lr_scheduler

from ..names import unknown

if TYPE_CHECKING:
    from .settings import Settings


def _losses() -> dict[str, type[torch.nn.Module]]:
    """Those that take an output and a target: cross_entropy for CrossEntropyLoss."""
    found = {}
    for name, made in vars(torch.nn).items():
        if name.endswith("Loss") and len(inspect.signature(made.forward).parameters) == 3:
            words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+\d*|\d+", name.removesuffix("Loss"))
            found["_".join(words).lower()] = made
    return found


LOSSES = _losses()
OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): made
    for name, made in vars(torch.optim).items()
    if isinstance(made, type) and issubclass(made, Optimizer) and made is not Optimizer
    if name not in ("LBFGS", "SparseAdam")  # they ask for a closure, and for sparse gradients
}


_FUSED_IN_PARTS = ("adam", "adamw")
"""The optimisers whose fused form torch also has for weights of which a process holds a part."""


def optimizer(settings: Settings, model: torch.nn.Module) -> Optimizer:
    """The optimiser of the settings, in its fused form where there is one; only matrices and kernels decay.

    Raises:
        ValueError: the optimiser does not take one of the arguments, or not these parameters.
    """
    made = OPTIMIZERS[settings.optimizer]
    takes = inspect.signature(made).parameters
    for name in settings.optimizer_arguments:
        if name not in takes:
            raise unknown(f"argument of {settings.optimizer}", name, [one for one in takes if one != "params"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained}]
    if "weight_decay" in takes:
        decays = [one for one in trained if one.ndim > 1]
        others = [one for one in trained if one.ndim <= 1]
        groups = [{"params": decays, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
    kinds = {getattr(one, "device_mesh", None) for one in trained}  # of parts of weights, or None for whole ones
    form: dict[str, bool] = {}
    if len(kinds) > 1:
        form = {"foreach": False}  # one weight after the other
    elif "fused" in takes and (kinds == {None} or settings.optimizer in _FUSED_IN_PARTS):
        places = {(one.device, one.dtype) for one in trained}
        form = {"fused": all(runs_fused(made, *place) for place in places)}  # type: ignore[arg-type]
    options: dict[str, Any] = {"lr": settings.lr, **form}
    return made(groups, **{**options, **settings.optimizer_arguments})


@functools.cache
def runs_fused(made: type[Optimizer], device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch has the fused form of an optimiser for a device and a type, asked by a step of one number.

    The constructor does not know: in torch 2.11 Adagrad's takes weights on a GPU, and has no kernel there.
    """
    weight = torch.zeros(1, device=device, dtype=dtype, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    try:
        made([weight], fused=True).step()  # type: ignore[call-arg]
    except RuntimeError:
        return False
    return True


_FORMS = ("foreach", "fused", "capturable")


def in_form_of(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state of such an optimiser, which may be from another machine, with the forms that were chosen here.

    Raises:
        KeyError: it is no state of an optimiser.
    """
    own, saved = optimizer.param_groups, state["param_groups"]
    if len(own) != len(saved):
        return state  # which is refused when it is loaded
    forms = [{name: group[name] for name in _FORMS if name in group} for group in own]
    return {**state, "param_groups": [{**group, **form} for group, form in zip(saved, forms, strict=True)]}


def _ramp(settings: Settings, total: int, after: Callable[[float], float]) -> Callable[[int], float]:
    """Rises over the warm-up, then goes as `after` says of the share of the rest that is over."""
    warm = round(settings.warmup * total)

    def factor(step: int) -> float:
        return (step + 1) / (warm + 1) if step < warm else after((step - warm) / max(total - warm, 1))

    return factor


def _scaled(after: Callable[[float], float]) -> Callable[[Optimizer, Settings, int], lr_scheduler.LRScheduler]:
    return lambda optimizer, settings, total: lr_scheduler.LambdaLR(optimizer, _ramp(settings, total, after))


def _one_cycle(optimizer: Optimizer, settings: Settings, total: int) -> lr_scheduler.LRScheduler:
    """Smith & Topin 2018; it starts at a 25th of the learning rate."""
    share = max(settings.warmup, 1 / max(total, 2))
    return lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=total + 1, pct_start=share, cycle_momentum=False)


def _plateau(optimizer: Optimizer, settings: Settings, total: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=3)


SCHEDULES: dict[str, Callable[[Optimizer, Settings, int], lr_scheduler.LRScheduler]] = {
    "constant": _scaled(lambda share: 1.0),
    "cosine": _scaled(lambda share: 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))),
    "one_cycle": _one_cycle,
    "step": _scaled(lambda share: 0.1 ** min(int(share * 3), 2)),  # a tenth after each third
    "plateau": _plateau,
}


class Schedule:
    """The learning rate over `total` steps; plateau's falls after evaluations without gain in the held-out loss."""

    def __init__(self, settings: Settings, optimizer: Optimizer, total: int) -> None:
        self.scheduler = SCHEDULES[settings.schedule](optimizer, settings, total)
        self._waits = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)

    def step(self) -> None:
        """After each step of the optimiser."""
        if not self._waits:
            self.scheduler.step()

    def evaluated(self, held_loss: float) -> None:
        """After each evaluation."""
        if self._waits:
            self.scheduler.step(held_loss)  # type: ignore[arg-type]

    @property
    def lr(self) -> float:
        return self.scheduler.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)
