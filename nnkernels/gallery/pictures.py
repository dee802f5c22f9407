"""Draws the gallery with matplotlib, without pyplot's state: one picture for each row, and one of all.

Value and slope differ in colour (Okabe and Ito's palette, which colour-blind readers can tell apart) and in dash.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..registry import Activation, Row
from .drawings import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWEST, HIGHEST = -4.2, 6.4
"""What grows beyond is cut off, so that knees stay visible."""


@dataclass(frozen=True)
class Theme:
    paper: str
    ink: str
    grid: str
    value: str
    slope: str


LIGHT = Theme(paper="#ffffff", ink="#222222", grid="#dddddd", value="#0072b2", slope="#d55e00")
DARK = Theme(paper="#1b1e24", ink="#e2e2e2", grid="#3c4048", value="#56b4e9", slope="#e69f00")


def picture(row: Row, drawing: Drawing, theme: Theme = LIGHT) -> bytes:
    """One row as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.4), layout="constrained", facecolor=theme.paper)
    axes = figure.add_subplot()
    _draw(axes, drawing, theme, width=2.2)
    axes.set_title(row.module, color=theme.ink, fontsize=13, fontweight="bold", loc="left")
    axes.set_title(drawing.note, color=theme.ink, fontsize=8.5, loc="right")
    axes.set_xlabel(drawing.across, color=theme.ink, fontsize=9)
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=theme.ink, handlelength=2.6)
    return _png(figure, 150)


def overview(drawn: Sequence[tuple[Row, Drawing]], theme: Theme = LIGHT) -> bytes:
    """All rows as small multiples in one PNG."""
    from matplotlib.figure import Figure

    across = min(6, len(drawn))
    down = math.ceil(len(drawn) / across)
    # At least as wide as two panels, for the legend.
    figure = Figure(figsize=(2.35 * max(across, 2), 1.95 * down + 0.5), layout="constrained", facecolor=theme.paper)
    for place, (row, drawing) in enumerate(drawn, 1):
        axes = figure.add_subplot(down, across, place)
        _draw(axes, drawing, theme, width=1.7)
        axes.set_title(row.name, color=theme.ink, fontsize=10, fontweight="bold", loc="left", pad=3)
        if isinstance(row, Activation):
            axes.set_title(drawing.note, color=theme.ink, fontsize=6.5, loc="right", pad=3)
        axes.tick_params(labelsize=7)
    lines, _ = axes.get_legend_handles_labels()
    figure.legend(
        lines[:2], ["value", "derivative"], loc="outside upper right", ncols=2, frameon=False, labelcolor=theme.ink
    )
    return _png(figure, 110)


def _draw(axes: Axes, drawing: Drawing, theme: Theme, width: float) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.grid, linewidth=0.6)
    for line in (axes.axhline, axes.axvline):
        line(0, color=theme.ink, linewidth=0.7, alpha=0.6)
    if drawing.band:
        lower, upper = drawing.band
        axes.fill_between(lower.x, lower.value, upper.value, color=theme.value, alpha=0.28, linewidth=0)
    for helper in drawing.helpers:
        axes.plot(helper.x, helper.value, color=theme.ink, linewidth=0.8, alpha=0.55)
    curve = drawing.curve
    axes.plot(curve.x, curve.value, color=theme.value, linewidth=width, label=drawing.up, zorder=3)
    axes.plot(
        curve.x,
        curve.slope,
        color=theme.slope,
        linewidth=0.8 * width,
        dashes=(3.5, 1.6),
        label="derivative",
        zorder=3.5,
    )
    for x, low, high in curve.jumps:
        axes.plot([x, x], [low, high], color=theme.value, linewidth=0.5 * width, linestyle=":")
    points = [*curve.knees, *((x, y) for x, *ends in curve.jumps for y in ends)]
    if points:
        axes.plot(
            *zip(*points, strict=True),
            "o",
            markersize=2.4 * width,
            color=theme.paper,
            markeredgecolor=theme.value,
            zorder=4,
        )
    axes.set_xlim(curve.x[0].item(), curve.x[-1].item())
    axes.set_ylim(*_limits(drawing))
    axes.tick_params(colors=theme.ink, length=2.5, width=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.ink)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)
    axes.locator_params(nbins=6)


def _limits(drawing: Drawing) -> tuple[float, float]:
    shown = torch.cat([drawing.curve.value, drawing.curve.slope, *(edge.value for edge in drawing.band or ())])
    shown = shown[shown.isfinite()]
    low, high = max(shown.min().item(), LOWEST), min(shown.max().item(), HIGHEST)
    margin = 0.07 * (high - low)
    return low - margin, high + margin


def _png(figure: Figure, dpi: int) -> bytes:
    """With a palette, which takes a third of the bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = io.BytesIO()
    pixels.quantize(96, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()
