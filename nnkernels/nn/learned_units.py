"""The learned activations of today's language models, vocoders and transformers without norms, as modules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from .. import functional
from ..arguments import number

__all__ = ["XIELU", "DyT", "Snake", "SnakeBeta"]


def _before_softplus(value: float) -> float:
    """What softplus makes `value` of, which must be positive."""
    return value + math.log(-math.expm1(-value))


class XIELU(torch.nn.Module):
    """a x^2 + beta x for x > 0, b (exp(min(x, eps)) - 1 - x) + beta x else, with learned a > 0 and b > beta.

    Its parameters, arguments and state dict are those of transformers' `XIELUActivation`, which Apertus uses.

    Args:
        alpha_p_init: where a starts.
        alpha_n_init: where b starts.
        beta: the slope at 0, a constant.
        eps: a constant: between it and 0 the exponential is held; with 0 the function is the paper's.
        device: of the parameters.
        dtype: of the parameters; it need not be the input's.

    Raises:
        ValueError: a would not start above 0, or b not above beta.

    Attributes:
        alpha_p: shape (1,), a = softplus(alpha_p).
        alpha_n: shape (1,), b = beta + softplus(alpha_n).

    Shape: input and output alike, any shape. Source: Huang & Schlag 2024.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.XIELU()(torch.tensor([-1.0, 0.0, 1.0])).detach().mul(10).round().tolist()
        [-2.0, -0.0, 13.0]
    """

    def __init__(
        self,
        alpha_p_init: float = 0.8,
        alpha_n_init: float = 0.8,
        beta: float = 0.5,
        eps: float = -1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not (alpha_p_init > 0 and alpha_n_init > beta):
            raise ValueError(
                "XIELU needs alpha_p_init > 0 and alpha_n_init > beta, got "
                f"alpha_p_init={alpha_p_init}, alpha_n_init={alpha_n_init} and beta={beta}"
            )
        self.alpha_p_init = alpha_p_init
        self.alpha_n_init = alpha_n_init
        self.beta = number("XIELU", "beta", beta)
        self.eps = number("XIELU", "eps", eps)
        self.alpha_p = Parameter(torch.empty(1, device=device, dtype=dtype))
        self.alpha_n = Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.constant_(self.alpha_p, _before_softplus(self.alpha_p_init))
        torch.nn.init.constant_(self.alpha_n, _before_softplus(self.alpha_n_init - self.beta))

    def forward(self, input: Tensor) -> Tensor:
        return functional.xielu(input, self.alpha_p, self.alpha_n, self.beta, self.eps)

    # transformers has both constants in the state dict; they are numbers here, so that no call waits for a device.
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in ("beta", "eps"):
            destination[prefix + name] = torch.tensor(
                getattr(self, name), dtype=self.alpha_p.dtype, device=self.alpha_p.device
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name in ("beta", "eps"):
            if prefix + name in state_dict:
                setattr(self, name, state_dict[prefix + name].item())
        kept = {key: value for key, value in state_dict.items() if key not in (prefix + "beta", prefix + "eps")}
        super()._load_from_state_dict(kept, prefix, *rest)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, eps={self.eps}"


class Snake(torch.nn.Module):
    """x + sin(alpha x)^2 / (alpha + 1e-9), with a learned alpha for each channel.

    Args:
        in_features: the number of channels (dimension 1 of the input).
        alpha: where alpha starts; with `alpha_logscale` its logarithm does.
        alpha_trainable: whether the parameters require a gradient.
        alpha_logscale: whether the logarithm of alpha is learned, so that alpha stays positive.
        device: of the parameters.
        dtype: of the parameters; it need not be the input's.

    Attributes:
        alpha: shape (in_features,), or its logarithm.

    Arguments and state dict are those of BigVGAN's `Snake`, where the logarithm starts at 0 whatever `alpha` is.

    Shape: input and output alike, (N, in_features, ...). Source: Ziyin, Hartwig & Ueda 2020.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Snake(3, alpha_logscale=True)(torch.zeros(2, 3, 8)).shape
        torch.Size([2, 3, 8])
    """

    _names: tuple[str, ...] = ("alpha",)

    def __init__(
        self,
        in_features: int,
        alpha: float = 1.0,
        alpha_trainable: bool = True,
        alpha_logscale: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.alpha_logscale = alpha_logscale
        self.init = number(type(self).__name__, "alpha", alpha)
        for name in self._names:
            empty = torch.empty(in_features, device=device, dtype=dtype)
            setattr(self, name, Parameter(empty, requires_grad=alpha_trainable))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            torch.nn.init.constant_(parameter, 0.0 if self.alpha_logscale else self.init)

    def forward(self, input: Tensor) -> Tensor:
        return functional.snake(input, *self._scales())

    def _scales(self) -> list[Tensor]:
        found = [getattr(self, name) for name in self._names]
        return [one.exp() for one in found] if self.alpha_logscale else found

    def extra_repr(self) -> str:
        return f"{self.in_features}{', alpha_logscale=True' if self.alpha_logscale else ''}"


class SnakeBeta(Snake):
    """x + sin(alpha x)^2 / (beta + 1e-9), with a learned alpha and beta for each channel.

    Args:
        in_features: the number of channels (dimension 1 of the input).
        alpha: where alpha and beta start; with `alpha_logscale` their logarithms start at 0.
        alpha_trainable: whether the parameters require a gradient.
        alpha_logscale: whether the logarithms are learned, so that both stay positive.
        device: of the parameters.
        dtype: of the parameters; it need not be the input's.

    Attributes:
        alpha, beta: shape (in_features,), or the logarithms.

    Arguments and state dict are those of BigVGAN's `SnakeBeta`.

    Shape: input and output alike, (N, in_features, ...). Source: Lee et al. 2023, BigVGAN.

    Example:
        >>> import torch, nnkernels
        >>> sorted(nnkernels.nn.SnakeBeta(3).state_dict())
        ['alpha', 'beta']
    """

    _names = ("alpha", "beta")

    def forward(self, input: Tensor) -> Tensor:
        return functional.snake_beta(input, *self._scales())


class DyT(torch.nn.Module):
    """weight tanh(alpha x) + bias, in place of a norm: one learned alpha, weight and bias for each channel.

    Args:
        num_features: the number of channels.
        alpha_init_value: where alpha starts.
        dim: the dimension of the channels: the last, or 1 of images.
        device: of the parameters.
        dtype: of the parameters; it need not be the input's.

    Attributes:
        alpha: shape (1,).
        weight, bias: shape (num_features,), at first 1 and 0.

    Shape: input and output alike, num_features along `dim`.
    Source: Zhu, Chen, He, LeCun & Liu 2025, Transformers without Normalization.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.DyT(8)(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        num_features: int,
        alpha_init_value: float = 0.5,
        dim: int = -1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.alpha_init_value = number("DyT", "alpha_init_value", alpha_init_value)
        self.dim = dim
        self.alpha = Parameter(torch.empty(1, device=device, dtype=dtype))
        self.weight = Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.bias = Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.constant_(self.alpha, self.alpha_init_value)
        torch.nn.init.ones_(self.weight)
        torch.nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return functional.dyt(input, self.alpha, self.weight, self.bias, self.dim)

    def extra_repr(self) -> str:
        return f"{self.num_features}, alpha_init_value={self.alpha_init_value}, dim={self.dim}"
