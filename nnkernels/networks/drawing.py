"""What recipes draw of what was learned, on an empty figure of matplotlib: tiles, planes and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .trials import Learned


def tiles(figure: Any, rows: Mapping[str, Tensor]) -> None:
    """Rows of small grey pictures.

    Args:
        figure: of matplotlib.
        rows: for each title pictures `(count, height, width)`; each row is as long as the longest.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from nnkernels.networks.drawing import tiles
        >>> figure = Figure()
        >>> tiles(figure, {"noise": torch.rand(4, 8, 8)})
        >>> len(figure.axes)
        4
    """
    longest = max(map(len, rows.values()))
    grid = figure.subplots(len(rows), longest, squeeze=False)
    for line, (title, pictures) in zip(grid, rows.items(), strict=True):
        for axes in line:
            axes.axis("off")
        for axes, picture in zip(line, pictures.detach().cpu(), strict=False):
            axes.imshow(picture.numpy(), cmap="gray")
        line[0].set_title(title, loc="left", fontsize=10)


def mosaic(figure: Any, pictures: Tensor, rows: int, title: str) -> None:
    """One picture of `rows` lines of pictures `(count, height, width)`, edge to edge."""
    count, height, width = pictures.shape
    grid = pictures.view(rows, count // rows, height, width).transpose(1, 2).reshape(rows * height, -1)
    axes = figure.subplots()
    axes.imshow(grid.detach().numpy(), cmap="gray")
    axes.set_title(title)
    axes.axis("off")


def curves(figure: Any, lines: Mapping[str, tuple[Any, Any]], **axes: Any) -> None:
    """Lines by name, each a pair of its x and y; `axes` are such as `xlabel` and `yscale`."""
    drawn = figure.subplots()
    for name, (x, y) in lines.items():
        drawn.plot(x, y, label=name)
    drawn.set(**axes)
    drawn.legend(frameon=False)
    drawn.spines[["top", "right"]].set_visible(False)


def table(axes: Any, shares: Tensor, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    """Shares `(rows, columns)` of 0 to 1 as shades, on axes of matplotlib, each row and column with its label."""
    axes.imshow(shares.numpy(), cmap="Greys", vmin=0)
    axes.set_xticks(range(len(columns)), columns, family="monospace")
    axes.set_yticks(range(len(rows)), rows, family="monospace")
    axes.set_title(title)


def regions(figure: Any, inputs: Tensor, targets: Tensor, classify: Callable[[Tensor], Tensor]) -> None:
    """Which class wins where, on the plane in which the inputs vary most, and the inputs on it.

    Args:
        figure: of matplotlib.
        inputs: `(samples, features)`.
        targets: class numbers, `(samples,)`.
        classify: gives the class numbers of `(points, features)`.
    """
    inputs = inputs.double()
    mean = inputs.mean(0)
    plane = torch.linalg.svd(inputs - mean, full_matrices=False).Vh[:2]
    flat = (inputs - mean) @ plane.T
    low, high = flat.amin(0), flat.amax(0)
    steps = [torch.linspace(float(a), float(b), 200, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    points = torch.cartesian_prod(*steps)
    won = classify(points @ plane + mean).view(200, 200).T
    axes = figure.subplots()
    most = max(int(targets.max()), 1)
    extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    axes.imshow(won.numpy(), origin="lower", extent=extent, aspect="auto", cmap="tab10", alpha=0.35, vmin=0, vmax=most)
    axes.scatter(flat[:, 0], flat[:, 1], c=targets, cmap="tab10", s=8, vmin=0, vmax=most)
    axes.set(title="which class wins, on the plane of the two greatest variances", xticks=[], yticks=[])


def fitted_regions(learned: Learned, figure: Any) -> None:
    """`regions` of an estimator of classes and what it was tried on."""
    data = learned.data
    regions(
        figure,
        torch.from_numpy(data.held_x),
        torch.from_numpy(data.held_y),
        lambda points: torch.from_numpy(learned.model.predict(points.numpy().astype(np.float32))),
    )


def trained_regions(learned: Learned, figure: Any) -> None:
    """`regions` of a network that the trainer trained, and what it was held to."""
    held, shape = learned.data.held, learned.data.problem.shape

    @torch.no_grad()
    def classify(points: Tensor) -> Tensor:
        return learned.model(points.float().view(-1, *shape)).argmax(1)

    regions(figure, held.inputs.flatten(1), held.targets, classify)
