"""What stands behind products, in Triton; each function is told in `contracts/linear.py`.

A product and what stands behind it are one kernel where `linear_table` knows that to be faster; else torch's product and
a kernel that changes it in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contracts.gated import Gating, halves, is_bounded
from ..contracts.inner import Inner
from ..contracts.linear import Ending, keeps_result
from ..contracts.pooling import packed_bytes, width
from ..pairing import Pair, as_matrix
from ..recording import launch
from ..registry import elementwise
from . import fused, gated, hardware, linear_kernels, pooling
from .activations import FORMULAS
from .backend import TritonBackend
from .linear_table import Tiles

_PAIR = Pair(TritonBackend(), fused, gated, pooling)

activation_backward = _PAIR.activation_backward
maxout_backward = _PAIR.maxout_backward


def forward(
    tiles: Tiles, inner: Inner, x: Tensor, weight: Tensor, bias: Tensor | None, keeps: bool
) -> tuple[Tensor, Tensor]:
    """f(x W^T + b) of a matrix, and the pre-activation if it is to be kept; else the result again."""
    (rows, depth), cols = x.shape, weight.shape[0]
    y = x.new_empty((rows, cols))
    z = torch.empty_like(y) if keeps else y
    _launch(
        linear_kernels.forward, tiles, x, weight, bias, y, z, inner.a, inner.b, rows, cols, depth,
        FORMULAS[inner.name].value, keeps, of=y,
    )  # fmt: skip
    return y, z


def backward(
    tiles: Tiles, inner: Inner, grad: Tensor, weight: Tensor, kept: Tensor, sums: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What `hidden_backward` says."""
    (rows, depth), cols = grad.shape, weight.shape[1]
    d, again = torch.empty_like(kept), not keeps_result(inner)
    h = torch.empty_like(kept) if again else kept
    partial = grad.new_empty((-(-rows // tiles.rows), cols), dtype=torch.float32) if sums else None
    formula = FORMULAS[inner.name]
    _launch(
        linear_kernels.backward, tiles, grad, weight, kept, d, h, partial, inner.a, inner.b, rows, cols, depth,
        formula.value, formula.d1, elementwise(inner.name).masks, again, sums, of=d,
    )  # fmt: skip
    return d, h, None if partial is None else partial.sum(0)


def gated_forward(
    tiles: Tiles, gating: Gating, x: Tensor, weights: tuple[Tensor, Tensor], biases: tuple[Any, Any], packed: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What `linear_gated` says, of the weights and biases of gate and up; `packed` if they are parts of one."""
    (rows, depth), cols = x.shape, weights[0].shape[0]
    h, both = x.new_empty((rows, cols)), x.new_empty((rows, 2 * cols) if packed else (2, rows, cols))
    gate, up = halves(gating, both) if packed else both.unbind()
    _launch(
        linear_kernels.gated_forward, tiles, x, *weights, *biases, h, gate, up, gating.a, gating.b, rows, cols, depth,
        gate.stride(0), FORMULAS[gating.activation].value, of=h,
    )  # fmt: skip
    return (h, both, None) if packed else (h, gate, up)


def gated_backward(
    tiles: Tiles, gating: Gating, grad: Tensor, weight: Tensor, gate: Tensor, up: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What `gated_hidden_backward` says."""
    (rows, depth), cols = grad.shape, weight.shape[1]
    for_gate, for_up, h = torch.empty_like(gate), None if up is None else torch.empty_like(up), grad.new_empty((rows, cols))
    given, found = (halves(gating, gate), halves(gating, for_gate)) if up is None else ((gate, up), (for_gate, for_up))
    formula = FORMULAS[gating.activation]
    _launch(
        linear_kernels.gated_backward, tiles, grad, weight, *given, *found, h, gating.a, gating.b, rows, cols, depth,
        given[0].stride(0), formula.value, formula.d1, elementwise(gating.activation).masks, of=h,
    )  # fmt: skip
    return for_gate, for_up, h


def maxout(
    tiles: Tiles, x: Tensor, weight: Tensor, bias: Tensor | None, pieces: int, keeps: bool
) -> tuple[Tensor, Tensor | None]:
    """What `linear_maxout` says, of a matrix."""
    (rows, depth), cols = x.shape, weight.shape[0]
    y = x.new_empty((rows, cols // pieces))
    winners = x.new_empty(packed_bytes(y.numel(), pieces), dtype=torch.uint8) if keeps else None
    _launch(
        linear_kernels.maxout, tiles, x, weight, bias, y, winners, rows, cols, depth, pieces, width(pieces), keeps,
        of=x.new_empty((rows, cols), device="meta"),
    )  # fmt: skip
    return y, winners


def _launch(kernel: Any, tiles: Tiles, *arguments: Any, of: Tensor) -> None:
    """Starts so many programs as run at a time, or one for each tile of a matrix like `of`."""
    rows, cols = of.shape
    device = arguments[0].device
    programs = min(-(-rows // tiles.rows) * -(-cols // tiles.cols), tiles.programs * hardware.multiprocessors(device))
    with hardware.guard(device):
        launch(kernel, (programs,), scratches=True)(
            *arguments, tiles.rows, tiles.cols, tiles.depth, tiles.group, tiles.parts, tiles.flat,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
