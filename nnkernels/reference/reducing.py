"""softmax and its kin in torch operations: the truth for their kernels, and the route where kernels cannot go.

Backward is differentiable in every tensor that it is given.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _torch
from . import compute_dtype


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> Tensor:
    x = x.to(dtype)
    wide = compute_dtype(x)
    z = _logits(x.to(wide), dim, scale, mask, causal)
    function = _log_softmax if log else _softmax
    if mask is None and not causal:
        return function(z, dim).to(dtype)
    gone = z == -math.inf
    empty = gone.all(dim, keepdim=True)
    y = function(torch.where(empty, 0.0, z), dim)
    return (torch.where(gone, -math.inf, y) if log else torch.where(empty, 0.0, y)).to(dtype)


def log_softmax(
    x: Tensor, dim: int, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    return softmax(x, dim, True, scale, mask, causal, dtype), None


def _softmax(z: Tensor, dim: int) -> Tensor:
    """torch's own writes into an exponential that the gradient of a forward-mode tangent needs."""
    if not _torch.has_forward_level() or z.numel() == 0:
        return torch.softmax(z, dim)
    e = (z - z.detach().amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


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


def log_softmax_backward(
    grad: Tensor, x: Tensor, statistics: Tensor | None, dim: int, scale: float, mask: Tensor | None, causal: bool
) -> Tensor:
    wide = compute_dtype(x)
    grad = grad.to(wide)
    z = _logits(x.to(wide), dim, scale, mask, causal)
    if mask is None and not causal:
        grad_x = grad - _softmax(z, dim) * grad.sum(dim, keepdim=True)
    else:
        gone = z == -math.inf
        grad = torch.where(gone, 0.0, grad)
        p = _softmax(torch.where(gone.all(dim, keepdim=True), 0.0, z), dim)
        grad_x = torch.where(gone, 0.0, grad - p * grad.sum(dim, keepdim=True))
    return (grad_x if scale == 1 else grad_x * scale).to(x.dtype)


def _logits(x: Tensor, dim: int, scale: float, mask: Tensor | None, causal: bool) -> Tensor:
    """scale x + mask, -inf where the mask or the causal form removes an element."""
    x = x.contiguous()  # as results and gradients are
    if x.layout == torch.strided and 1 in x.shape:
        x = x.reshape(-1).reshape(x.shape)  # the usual strides along dimensions of size 1 too
    z = x if scale == 1 else x * scale
    if mask is not None:
        z = torch.where(mask, z, -math.inf) if mask.dtype == torch.bool else z + mask.to(z.dtype)
    return torch.where(_causal(x, dim), z, -math.inf) if causal else z


def _causal(x: Tensor, dim: int) -> Tensor:
    queries, columns = (torch.arange(x.shape[d], device=x.device) for d in (dim - 1, dim))
    keep = columns <= queries[:, None]
    return keep.view(*keep.shape, *(1 for _ in range(x.dim() - dim - 1)))
