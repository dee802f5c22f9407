"""Products with an activation where they end, in CUDA C++ for compute capability 9.0; the rest of them is Triton's.

`csrc/cuda/hopper/` tells how: the end of one tile hides behind the product of the next.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .. import native
from ..contracts.inner import Inner
from ..contracts.linear import Ending, keeps_result
from ..pairing import Pair, as_matrix
from ..registry import IDENTITY
from ..triton import fused, linear_table, linear_tuned, pooling
from ..triton import gated as gates
from ..triton import linear as triton
from ..triton.linear import activation_backward, gated, gated_backward, linear_maxout, maxout_backward, sizes

__all__ = [
    "activation_backward", "gated", "gated_backward", "hidden_backward", "linear_act", "linear_maxout",
    "maxout_backward",
]  # fmt: skip

_PAIR = Pair(native.Native("cuda"), fused, gates, pooling)

_ROWS, _COLS = 256, 128  # of the tile that two programs make together
# On an H200, of 132 multiprocessors: fewer tiles leave too many of them idle, and these shapes are cuBLAS's.
_LEAST_TILES = 64
_LEAST_COLS = 256
_LARGE_DEPTH, _LEAST_COLS_OF_LARGE = 1024, 1024
# Formulas of 23 and more instructions outlast products of fewer numbers than these.
_LONG = frozenset({"softcap", "softplus", "softsign", "sqrtsoftplus", "tanhshrink"})
_LEAST_DEPTH_OF_LONG = 2048
# With the derivative; the others keep a pass of its own beside products of more numbers than these.
_SHORT_SLOPES = frozenset({
    "hardmish", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6",
    "relu_squared", "sigmoid", "silu", "softshrink", "starrelu", "threshold", "thresholded_relu",
})  # fmt: skip
_MOST_DEPTH_OF_SLOPES, _LEAST_COLS_OF_LARGE_SLOPES = 512, 8192


def linear_act(ending: Ending, x: Tensor, weight: Tensor, bias: Tensor | None, keeps: bool) -> tuple[Tensor, Tensor]:
    inner = ending.inner
    if ending.exact:  # the bits of the activation by itself, which this library's kernels serve
        return _PAIR.linear_act(ending, x, weight, bias, keeps)
    if serves(inner, x, weight, bias):
        stores, shape = keeps and not keeps_result(inner), sizes(x, weight)
        tuned = linear_tuned.of_activation(x.device, x.dtype, inner, stores, *shape)
        if pays(inner, *shape) if tuned is None else tuned.way == linear_tuned.CUDA:
            return product_act(inner, x, weight, bias, stores)
    return triton.linear_act(ending, x, weight, bias, keeps)


def hidden_backward(
    inner: Inner, grad: Tensor, weight: Tensor, kept: Tensor, sums: bool, again: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if (
        serves(inner, grad, weight, None)
        and _has_slope(inner.name)
        and kept.data_ptr() % 16 == 0
        and slope_pays(inner, len(grad), weight.shape[1], len(weight))
    ):
        return product_slope(inner, grad, weight, kept, sums, again)
    return triton.hidden_backward(inner, grad, weight, kept, sums, again)


def serves(inner: Inner, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernels take such tensors; an identity is torch's product alone."""
    return (
        inner.name != IDENTITY.name
        and linear_table.knows(x.device)
        and native.index_of(inner.name) is not None
        and triton.serves(x, weight, bias)
        and (bias is None or bias.data_ptr() % 4 == 0)
    )


@cache
def _has_slope(name: str) -> bool:
    """Whether the activation has a kernel that ends with its derivative."""
    loaded = native.library("cuda")
    return not isinstance(loaded, str) and bool(loaded.nnk_cuda_has_slope(native.index_of(name)))


def pays(inner: Inner, rows: int, cols: int, depth: int) -> bool:
    """Whether torch's product, and a kernel in its place, was measured to be slower."""
    tiles = -(-rows // _ROWS) * -(-cols // _COLS)
    least_cols = _LEAST_COLS if depth <= _LARGE_DEPTH else _LEAST_COLS_OF_LARGE
    return tiles >= _LEAST_TILES and cols >= least_cols and (inner.name not in _LONG or depth >= _LEAST_DEPTH_OF_LONG)


def slope_pays(inner: Inner, rows: int, cols: int, depth: int) -> bool:
    """The same of the derivative behind a product, beside a pass of its own."""
    return (
        pays(inner, rows, cols, depth)
        and (inner.name in _SHORT_SLOPES or depth <= _MOST_DEPTH_OF_SLOPES)
        and (depth <= _LARGE_DEPTH or cols >= _LEAST_COLS_OF_LARGE_SLOPES)
    )


def product_act(inner: Inner, x: Tensor, weight: Tensor, bias: Tensor | None, stores: bool) -> tuple[Tensor, Tensor]:
    """f(x W^T + b), and the pre-activation if it `stores` that; else the result again."""
    y = x.new_empty((*x.shape[:-1], len(weight)))
    z = torch.empty_like(y) if stores else None
    torch.ops.nnkernels.linear_act(
        as_matrix(y), None if z is None else as_matrix(z), as_matrix(x), weight, bias,
        native.index_of(inner.name), inner.a, inner.b,
    )  # fmt: skip
    return y, y if z is None else z


def product_slope(
    inner: Inner, grad: Tensor, weight: Tensor, kept: Tensor, sums: bool, again: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """d = (grad W) f'(kept), the sums of d's columns, and f(kept) again, where they are asked for."""
    d = torch.empty_like(kept)
    h = torch.empty_like(kept) if again and not keeps_result(inner) else None
    totals = None
    if sums:  # of 32 rows each, in order, so that they are the same every time
        parts = -(-len(grad) // _ROWS) * (_ROWS // 32)
        totals = grad.new_empty((parts, kept.shape[1]), dtype=torch.float32)
    torch.ops.nnkernels.linear_act_backward(
        d, h, totals, grad, weight, kept, native.index_of(inner.name), inner.a, inner.b
    )
    return d, None if totals is None else totals.sum(0), kept if again and h is None else h
