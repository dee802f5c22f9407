"""Batch and group normalisation with activation and residual, as modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from .. import functional
from ..fusing import inner

__all__ = ["BatchNormAct1d", "BatchNormAct2d", "BatchNormAct3d", "GroupNormAct", "SyncBatchNormAct"]


def _with_activation(shown: str, activation: str, constants: dict[str, float]) -> str:
    return ", ".join([shown, repr(activation), *(f"{name}={value}" for name, value in constants.items())])


def batch_norm_act(
    norm: Any,
    input: Tensor,
    activation: str,
    constants: Mapping[str, float],
    residual: Tensor | None,
    process_group: Any = None,
) -> Tensor:
    """What a batch norm with the attributes of torch's makes of its input, in training and evaluation, and f of it."""
    factor = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            factor = 1.0 / float(norm.num_batches_tracked)
    tracks = not norm.training or norm.track_running_stats
    return functional.batch_norm_act(
        input,
        norm.running_mean if tracks else None,
        norm.running_var if tracks else None,
        norm.weight,
        norm.bias,
        norm.training or (norm.running_mean is None and norm.running_var is None),
        factor,
        norm.eps,
        activation,
        residual=residual,
        process_group=process_group,
        **constants,
    )


class _BatchNormAct(_NormBase):
    """What all share: the constructor, buffers, state dict and bookkeeping of torch's batch norms.

    None is an instance of torch's batch norms: whatever looks for those rebuilds what it finds as a norm, without the
    activation. `convert_sync_batchnorm`, torch's or timm's, is the exception, and has to find something. It asks every
    module for its children and puts their conversions in their place, so it is shown a batch norm without channels
    (`_StandIn`), and what it makes of that says which processes are to be synchronised.
    """

    process_group: Any = None

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
        group = self._synchronized() if self.training else None
        return batch_norm_act(self, input, self.activation, self.constants, residual, group)

    def extra_repr(self) -> str:
        return _with_activation(super().extra_repr(), self.activation, self.constants)

    def children(self) -> Iterator[torch.nn.Module]:
        return (child for _, child in super().named_children())

    def named_children(self) -> Iterator[tuple[str, torch.nn.Module]]:
        yield from super().named_children()
        yield _StandIn.name, _StandIn()

    def add_module(self, name: str, module: torch.nn.Module | None) -> None:
        if name != _StandIn.name:
            super().add_module(name, module)
        elif isinstance(module, _BatchNorm) and hasattr(module, "process_group"):
            if type(self) not in (BatchNormAct1d, BatchNormAct2d, BatchNormAct3d, SyncBatchNormAct):
                raise TypeError(f"{type(self).__name__} cannot become a SyncBatchNormAct: what it adds would be lost")
            self.__class__ = SyncBatchNormAct
            self.process_group = module.process_group
        elif not isinstance(module, _StandIn):
            raise TypeError(f"{type(self).__name__} cannot be rebuilt as a {type(module).__name__}")

    def _synchronized(self) -> Any:
        """The processes over whose batches statistics are taken."""
        return self.process_group


class _StandIn(_BatchNorm):
    """A batch norm without channels, parameters and buffers: it only is there to be converted."""

    name = "statistics"

    def __init__(self) -> None:
        super().__init__(0, affine=False, track_running_stats=False)


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
    The state dict is that of `torch.nn.BatchNorm{n}d`, of which it is no instance: tools that look for batch norms to
    rebuild, fold or freeze them would lose the activation, and pass it by. `SyncBatchNorm.convert_sync_batchnorm`, of
    torch or ours, makes a `SyncBatchNormAct` of it. Not asked for its class it is taken for any batch norm: do not hand
    it to `torch.nn.utils.fuse_conv_bn_eval` yourself, nor expect `torch.optim.swa_utils.update_bn` to find it.

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


class BatchNormAct1d(_BatchNormAct):
    __doc__ = _DOCUMENT.format(n=1, shape="(N, C) or (N, C, L)", example="8, 4, 5")
    _check_input_dim = torch.nn.BatchNorm1d._check_input_dim


class BatchNormAct2d(_BatchNormAct):
    __doc__ = _DOCUMENT.format(n=2, shape="(N, C, H, W)", example="8, 4, 5, 5")
    _check_input_dim = torch.nn.BatchNorm2d._check_input_dim


class BatchNormAct3d(_BatchNormAct):
    __doc__ = _DOCUMENT.format(n=3, shape="(N, C, D, H, W)", example="8, 4, 2, 5, 5")
    _check_input_dim = torch.nn.BatchNorm3d._check_input_dim


class SyncBatchNormAct(_BatchNormAct):
    """f(batch_norm(x) + residual), in training by the statistics of the batches of all processes.

    It is `torch.nn.SyncBatchNorm` followed by an activation, and serves CPUs too.

    Args:
        num_features: the number of channels C.
        eps: added to the variance.
        momentum: how far a batch moves the running statistics; None keeps the mean over all batches.
        affine: whether there are weight and bias, which start at 1 and 0.
        track_running_stats: whether evaluation uses running statistics; otherwise the batch's of this process.
        process_group: of `torch.distributed`; None is all processes, or this one where nothing is distributed.
        device, dtype: of parameters and running statistics.
        activation: the name of a stateless activation, or "identity".
        bias: False leaves the bias out.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Shape: input and output alike, (N, C, ...). The optional `residual` of `forward` has that shape too.
    The state dict is that of `torch.nn.SyncBatchNorm`.

    Raises:
        ValueError: the activation is unknown; from `forward`, an input without channels, or what
            `functional.batch_norm_act` raises.

    Source: Ioffe & Szegedy 2015.

    Example:
        >>> import torch, nnkernels
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), nnkernels.nn.BatchNormAct2d(4, activation="silu"))
        >>> nnkernels.nn.SyncBatchNormAct.convert_sync_batchnorm(model)[1].activation
        'silu'
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        activation: str = "identity",
        *,
        bias: bool = True,
        **constants: float,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, activation,
            bias=bias, process_group=process_group, **constants,
        )  # fmt: skip

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> torch.nn.Module:
        """Makes every batch norm in `module` one over all processes: ours in place, torch's as torch does.

        Args:
            module: the model.
            process_group: as of this class.

        Returns:
            `module`, or a new module if it is itself a batch norm of torch.

        `torch.nn.SyncBatchNorm.convert_sync_batchnorm` does the same.
        """
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2 or input.size(1) == 0:
            raise ValueError(f"expected an input of shape (N, C, ...) with channels, got {tuple(input.shape)}")

    def _synchronized(self) -> Any:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return None
        group = torch.distributed.group.WORLD if self.process_group is None else self.process_group
        return group if torch.distributed.get_world_size(group) > 1 else None


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
