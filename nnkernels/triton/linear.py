"""What stands behind torch's products, in Triton; each function is told in `contracts/linear.py`.

A product and what stands behind it are one kernel where this was measured to be faster, on the user's machine
(`linear_tuned`) or on ours (`linear_table`); else torch's product, whose own end serves where it has one, and a kernel
that changes it in place. Backward makes the hidden activation again in the pass that multiplies by its derivative; at
the end of the product before it the loads of that pass were in the way, and it took no less time (docs/decisions.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _torch
from ..contracts.fused import ALONG_COLS, Matrix
from ..contracts.gated import Gating
from ..contracts.inner import Inner
from ..contracts.linear import Ending, keeps_result
from ..contracts.pooling import packed_bytes, width
from ..pairing import Pair, as_matrix
from ..recording import launch
from . import fused, hardware, linear_kernels, linear_table, linear_tuned, pooling
from . import gated as gates
from .activations import FORMULAS
from .backend import TritonBackend
from .linear_table import Tiles
from .linear_tuned import CUDA, Tuned

_PAIR = Pair(TritonBackend(), fused, gates, pooling)

gated = _PAIR.gated
maxout_backward = _PAIR.maxout_backward


def linear_act(ending: Ending, x: Tensor, weight: Tensor, bias: Tensor | None, keeps: bool) -> tuple[Tensor, Tensor]:
    inner = ending.inner
    if not ending.exact and serves(x, weight, bias):
        stores = keeps and not keeps_result(inner)
        tuned = linear_tuned.of_activation(x.device, x.dtype, inner, stores, *sizes(x, weight))
        if (tuned is None or tuned.way == CUDA) and linear_table.knows(x.device):
            ends = linear_table.torch_ends(inner) and bias is not None
            tuned = Tuned(None if ends else linear_table.of_activation(inner, stores, *sizes(x, weight)))
        if tuned is not None:
            if isinstance(tuned.way, Tiles):
                return product_act(tuned.way, inner, x, weight, bias, stores)
            return torch_act(inner, x, weight, bias, keeps)
    return _PAIR.linear_act(ending, x, weight, bias, keeps)


def torch_act(inner: Inner, x: Tensor, weight: Tensor, bias: Tensor | None, keeps: bool) -> tuple[Tensor, Tensor]:
    """`linear_act` by torch's product, with its own end where that is right, else a kernel in its place."""
    if linear_table.torch_ends(inner) and bias is not None:
        y = _torch.linear_relu(as_matrix(x), weight, bias).view(*x.shape[:-1], len(weight))
        return y, y
    return _PAIR.linear_act(Ending(inner, False), x, weight, bias, keeps)


def activation_backward(
    inner: Inner, grad: Tensor, kept: Tensor, sums: bool, again: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if not again or keeps_result(inner) or grad.numel() == 0:
        return _PAIR.activation_backward(inner, grad, kept, sums, again)
    h = torch.empty_like(kept)
    rows, cols = grad.shape
    matrix = Matrix(rows, cols, ALONG_COLS, cols)
    return *fused.backward(inner, grad, kept, None, 0.0, None, matrix, sums, h), h


def hidden_backward(
    inner: Inner, grad: Tensor, weight: Tensor, kept: Tensor, sums: bool, again: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return activation_backward(inner, grad @ weight, kept, sums, again)


def gated_backward(
    gating: Gating, grad: Tensor, gate: Tensor, up: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    h = torch.empty_like(grad)
    return *gates.gradients(gating, grad, gate, up, h), h


def linear_maxout(
    x: Tensor, weight: Tensor, bias: Tensor | None, pieces: int, keeps: bool
) -> tuple[Tensor, Tensor | None]:
    if linear_table.knows(x.device) and serves(x, weight, bias):
        tiles = linear_table.of_maxout(pieces, *sizes(x, weight))
        if tiles is not None:
            return product_maxout(tiles, x, weight, bias, pieces, keeps)
    return _PAIR.linear_maxout(x, weight, bias, pieces, keeps)


def serves(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether kernels of products take such tensors: 16 bits, and rows that the copy engine can fetch."""
    return (
        x.element_size() == 2
        and x.is_contiguous()
        and weight.is_contiguous()
        and (bias is None or bias.is_contiguous())
        and x.numel() > 0
        and weight.numel() > 0
        and max(x.numel() // x.shape[-1], *weight.shape) < 2**31
        and weight.shape[0] % 8 == 0
        and weight.shape[1] % 8 == 0
        and all(one is None or one.data_ptr() % 16 == 0 for one in (x, weight))
    )


def product_act(
    tiles: Tiles, inner: Inner, x: Tensor, weight: Tensor, bias: Tensor | None, stores: bool
) -> tuple[Tensor, Tensor]:
    """f(x W^T + b), and the pre-activation if it `stores` that; else the result again."""
    (rows, cols, depth), shape = sizes(x, weight), (*x.shape[:-1], len(weight))
    y = x.new_empty(shape)
    z = torch.empty_like(y) if stores else y
    _launch(
        linear_kernels.forward, tiles, rows, cols, x, weight, bias, y, z, inner.a, inner.b, rows, cols, depth,
        FORMULAS[inner.name].value, stores,
    )  # fmt: skip
    return y, z


def product_maxout(
    tiles: Tiles, x: Tensor, weight: Tensor, bias: Tensor | None, pieces: int, keeps: bool
) -> tuple[Tensor, Tensor | None]:
    """The greatest of each `pieces` columns of x W^T + b, and the packed winners if they are to be kept."""
    rows, cols, depth = sizes(x, weight)
    y = x.new_empty((*x.shape[:-1], cols // pieces))
    winners = x.new_empty(packed_bytes(y.numel(), pieces), dtype=torch.uint8) if keeps else None
    _launch(
        linear_kernels.maxout, tiles, rows, cols, x, weight, bias, y, winners, rows, cols, depth, pieces,
        width(pieces), keeps,
    )  # fmt: skip
    return y, winners


def sizes(x: Tensor, weight: Tensor) -> tuple[int, int, int]:
    """Rows and columns of the product, and the numbers that each of its elements is a sum of."""
    return x.numel() // x.shape[-1], *weight.shape  # type: ignore[return-value]


def _launch(kernel: Any, tiles: Tiles, rows: int, cols: int, *arguments: Any) -> None:
    """Starts so many programs as run at a time, or one for each tile."""
    device = arguments[0].device
    programs = min(-(-rows // tiles.rows) * -(-cols // tiles.cols), tiles.programs * hardware.multiprocessors(device))
    with hardware.guard(device):
        launch(kernel, (programs,), scratches=True)(
            *arguments, tiles.rows, tiles.cols, tiles.depth, tiles.group, tiles.parts, tiles.flat,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
