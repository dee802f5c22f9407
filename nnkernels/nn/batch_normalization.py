"""Batch and group normalisation with activation and residual, as modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..fusing import inner

__all__ = ["BatchNormAct1d", "BatchNormAct2d", "BatchNormAct3d", "GroupNormAct"]


def _with_activation(shown: str, activation: str, constants: dict[str, float]) -> str:
    return ", ".join([shown, repr(activation), *(f"{name}={value}" for name, value in constants.items())])


class _BatchNormAct(torch.nn.modules.batchnorm._BatchNorm):
    """What the three share: torch's constructor, buffers and bookkeeping."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "identity",
        *,
        bias: bool = True,
        process_group: Any = None,
        **constants: float,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        inner(type(self).__name__, activation, constants)
        if affine and not bias:
            self.register_parameter("bias", None)
        self.activation, self.constants, self.process_group = activation, constants, process_group

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        # symbolic_trace takes torch's module whole and walks through this one.
        if not isinstance(input, torch.fx.Proxy):
            self._check_input_dim(input)
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        tracks = not self.training or self.track_running_stats
        return functional.batch_norm_act(
            input,
            self.running_mean if tracks else None,
            self.running_var if tracks else None,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            factor,
            self.eps,
            self.activation,
            residual=residual,
            process_group=self.process_group if self.training else None,
            **self.constants,
        )

    def extra_repr(self) -> str:
        return _with_activation(super().extra_repr(), self.activation, self.constants)


_DOCUMENT = """f(batch_norm(x) + residual) in fewer passes: `torch.nn.BatchNorm{n}d` followed by an activation.

    Args:
        num_features: the number of channels C.
        eps: added to the variance.
        momentum: how far a batch moves the running statistics; None keeps the mean over all batches.
        affine: whether there are weight and bias, which start at 1 and 0.
        track_running_stats: whether evaluation uses running statistics; otherwise the batch's.
        device, dtype: of parameters and running statistics.
        activation: the name of a stateless activation, or "identity".
        bias: False leaves the bias out.
        process_group: of `torch.distributed`: statistics over all its processes, as in `torch.nn.SyncBatchNorm`.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, {shape}. The optional `residual` of `forward` has that shape too.
    The state dict is that of `torch.nn.BatchNorm{n}d`.

    Raises:
        ValueError: the activation is unknown; from `forward`, what `functional.batch_norm_act` raises.

    Source: Ioffe & Szegedy 2015.

    Example:
        >>> import torch, nnkernels
        >>> norm = nnkernels.nn.BatchNormAct{n}d(4, activation="silu")
        >>> x = torch.randn({example})
        >>> norm(x, residual=x).shape
        torch.Size([{example}])
    """


class BatchNormAct1d(_BatchNormAct, torch.nn.BatchNorm1d):
    __doc__ = _DOCUMENT.format(n=1, shape="(N, C) or (N, C, L)", example="8, 4, 5")


class BatchNormAct2d(_BatchNormAct, torch.nn.BatchNorm2d):
    __doc__ = _DOCUMENT.format(n=2, shape="(N, C, H, W)", example="8, 4, 5, 5")


class BatchNormAct3d(_BatchNormAct, torch.nn.BatchNorm3d):
    __doc__ = _DOCUMENT.format(n=3, shape="(N, C, D, H, W)", example="8, 4, 2, 5, 5")


class GroupNormAct(torch.nn.GroupNorm):
    """f(group_norm(x) + residual) in one operation: `torch.nn.GroupNorm` followed by an activation.

    Args:
        num_groups: how many groups the channels make.
        num_channels: the number of channels C.
        eps: added to the variance.
        affine: whether there are weight and bias, which start at 1 and 0.
        device, dtype: of the parameters.
        activation: the name of a stateless activation, or "identity".
        bias: False leaves the bias out.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, (N, C, ...). The optional `residual` of `forward` has that shape too.
    The state dict is that of `torch.nn.GroupNorm`.

    Raises:
        ValueError: num_groups does not divide num_channels, or the activation is unknown.

    Source: Wu & He 2018.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.GroupNormAct(2, 4, activation="silu")(torch.randn(8, 4, 5, 5)).shape
        torch.Size([8, 4, 5, 5])
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "identity",
        *,
        bias: bool = True,
        **constants: float,
    ) -> None:
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        inner("GroupNormAct", activation, constants)
        if affine and not bias:
            self.register_parameter("bias", None)
        self.activation, self.constants = activation, constants

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return functional.group_norm_act(
            input, self.num_groups, self.weight, self.bias, self.eps, self.activation,
            residual=residual, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return _with_activation(super().extra_repr(), self.activation, self.constants)
