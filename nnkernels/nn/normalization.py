"""Layer and rms norm with residual and activation in one pass, as modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import functional
from ..fusing import inner

__all__ = ["LayerNormAct", "RMSNormAct"]


class LayerNormAct(torch.nn.LayerNorm):
    """f(layer_norm(x) weight + bias + residual) in one pass; see `nnkernels.functional.layer_norm_act`.

    Args:
        normalized_shape: the sizes of the last dimensions, or the size of the last one.
        eps: added to the variance; not negative.
        elementwise_affine: whether there is a weight, which starts at 1, and a bias.
        bias: whether there is a bias, which starts at 0.
        device, dtype: of weight and bias.
        activation: the name of a stateless activation, or "identity".
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, `(*, *normalized_shape)`. The optional `residual` of `forward` broadcasts to it.
    Source: Ba, Kiros & Hinton 2016, Layer Normalization.

    Raises:
        ValueError: eps is negative, or the activation is unknown.
        TypeError: a constant that the activation lacks, or lacks a value for.

    Example:
        >>> import torch, nnkernels
        >>> norm = nnkernels.nn.LayerNormAct(8, activation="gelu")
        >>> norm  # doctest: +ELLIPSIS
        LayerNormAct((8,), eps=1e-05, elementwise_affine=True, ...activation='gelu')
        >>> norm(torch.randn(4, 8), residual=torch.ones(4, 8)).shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "identity",
        **constants: float,
    ) -> None:
        inner("LayerNormAct", activation, constants)
        _check_eps("LayerNormAct", eps)
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)  # type: ignore[arg-type]
        self.activation, self.constants = activation, constants

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return functional.layer_norm_act(
            input, self.normalized_shape, self.weight, self.bias, self.eps, self.activation,
            residual=residual, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return super().extra_repr() + _shown(self.activation, self.constants)


class RMSNormAct(torch.nn.RMSNorm):
    """f(rms_norm(x) weight + residual) in one pass; see `nnkernels.functional.rms_norm_act`.

    Args:
        normalized_shape: the sizes of the last dimensions, or the size of the last one.
        eps: added to the mean square; not negative; None is the epsilon of the type in which is computed.
        elementwise_affine: whether there is a weight, which starts at 1.
        device, dtype: of the weight.
        activation: the name of a stateless activation, or "identity".
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, `(*, *normalized_shape)`. The optional `residual` of `forward` broadcasts to it.
    Source: Zhang & Sennrich 2019, Root Mean Square Layer Normalization.

    Raises:
        ValueError: eps is negative, or the activation is unknown.
        TypeError: a constant that the activation lacks, or lacks a value for.

    Example:
        >>> import torch, nnkernels
        >>> norm = nnkernels.nn.RMSNormAct(8, activation="silu")
        >>> norm
        RMSNormAct((8,), eps=None, elementwise_affine=True, activation='silu')
        >>> norm(torch.randn(4, 8)).shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "identity",
        **constants: float,
    ) -> None:
        inner("RMSNormAct", activation, constants)
        _check_eps("RMSNormAct", eps)
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)  # type: ignore[arg-type]
        self.activation, self.constants = activation, constants

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return functional.rms_norm_act(
            input, self.normalized_shape, self.weight, self.eps, self.activation,
            residual=residual, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return super().extra_repr() + _shown(self.activation, self.constants)


def _check_eps(name: str, eps: float | None) -> None:
    if eps is not None and not eps >= 0:
        raise ValueError(f"{name}(): eps must be a number of at least 0, got {eps}")


def _shown(activation: str, constants: dict[str, float]) -> str:
    given = {} if activation == "identity" else {"activation": activation}
    return "".join(f", {name}={value!r}" for name, value in {**given, **constants}.items())
