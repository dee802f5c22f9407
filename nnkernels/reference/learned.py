"""The activations with learned parameters in plain torch operations, differentiable to any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import compute_dtype, rounded
from .base import FAR, Logistic, exp_less_two_terms, expm1, near, negated, negative_abs, product, product_error
from .piecewise import starrelu
from .saving import pack, unpack

SNAKE_GUARD = 1e-9
"""What BigVGAN adds to the beta of Snake, lest the quotient by it be infinite."""


def along_channels(parameter: Tensor, x: Tensor) -> Tensor:
    """One parameter, or one for each channel, as it broadcasts against `x`."""
    return parameter.reshape(()) if parameter.numel() == 1 else parameter.reshape(-1, *[1] * (x.dim() - 2))


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    # Two masks, so that no infinity above zero meets the zero gradient there.
    return torch.where(x > 0, x, along_channels(weight, x) * torch.where(x > 0, 0.0, x))


def _held(x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """`x` held where |factor x| is at most FAR, and the bound."""
    bound = (FAR / factor.detach().abs()).clamp(max=torch.finfo(x.dtype).max)
    return near(x, bound), bound  # type: ignore[arg-type]


def _swish(x: Tensor, beta: Tensor) -> Tensor:
    """x sigmoid(beta x); where |beta x| is beyond FAR, x or 0."""
    beta = along_channels(beta, x)
    held, bound = _held(x, beta)
    z = product(beta, held)
    s = Logistic(z, product_error(held, beta, z))
    inside = torch.where(s.positive, held * s.r, s.tail.times(held * s.r))
    return torch.where((x > bound) | (x < -bound), torch.where(beta.detach() * x < 0, 0.0, x), inside)


def _apl(x: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    y = torch.relu(x)
    for slope, offset in zip(slopes.unbind(), offsets.unbind(), strict=True):
        y = y + along_channels(slope, x) * torch.relu(along_channels(offset, x) - x)
    return y


def _xielu(x: Tensor, p: Tensor, n: Tensor, beta: float, eps: float) -> Tensor:
    """Far below 0 alpha_n (e^x - 1 - x) + beta x is alpha_n (e^x - 1) - softplus(n) x, in which nothing cancels."""
    alpha_p, tail = (torch.nn.functional.softplus(along_channels(parameter, x)) for parameter in (p, n))
    alpha_n = beta + tail
    above, below = torch.where(x > 0, x, 0.0), torch.where(x > 0, 0.0, x)
    m = torch.minimum(below, torch.full((), eps, dtype=x.dtype, device=x.device))
    gap = exp_less_two_terms(m) + (near(m) - near(below))
    near_zero, far = alpha_n * gap + beta * below, alpha_n * expm1(m) - tail * below
    return torch.where(x > 0, above * (alpha_p * above + beta), torch.where(below > -1, near_zero, far))


def _snake_beta(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """x + sin(alpha x)^2 / (beta + 1e-9)"""
    alpha, beta = along_channels(alpha, x), along_channels(beta, x)
    z = product(alpha, x)
    error = product_error(x, alpha, z)
    error = torch.where(error.isfinite(), error, 0.0)
    sine = torch.sin(z) * torch.cos(error) + torch.cos(z) * torch.sin(error)  # which may be more than a turn
    return x + sine * sine / (beta + SNAKE_GUARD)


def _snake(x: Tensor, alpha: Tensor) -> Tensor:
    return _snake_beta(x, alpha, alpha)


def _starrelu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    scale, bias = along_channels(scale, x), along_channels(bias, x)
    y = scale * torch.relu(x).square() + bias
    rounded = y.detach()
    exact = starrelu.value(x.detach(), scale.detach(), bias.detach())
    return y + torch.where(exact == rounded, 0.0, exact - rounded)


def _dyt(x: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """gamma tanh(z) + beta, z = alpha x: tanh(|z|) is -m / (2 + m), m = exp(-2 |z|) - 1."""
    alpha = along_channels(alpha, x)
    held, _ = _held(x, alpha)
    z = product(alpha, held)
    error = 2 * product_error(held, alpha, z)
    m = expm1(2 * negative_abs(z), torch.where(z < 0, error, -error))
    return along_channels(gamma, x) * (torch.where(z < 0, m, negated(m)) / (2 + m)) + along_channels(beta, x)


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "prelu": _prelu,
    "swish": _swish,
    "apl": _apl,
    "xielu": _xielu,
    "snake": _snake,
    "snake_beta": _snake_beta,
    "starrelu": _starrelu,
    "dyt": _dyt,
}


def evaluate(name: str, constants: tuple[float, ...], x: Tensor, *parameters: Tensor) -> Tensor:
    """The activation called `name` at `x`, in `x`'s type."""
    wide = compute_dtype(x)
    given = (parameter.to(wide) for parameter in parameters)
    return FORMULAS[name](x.to(wide), *given, *(rounded(x, *constants) if constants else ())).to(x.dtype)


def forward(
    name: str,
    x: Tensor,
    parameters: Sequence[Tensor],
    constants: tuple[float, ...] = (),
    out: Tensor | None = None,
) -> Tensor:
    value = evaluate(name, constants, x, *parameters)
    return value if out is None else out.copy_(value)


def backward(
    name: str,
    grad: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    constants: tuple[float, ...],
    for_parameters: bool,
) -> tuple[Tensor, Sequence[Tensor]]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(), *(p.detach().requires_grad_(for_parameters) for p in parameters)]
        y = evaluate(name, constants, *leaves)
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
