"""What the activations with learned parameters ask of their tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import accepts, refusal


class ShapeError(ValueError, RuntimeError):
    """Torch's prelu raises RuntimeError for parameters of a wrong shape."""


def check(name: str, input: Tensor, dim: int = 1, /, **parameters: Tensor) -> None:
    """Refuses what is no tensor of ours, and parameters that are neither single nor one for each channel."""
    check_tensors(name, input=input, **parameters)
    check_types(name, input, *parameters.values())
    for argument, parameter in parameters.items():
        if parameter.numel() != 1 and parameter.dim() != 1:
            raise ShapeError(
                f"{name}(): {argument} must have one element, or shape (C,) for C channels along dimension {dim}, got "
                f"{tuple(parameter.shape)} for an input of shape {tuple(input.shape)}"
            )
        check_channels(name, argument, parameter.shape, parameter.numel(), input, dim)


def check_tensors(name: str, **arguments: object) -> None:
    for argument, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}(): argument {argument!r} must be Tensor, not {type(value).__name__}")


def check_types(name: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if not accepts(tensor):
            raise NotImplementedError(refusal(name, tensor, "tensor"))
    check_devices(name, *tensors)


def check_devices(name: str, input: Tensor, *parameters: Tensor) -> None:
    for parameter in parameters:
        if parameter.device != input.device:
            raise RuntimeError(
                f"{name}(): the input is on {input.device} and a parameter of shape {tuple(parameter.shape)} on "
                f"{parameter.device}; they have to be on one device"
            )


def check_width(name: str, input: Tensor, **parameters: Tensor) -> None:
    for argument, parameter in parameters.items():
        if parameter.dtype != input.dtype and torch.promote_types(parameter.dtype, input.dtype) != parameter.dtype:
            raise RuntimeError(
                f"{name}(): {argument} of {parameter.dtype} cannot hold the input's {input.dtype}; "
                f"give {argument} of the input's type or a wider one"
            )


def check_channels(name: str, what: str, shape: torch.Size, count: int, input: Tensor, dim: int = 1) -> None:
    channels = input.shape[dim] if input.dim() > 1 else 1
    if count not in (1, channels):
        raise ShapeError(
            f"{name}(): {what} of shape {tuple(shape)} hold parameters for {count} channels, but an input of shape "
            f"{tuple(input.shape)} has {channels} (dimension {dim}): give one for all, or {channels}"
        )
