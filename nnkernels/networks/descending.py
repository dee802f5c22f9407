"""The loop of recipes whose loss is not one of an output and a target, as the trainer's are: pairs, players, crowds."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def descend(
    parameters: Iterable[Tensor],
    loss: Callable[[Tensor], Tensor],
    samples: int,
    *,
    epochs: int = 20,
    batch: int = 64,
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    seed: int = 0,
) -> None:
    """Minimises a loss by Adam (Kingma & Ba 2015), the rate of which falls to 0 along half a cosine.

    Args:
        parameters: what is changed.
        loss: of the numbers of samples, `(at most batch,)`; a scalar.
        samples: how many there are.
        epochs: how often each is seen.
        batch: samples of one step.
        lr: the rate at the start.
        betas: of Adam's running means; players who move each other need a short first one (Radford et al. 2016).
        seed: of the order of the samples.

    Example:
        >>> import torch
        >>> from nnkernels.networks.descending import descend
        >>> values, mean = torch.tensor([1.0, 2.0, 6.0]), torch.zeros((), requires_grad=True)
        >>> descend([mean], lambda at: (values[at] - mean).square().mean(), 3, epochs=300, lr=0.1)
        >>> round(mean.item(), 2)
        3.0
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=betas)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-samples // batch))
    for _ in range(epochs):
        for at in torch.randperm(samples, generator=generator).split(batch):
            optimizer.zero_grad()
            loss(at).backward()
            optimizer.step()
            schedule.step()


def descend_drawn(
    model: torch.nn.Module, loss: Callable[[int], Tensor], steps: int, lr: float, clip: float = 1.0
) -> None:
    """Adam for `steps` batches that the loss draws itself; the rate rises for a tenth of them and falls along a cosine.

    Args:
        model: whose parameters are trained; left in the mode that it is in.
        loss: of a batch that it makes or takes itself, told the number of the step; one number.
        steps: how many, at least 1.
        lr: the greatest learning rate.
        clip: the greatest norm of the gradient.

    Example:
        >>> import torch
        >>> from nnkernels.networks.descending import descend_drawn
        >>> line = torch.nn.Linear(1, 1)
        >>> x = torch.linspace(-1, 1, 16).unsqueeze(1)
        >>> descend_drawn(line, lambda step: (line(x) - 2 * x).square().mean(), steps=200, lr=0.1)
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
