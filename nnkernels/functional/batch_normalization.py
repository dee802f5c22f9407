"""Batch and group normalisation, activation and residual in one operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, number, refusal
from ..autograd import batch_normalization as autograd
from ..autograd.shortcut import shortcut
from ..contracts.batch_normalization import Operands, Running
from ..fusing import inner

__all__ = ["batch_norm_act", "group_norm_act"]


@shortcut
def batch_norm_act(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "identity",
    *,
    residual: Tensor | None = None,
    process_group: Any = None,
    **constants: float,
) -> Tensor:
    """f((input - mean) / sqrt(var + eps) * weight + bias + residual), mean and variance being those of each channel.

    Args:
        input: (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W), contiguous or channels last.
        running_mean, running_var: (C,), by which evaluation normalises and which training moves; None keeps none.
        weight, bias: (C,), None for 1 and 0. Their type may differ from the input's: float32 with bfloat16 data.
        training: whether mean and variance are the batch's.
        momentum: how far training moves the running statistics towards the batch's, whose variance it makes unbiased.
        eps: added to the variance.
        activation: the name of a stateless activation, or "identity".
        residual: added before the activation; of the input's shape.
        process_group: of `torch.distributed`: in training mean and variance are those of the batches of all its
            processes together, whose sizes may differ, as in `torch.nn.SyncBatchNorm`.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        A tensor with the shape, type and layout of the input.

    Raises:
        ValueError: training has one value per channel, a parameter or the residual has another shape, eps is not
            positive, evaluation lacks running statistics, or the activation is unknown.
        TypeError: a constant that the activation lacks, or lacks a value for; an argument that is no tensor.
        NotImplementedError: a type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Backward keeps the input and four numbers for each channel; it computes the normalised value and the activation's
    derivative again. It keeps the residual too unless the activation is "identity". Sums are taken in an order that
    does not depend on the machine, about a value near the mean: a mean of 10,000 times the spread costs no digits.

    Source: Ioffe & Szegedy 2015.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.5], [5.0, 6.0]])
        >>> F.batch_norm_act(x, None, None, training=True, activation="relu").round(decimals=3)
        tensor([[0.0000, 0.0000],
                [0.0000, 0.0000],
                [1.2250, 1.2250]])
    """
    tensors = (input, running_mean, running_var, weight, bias, residual)
    if has_torch_function(tensors):
        return handle_torch_function(
            batch_norm_act, tensors, input, running_mean, running_var, weight, bias, training, momentum, eps,
            activation, residual=residual, process_group=process_group, **constants,
        )  # fmt: skip
    caller = "batch_norm_act"
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    _check(caller, input, residual, named, eps)
    if training and _values(input) == 1 and (process_group is None or process_group.size() < 2):
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
    if (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{caller}(): {missing} is None; give both running statistics, or neither")
    if running_mean is None and not training:
        raise ValueError(f"{caller}(): evaluation needs running_mean and running_var, got None; or set training=True")
    running = None if running_mean is None or running_var is None else Running(running_mean, running_var, momentum)
    chosen = inner(caller, activation, constants)
    return autograd.batch(chosen, Operands(input, residual, weight, bias), running, training, float(eps), process_group)


@shortcut
def group_norm_act(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "identity",
    *,
    residual: Tensor | None = None,
    **constants: float,
) -> Tensor:
    """f((input - mean) / sqrt(var + eps) * weight + bias + residual), mean and variance being those of a group of
    channels of one sample.

    Args:
        input: (N, C, ...), contiguous or channels last.
        num_groups: how many groups the channels make, a divisor of C; C is instance normalisation.
        weight, bias: (C,), None for 1 and 0. Their type may differ from the input's: float32 with bfloat16 data.
        eps: added to the variance.
        activation: the name of a stateless activation, or "identity".
        residual: added before the activation; of the input's shape.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        A tensor with the shape, type and layout of the input.

    Raises:
        ValueError: the groups do not divide the channels, there is one value in all, a parameter or the residual has
            another shape, eps is not positive, or the activation is unknown.
        TypeError: a constant that the activation lacks, or lacks a value for; an argument that is no tensor.
        NotImplementedError: a type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Backward keeps the input and four numbers for each group, and the residual unless the activation is "identity".

    Source: Wu & He 2018.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.group_norm_act(torch.tensor([[1.0, 3.0, 20.0, 40.0]]), 2, activation="relu").round(decimals=3)
        tensor([[0., 1., 0., 1.]])
    """
    tensors = (input, weight, bias, residual)
    if has_torch_function(tensors):
        return handle_torch_function(
            group_norm_act, tensors, input, num_groups, weight, bias, eps, activation, residual=residual, **constants
        )
    caller = "group_norm_act"
    _check(caller, input, residual, {"weight": weight, "bias": bias}, eps)
    channels = input.shape[1]
    if num_groups < 1 or channels % num_groups != 0:
        fitting = [n for n in range(1, channels + 1) if channels % n == 0]
        raise ValueError(
            f"{caller}(): {num_groups} groups do not divide the {channels} channels of an input of shape "
            f"{tuple(input.shape)}; these do: {', '.join(map(str, fitting))}"
        )
    if _values(input) * channels == num_groups:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
    return autograd.group(
        inner(caller, activation, constants), Operands(input, residual, weight, bias), num_groups, float(eps)
    )


def _values(input: Tensor) -> int:
    """How many elements a channel has."""
    found = input.shape[0]
    for size in input.shape[2:]:
        found = found * size
    return found


def _check(caller: str, input: Tensor, residual: Tensor | None, named: Mapping[str, Tensor | None], eps: float) -> None:
    for name, tensor in {"input": input, "residual": residual, **named}.items():
        if not isinstance(tensor, Tensor):
            if name == "input" or tensor is not None:
                raise TypeError(f"{caller}(): argument {name!r} must be Tensor, not {type(tensor).__name__}")
            continue
        if not accepts(tensor):
            raise NotImplementedError(refusal(caller, tensor, name))
        if tensor.device != input.device:
            raise ValueError(f"{caller}(): {name} is on {tensor.device}, the input on {input.device}")
    if input.dim() < 2:
        raise ValueError(f"{caller}(): expected an input of shape (N, C, ...), got {tuple(input.shape)}")
    channels = input.shape[1]
    for name, tensor in named.items():
        if tensor is not None and tensor.shape != (channels,):
            raise ValueError(
                f"{caller}(): {name} has shape {tuple(tensor.shape)}; the {channels} channels of an input of shape "
                f"{tuple(input.shape)} need ({channels},)"
            )
    if residual is not None and (residual.shape != input.shape or residual.dtype != input.dtype):
        raise ValueError(
            f"{caller}(): a {residual.dtype} residual of shape {tuple(residual.shape)} does not fit the {input.dtype} "
            f"input of shape {tuple(input.shape)}; expand and convert it"
        )
    if not number(caller, "eps", eps) > 0:
        raise ValueError(f"{caller}(): eps must be positive, got {eps}")
