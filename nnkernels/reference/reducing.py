"""softmax and its kin in torch operations: the truth for their kernels, and the route where kernels cannot go.

`log` asks for the logarithm, `scale` multiplies the input, `mask` is True (or a number to add) where an element counts,
`causal` keeps column j of query i if j <= i, the query being the index before `dim`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import compute_dtype


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> Tensor:
    """The (log-)softmax of scale x + mask along `dim`, in `dtype`. A row of which nothing is left gives 0 (-inf)."""
    x = x.to(dtype)
    wide = compute_dtype(x)
    z = x.to(wide) if scale == 1 else x.to(wide) * scale
    function = _log_softmax if log else torch.softmax
    if mask is None and not causal:
        return function(z, dim).to(dtype)
    if mask is not None:
        z = torch.where(mask, z, -math.inf) if mask.dtype == torch.bool else z + mask.to(wide)
    if causal:
        z = torch.where(_causal(x, dim), z, -math.inf)
    gone = z == -math.inf
    empty = gone.all(dim, keepdim=True)
    y = function(torch.where(empty, 0.0, z), dim)
    return (torch.where(gone, -math.inf, y) if log else torch.where(empty, 0.0, y)).to(dtype)


def _log_softmax(z: Tensor, dim: int) -> Tensor:
    """z - max - log(1 + rest): torch's own adds the 1 first, which costs a result close to 0 its digits."""
    if torch.compiler.is_compiling() or z.dim() == 0 or z.shape[dim] == 0:
        return torch.log_softmax(z, dim)
    first = z.argmax(dim, keepdim=True)
    d = z - z.detach().gather(dim, first)
    columns = torch.arange(z.shape[dim], device=z.device).view(-1, *(1 for _ in range(z.dim() - dim - 1)))
    rest = torch.where(columns == first, d.expm1(), d.exp()).sum(dim, keepdim=True)
    return d - rest.log1p()


def softmax_backward(
    grad: Tensor, y: Tensor, dim: int, log: bool, scale: float, causal: bool, masked: bool, dtype: torch.dtype
) -> Tensor:
    """The gradient for the input, of type `dtype`, from the output alone; differentiable in `grad` and `y`.

    Where `masked`, an output of -inf is a constant: what comes from above for it reaches nothing.
    """
    wide = compute_dtype(y)
    grad, y = grad.to(wide), y.to(wide)
    if not log:
        grad_x = y * (grad - (grad * y).sum(dim, keepdim=True))
    elif masked:
        gone = y == -math.inf
        grad = torch.where(gone, 0.0, grad)
        grad_x = torch.where(gone, 0.0, grad - y.exp() * grad.sum(dim, keepdim=True))
    else:
        grad_x = grad - y.exp() * grad.sum(dim, keepdim=True)
    return (grad_x if scale == 1 else grad_x * scale).to(dtype)


def _causal(x: Tensor, dim: int) -> Tensor:
    queries, columns = (torch.arange(x.shape[d], device=x.device) for d in (dim - 1, dim))
    keep = columns <= queries[:, None]
    return keep.view(*keep.shape, *(1 for _ in range(x.dim() - dim - 1)))
