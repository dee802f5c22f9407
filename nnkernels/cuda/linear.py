"""Products with an activation where they end, in CUDA C++ for compute capability 9.0; the rest of them is Triton's.

`csrc/cuda/hopper/linear.cuh` tells how: the end of one tile hides behind the product of the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from ..contracts.inner import Inner
from ..contracts.linear import Ending, keeps_result
from ..pairing import as_matrix
from ..registry import IDENTITY
from ..triton import linear as triton
from ..triton.linear import activation_backward, gated, gated_backward, linear_maxout, maxout_backward, sizes

__all__ = ["activation_backward", "gated", "gated_backward", "linear_act", "linear_maxout", "maxout_backward"]

_ROWS, _COLS = 256, 128  # of the tile that two programs make together
# On an H200, of 132 multiprocessors: fewer tiles leave too many of them idle, and these shapes are cuBLAS's.
_LEAST_TILES = 64
_LEAST_COLS = 256
_LARGE_DEPTH, _LEAST_COLS_OF_LARGE = 1024, 1024
# Formulas of 23 and more instructions outlast products of fewer numbers than these.
_LONG = frozenset({"softcap", "softplus", "softsign", "sqrtsoftplus", "tanhshrink"})
_LEAST_DEPTH_OF_LONG = 2048


def linear_act(ending: Ending, x: Tensor, weight: Tensor, bias: Tensor | None, keeps: bool) -> tuple[Tensor, Tensor]:
    inner = ending.inner
    if not ending.exact and serves(inner, x, weight, bias) and pays(inner, *sizes(x, weight)):
        return product_act(inner, x, weight, bias, keeps and not keeps_result(inner))
    return triton.linear_act(ending, x, weight, bias, keeps)


def serves(inner: Inner, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernel takes such tensors; an identity is torch's product alone."""
    return (
        inner.name != IDENTITY.name
        and native.index_of(inner.name) is not None
        and triton.serves(x, weight, bias)
        and (bias is None or bias.data_ptr() % 4 == 0)
    )


def pays(inner: Inner, rows: int, cols: int, depth: int) -> bool:
    """Whether torch's product, and a kernel in its place, was measured to be slower."""
    tiles = -(-rows // _ROWS) * -(-cols // _COLS)
    least_cols = _LEAST_COLS if depth <= _LARGE_DEPTH else _LEAST_COLS_OF_LARGE
    return tiles >= _LEAST_TILES and cols >= least_cols and (inner.name not in _LONG or depth >= _LEAST_DEPTH_OF_LONG)


def product_act(inner: Inner, x: Tensor, weight: Tensor, bias: Tensor | None, stores: bool) -> tuple[Tensor, Tensor]:
    """f(x W^T + b), and the pre-activation if it `stores` that; else the result again."""
    y = x.new_empty((*x.shape[:-1], len(weight)))
    z = torch.empty_like(y) if stores else None
    torch.ops.nnkernels.linear_act(
        as_matrix(y), None if z is None else as_matrix(z), as_matrix(x), weight, bias,
        native.index_of(inner.name), inner.a, inner.b,
    )  # fmt: skip
    return y, y if z is None else z
