"""The activations with learned parameters in plain torch operations, differentiable to any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import compute_dtype
from .base import FAR, Logistic, near, product, product_error
from .saving import pack, unpack


def along_channels(parameter: Tensor, x: Tensor) -> Tensor:
    """One parameter, or one for each channel, as it broadcasts against `x`."""
    return parameter.reshape(()) if parameter.numel() == 1 else parameter.reshape(-1, *[1] * (x.dim() - 2))


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    # Two masks, so that no infinity above zero meets the zero gradient there.
    return torch.where(x > 0, x, along_channels(weight, x) * torch.where(x > 0, 0.0, x))


def _swish(x: Tensor, beta: Tensor) -> Tensor:
    """x sigmoid(beta x); where |beta x| is beyond FAR, x or 0."""
    beta = along_channels(beta, x)
    bound = (FAR / beta.detach().abs()).clamp(max=torch.finfo(x.dtype).max)
    held = near(x, bound)  # type: ignore[arg-type]
    z = product(beta, held)
    s = Logistic(z, product_error(held, beta, z))
    inside = torch.where(s.positive, held * s.r, s.tail.times(held * s.r))
    return torch.where((x > bound) | (x < -bound), torch.where(beta.detach() * x < 0, 0.0, x), inside)


def _apl(x: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    y = torch.relu(x)
    for slope, offset in zip(slopes.unbind(), offsets.unbind(), strict=True):
        y = y + along_channels(slope, x) * torch.relu(along_channels(offset, x) - x)
    return y


FORMULAS: dict[str, Callable[..., Tensor]] = {"prelu": _prelu, "swish": _swish, "apl": _apl}


def evaluate(name: str, x: Tensor, *parameters: Tensor) -> Tensor:
    """The activation called `name` at `x`, in `x`'s type."""
    wide = compute_dtype(x)
    return FORMULAS[name](x.to(wide), *(parameter.to(wide) for parameter in parameters)).to(x.dtype)


def forward(name: str, x: Tensor, parameters: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    value = evaluate(name, x, *parameters)
    return value if out is None else out.copy_(value)


def backward(
    name: str, grad: Tensor, x: Tensor, parameters: Sequence[Tensor], for_parameters: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(), *(p.detach().requires_grad_(for_parameters) for p in parameters)]
        y = evaluate(name, *leaves)
    grad_x, *rest = torch.autograd.grad(y, leaves if for_parameters else leaves[:1], grad)
    return grad_x, rest


def prelu_signs(x: Tensor, y: Tensor, weight: Tensor, inner: int) -> Tensor:
    packed = pack(~(x > 0), 1)
    y.copy_(prelu_from_signs(x, packed, weight, inner))
    return packed


def prelu_from_signs(grad: Tensor, packed: Tensor, weight: Tensor, inner: int) -> Tensor:
    wide = compute_dtype(grad)
    channel = torch.arange(grad.numel(), device=grad.device) // inner % weight.numel()
    below = unpack(packed, 1, grad.numel()) == 1
    return torch.where(below, grad.to(wide) * weight.to(wide).flatten()[channel], grad.to(wide)).to(grad.dtype)
