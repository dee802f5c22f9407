"""The random family's Triton kernels. Rows that are no whole groups of 8 elements are copied until they are one run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contracts.random import line, threshold
from ..layout import plan
from ..recording import launch
from . import backend, hardware

BERNOULLI_SHARES = 2  # random words and an exponential at once leave registers for half a tile


def rrelu(x: Tensor, seed: Tensor, lower: float, upper: float, out: Tensor | None = None) -> Tensor:
    from . import random_kernels

    y = torch.empty_like(x) if out is None else out
    _launch(random_kernels.rrelu, (x,), y, seed, *line(x.dtype, lower, upper))
    return y


def rrelu_backward(
    grad: Tensor, x: Tensor, seed: Tensor, strides: tuple[int, ...], lower: float, upper: float
) -> Tensor:
    from . import random_kernels

    grad_x = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
    _launch(random_kernels.rrelu_backward, (grad, x), grad_x, seed, *line(x.dtype, lower, upper))
    return grad_x


def rrelu_signs(x: Tensor, y: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    from . import random_kernels

    packed = torch.empty(-(-x.numel() // 8), dtype=torch.uint8, device=x.device)
    _launch_signs(random_kernels.rrelu_signs, x, y, packed, seed, *line(x.dtype, lower, upper))
    return packed


def rrelu_from_signs(grad: Tensor, packed: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    from . import random_kernels

    grad_x = torch.empty_like(grad)
    _launch_signs(random_kernels.rrelu_from_signs, grad, grad_x, packed, seed, *line(grad.dtype, lower, upper))
    return grad_x


def _launch_signs(kernel: Any, source: Tensor, target: Tensor, packed: Tensor, seed: Tensor, *scalars: float) -> None:
    count, block = source.numel(), hardware.TILE_BYTES // source.element_size()
    if count:
        with hardware.guard(source.device):
            launch(kernel, (-(-count // block),))(
                source, target, packed, seed, *scalars, count, block, num_warps=hardware.NUM_WARPS
            )


def dropout(
    x: Tensor, seed: Tensor, p: float, strides: tuple[int, ...] | None = None, out: Tensor | None = None
) -> Tensor:
    from . import random_kernels

    y = out
    if y is None:
        shape = x.shape
        y = (
            torch.empty_like(x)
            if strides is None
            else torch.empty_strided(shape, strides, dtype=x.dtype, device=x.device)
        )
    _launch(random_kernels.dropout, (x,), y, seed, threshold(p), 1 / (1 - p))
    return y


def dropout_kept(x: Tensor, seed: Tensor, p: float) -> tuple[Tensor, ...]:
    return (dropout(x, seed, p),)


def dropout_again(grad: Tensor, p: float, strides: tuple[int, ...], seed: Tensor, *packed: Tensor) -> Tensor:
    return dropout(grad, seed, p, strides)


def bernoulli(x: Tensor, seed: Tensor) -> Tensor:
    from . import random_kernels

    y = torch.empty_like(x)
    _launch(random_kernels.bernoulli, (x,), y, seed, shares=BERNOULLI_SHARES)
    return y


def _launch(
    kernel: Any, inputs: tuple[Tensor, ...], out: Tensor, seed: Tensor, *scalars: float, shares: int | None = None
) -> None:
    """Starts one program for each tile; of `hardware.TILE_BYTES`, each input has an equal share, or one of `shares`."""
    geometry, inputs = backend._fit(inputs, (out,))
    if geometry.rows > 1 and geometry.cols % 8:
        inputs = tuple(torch.empty_like(out).copy_(tensor) for tensor in inputs)
        dense = plan(*inputs, out)
        assert dense is not None and dense.rows == 1
        geometry = dense
    rows, cols, strides = geometry
    if rows == 0:
        return
    flat = rows == 1
    block = hardware.TILE_BYTES // (shares or len(inputs)) // out.element_size()
    block_cols = block if flat else min(backend._ROW_TILE, block, 1 << (cols - 1).bit_length())
    block_rows = 1 if flat else block // block_cols
    programs = -(-rows // block_rows) * -(-cols // block_cols)
    if flat:  # unused, so they should not make further variants
        strides = (0,) * len(strides)
    with hardware.guard(out.device):
        launch(kernel, (programs,))(
            *inputs, out, seed, *scalars, rows, cols, *strides, flat, cols % 16 == 0, block_rows, block_cols,
            num_warps=hardware.NUM_WARPS,
        )  # fmt: skip
