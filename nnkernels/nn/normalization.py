"""Layer and rms norm with residual and activation in one pass, and of a sum with it, as modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..arguments import integer
from ..fusing import inner

__all__ = ["AddLayerNorm", "AddRMSNorm", "GatedRMSNorm", "LayerNormAct", "RMSNormAct"]


class LayerNormAct(torch.nn.LayerNorm):
    """f(layer_norm(x) weight + bias + residual) in one pass; see `nnkernels.functional.layer_norm_act`.

    Args:
        normalized_shape: the sizes of the last dimensions, or the size of the last one or of dimension `dim`.
        eps: added to the variance; not negative.
        elementwise_affine: whether there is a weight, which starts at 1, and a bias.
        bias: whether there is a bias, which starts at 0.
        device, dtype: of weight and bias.
        activation: the name of a stateless activation, or "identity".
        dim: the one dimension to be normalised, if it is not the last: 1 for the channels of images.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, `(*, *normalized_shape)`, or with dimension `dim` of that size. The optional
    `residual` of `forward` broadcasts to it.
    Source: Ba, Kiros & Hinton 2016, Layer Normalization.

    Raises:
        ValueError: eps is negative, the activation is unknown, or there is a `dim` beside several sizes.
        TypeError: a constant that the activation lacks, or lacks a value for; a `dim` that is no whole number.

    Example:
        >>> import torch, nnkernels
        >>> norm = nnkernels.nn.LayerNormAct(8, activation="gelu")
        >>> norm  # doctest: +ELLIPSIS
        LayerNormAct((8,), eps=1e-05, elementwise_affine=True, ...activation='gelu')
        >>> norm(torch.randn(4, 8), residual=torch.ones(4, 8)).shape
        torch.Size([4, 8])
        >>> nnkernels.nn.LayerNormAct(8, dim=1)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    dim: int | None = None  # of modules that were pickled before there was one

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "identity",
        *,
        dim: int | None = None,
        **constants: float,
    ) -> None:
        inner("LayerNormAct", activation, constants)
        _check_eps("LayerNormAct", eps)
        _check_dim("LayerNormAct", normalized_shape, dim)
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)  # type: ignore[arg-type]
        self.activation = activation
        self.dim = dim
        self.constants: dict[str, Any] = constants

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return functional.layer_norm_act(
            input, self.normalized_shape, self.weight, self.bias, self.eps, self.activation,
            residual=residual, dim=self.dim, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return super().extra_repr() + _shown_dim(self) + _shown(self.activation, self.constants)


class RMSNormAct(torch.nn.RMSNorm):
    """f(rms_norm(x) weight + residual) in one pass; see `nnkernels.functional.rms_norm_act`.

    Args:
        normalized_shape: the sizes of the last dimensions, or the size of the last one or of dimension `dim`.
        eps: added to the mean square; not negative; None is the epsilon of the type in which is computed.
        elementwise_affine: whether there is a weight, which starts at 1.
        device, dtype: of the weight.
        offset: added to the weight, which then starts at 1 - offset: 1 in Gemma.
        activation: the name of a stateless activation, or "identity".
        dim: the one dimension to be normalised, if it is not the last: 1 for the channels of images.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, `(*, *normalized_shape)`, or with dimension `dim` of that size. The optional
    `residual` of `forward` broadcasts to it.
    Source: Zhang & Sennrich 2019, Root Mean Square Layer Normalization.

    Raises:
        ValueError: eps is negative, the activation is unknown, or there is a `dim` beside several sizes.
        TypeError: a constant that the activation lacks, or lacks a value for; a `dim` that is no whole number.

    Example:
        >>> import torch, nnkernels
        >>> norm = nnkernels.nn.RMSNormAct(8, activation="silu")
        >>> norm
        RMSNormAct((8,), eps=None, elementwise_affine=True, activation='silu')
        >>> norm(torch.randn(4, 8)).shape
        torch.Size([4, 8])
    """

    dim: int | None = None  # of modules that were pickled before there was one

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "identity",
        *,
        offset: float = 0.0,
        dim: int | None = None,
        **constants: float,
    ) -> None:
        inner("RMSNormAct", activation, constants)
        _check_eps("RMSNormAct", eps)
        _check_dim("RMSNormAct", normalized_shape, dim)
        self.offset = offset
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)  # type: ignore[arg-type]
        self.activation = activation
        self.dim = dim
        self.constants: dict[str, Any] = constants

    def reset_parameters(self) -> None:
        _start(self)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return functional.rms_norm_act(
            input, self.normalized_shape, self.weight, self.eps, self.activation,
            residual=residual, offset=self.offset, dim=self.dim, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return super().extra_repr() + _shown_offset(self) + _shown_dim(self) + _shown(self.activation, self.constants)


class AddLayerNorm(torch.nn.LayerNorm):
    """layer_norm(x + residual) and x + residual in one pass; see `nnkernels.functional.add_layer_norm`.

    Args:
        normalized_shape: the sizes of the last dimensions, or the size of the last one.
        eps: added to the variance; not negative.
        elementwise_affine: whether there is a weight, which starts at 1, and a bias.
        bias: whether there is a bias, which starts at 0.
        device, dtype: of weight and bias.

    Shape: input and both outputs alike, `(*, *normalized_shape)`. The residual broadcasts to it.
    Source: Ba, Kiros & Hinton 2016, Layer Normalization.

    Raises:
        ValueError: eps is negative.

    Example:
        >>> import torch, nnkernels
        >>> normed, total = nnkernels.nn.AddLayerNorm(8)(torch.randn(4, 8), torch.randn(4, 8))
        >>> normed.shape, total.shape
        (torch.Size([4, 8]), torch.Size([4, 8]))
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_eps("AddLayerNorm", eps)
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)  # type: ignore[arg-type]

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return functional.add_layer_norm(input, residual, self.normalized_shape, self.weight, self.bias, self.eps)


class AddRMSNorm(torch.nn.RMSNorm):
    """rms_norm(x + residual) and x + residual in one pass; see `nnkernels.functional.add_rms_norm`.

    Args:
        normalized_shape: the sizes of the last dimensions, or the size of the last one.
        eps: added to the mean square; not negative; None is the epsilon of the type in which is computed.
        elementwise_affine: whether there is a weight, which starts at 1.
        device, dtype: of the weight.
        offset: added to the weight, which then starts at 1 - offset: 1 in Gemma.

    Shape: input and both outputs alike, `(*, *normalized_shape)`. The residual broadcasts to it.
    Source: Zhang & Sennrich 2019, Root Mean Square Layer Normalization.

    Raises:
        ValueError: eps is negative.

    Example:
        >>> import torch, nnkernels
        >>> normed, total = nnkernels.nn.AddRMSNorm(8, offset=1.0)(torch.randn(4, 8), torch.randn(4, 8))
        >>> normed.shape, total.shape
        (torch.Size([4, 8]), torch.Size([4, 8]))
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        offset: float = 0.0,
    ) -> None:
        _check_eps("AddRMSNorm", eps)
        self.offset = offset
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        _start(self)

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return functional.add_rms_norm(
            input, residual, self.normalized_shape, self.weight, self.eps, offset=self.offset
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + _shown_offset(self)


class GatedRMSNorm(torch.nn.RMSNorm):
    """rms_norm(x) weight f(gate) in one pass; see `nnkernels.functional.gated_rms_norm`.

    Args:
        normalized_shape: the sizes of the last dimensions, or the size of the last one.
        eps: added to the mean square; not negative; None is the epsilon of the type in which is computed.
        elementwise_affine: whether there is a weight, which starts at 1.
        device, dtype: of the weight.
        activation: f, the name of a stateless activation, or "identity".
        norm_before_gate: whether f(gate) multiplies what is normalised, as in Qwen3-Next; else what is to be, as in
            Mamba-2.
        group_size: the size of the groups of a row that are normalised each by itself; None is the whole row.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, `(*, *normalized_shape)`. The gate broadcasts to it.
    Source: Dao & Gu 2024, Transformers are SSMs.

    Raises:
        ValueError: eps is negative, or the activation is unknown.
        TypeError: a constant that the activation lacks, or lacks a value for.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.GatedRMSNorm(8)(torch.randn(4, 8), torch.randn(4, 8)).shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "silu",
        norm_before_gate: bool = True,
        group_size: int | None = None,
        **constants: float,
    ) -> None:
        inner("GatedRMSNorm", activation, constants)
        _check_eps("GatedRMSNorm", eps)
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)  # type: ignore[arg-type]
        self.activation = activation
        self.norm_before_gate = norm_before_gate
        self.group_size = group_size
        self.constants: dict[str, Any] = constants

    def forward(self, input: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
        return functional.gated_rms_norm(
            input, gate, self.normalized_shape, self.weight, self.eps, self.activation,
            norm_before_gate=self.norm_before_gate, group_size=self.group_size, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        order = "" if self.norm_before_gate else ", norm_before_gate=False"
        groups = "" if self.group_size is None else f", group_size={self.group_size}"
        return super().extra_repr() + _shown(self.activation, self.constants) + order + groups


def _start(norm: RMSNormAct | AddRMSNorm) -> None:
    if norm.elementwise_affine:
        torch.nn.init.constant_(norm.weight, 1 - norm.offset)


def _shown_offset(norm: RMSNormAct | AddRMSNorm) -> str:
    return f", offset={norm.offset}" if norm.offset else ""


def _check_dim(name: str, normalized_shape: int | Sequence[int], dim: int | None) -> None:
    if dim is None:
        return
    dim = integer(name, "dim", dim)
    if isinstance(normalized_shape, Sequence) and len(normalized_shape) != 1:
        raise ValueError(f"{name}(): dim={dim} is one dimension, but there are several: {tuple(normalized_shape)}")


def _shown_dim(norm: LayerNormAct | RMSNormAct) -> str:
    return "" if norm.dim is None else f", dim={norm.dim}"


def _check_eps(name: str, eps: float | None) -> None:
    if eps is not None and not eps >= 0:
        raise ValueError(f"{name}(): eps must be a number of at least 0, got {eps}")


def _shown(activation: str, constants: dict[str, float]) -> str:
    given = {} if activation == "identity" else {"activation": activation}
    return "".join(f", {name}={value!r}" for name, value in {**given, **constants}.items())
