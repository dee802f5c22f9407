"""bias, activation and dropout in one pass, as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional
from ..fusing import inner

__all__ = ["BiasAct"]


class BiasAct(torch.nn.Module):
    """dropout(f(x + bias)) + residual in one pass: the end of a linear layer or convolution without a bias of its own.

    Args:
        num_features: the number of channels.
        activation: the name of a stateless activation, or "identity".
        dropout_p: the probability of dropping an element in training, in [0, 1).
        dim: the channels' dimension, -1 behind a linear layer, 1 behind a convolution.
        bias: whether there is a bias; it starts at 0.
        device, dtype: of the bias.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, `num_features` in dimension `dim`. The optional `residual` of `forward` broadcasts.

    Raises:
        ValueError: dropout_p is not in [0, 1), or the activation is unknown.

    Example:
        >>> import torch, nnkernels
        >>> layer = torch.nn.Linear(8, 16, bias=False)
        >>> finish = nnkernels.nn.BiasAct(16, "gelu", dropout_p=0.1)
        >>> x = torch.randn(4, 8)
        >>> finish(layer(x), residual=torch.ones(4, 16)).shape
        torch.Size([4, 16])
    """

    def __init__(
        self,
        num_features: int,
        activation: str = "identity",
        dropout_p: float = 0.0,
        dim: int = -1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **constants: float,
    ) -> None:
        super().__init__()
        inner("BiasAct", activation, constants)
        if not 0 <= dropout_p < 1:
            raise ValueError(f"BiasAct(): dropout_p must be in [0, 1), got {dropout_p}")
        self.num_features, self.activation, self.dropout_p, self.dim = num_features, activation, dropout_p, dim
        self.constants = constants
        if bias:
            self.bias = torch.nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        following = -1 - self.dim if self.dim < 0 else input.dim() - 1 - self.dim
        if following < 0:
            raise IndexError(f"BiasAct(): dim={self.dim} is out of range for an input of shape {tuple(input.shape)}")
        bias = None if self.bias is None else self.bias.view(-1, *[1] * following)
        return functional.bias_act(
            input,
            bias,
            self.activation,
            dropout_p=self.dropout_p,
            residual=residual,
            training=self.training,
            **self.constants,
        )

    def extra_repr(self) -> str:
        shown = [f"{self.num_features}, {self.activation!r}"]
        shown += [f"dropout_p={self.dropout_p}"] if self.dropout_p else []
        shown += [f"dim={self.dim}"] if self.dim != -1 else []
        shown += ["bias=False"] if self.bias is None else []
        return ", ".join([*shown, *(f"{name}={value}" for name, value in self.constants.items())])
