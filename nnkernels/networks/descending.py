"""The training loop of networks whose batches are drawn anew at each step, in lengths that differ."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def descend(model: torch.nn.Module, loss: Callable[[int], Tensor], steps: int, lr: float, clip: float = 1.0) -> None:
    """Adam for `steps` steps; the learning rate rises for a tenth of them and falls along a cosine.

    Args:
        model: whose parameters are trained; left in the mode that it is in.
        loss: of a batch that it makes or takes itself, told the number of the step; one number.
        steps: how many, at least 1.
        lr: the greatest learning rate.
        clip: the greatest norm of the gradient.

    Example:
        >>> import torch
        >>> from nnkernels.networks.descending import descend
        >>> line = torch.nn.Linear(1, 1)
        >>> x = torch.linspace(-1, 1, 16).unsqueeze(1)
        >>> descend(line, lambda step: (line(x) - 2 * x).square().mean(), steps=200, lr=0.1)
        >>> abs(line.weight.item() - 2) < 0.01
        True
    """
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
