"""Activations with learned parameters, each a single one or one for each channel (dimension 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .. import _torch
from ..arguments import accepts, refusal
from ..autograd import learned as autograd
from ..autograd.shortcut import shortcut
from ..registry import elementwise as row_of
from . import elementwise

__all__ = ["apl", "prelu", "swish", "swish_"]


class _ShapeError(ValueError, RuntimeError):
    """Torch's prelu raises RuntimeError for parameters of a wrong shape."""


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x if x > 0 else weight x, with a learned weight.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        weight: shape () or (1,) for one weight, or (C,) for one in each channel of an input (N, C, ...). Its type is
            the input's or a wider one, as float32 weights of bfloat16 data; torch's has to be the same.

    Returns:
        A tensor like `input`. The gradients of input and weight come from one pass, the weight's added up in float32
        (float64 for float64) and bitwise the same in every run and for any number of threads.

    Raises:
        RuntimeError: `weight` has more than one dimension, or neither one element nor one for each channel, or a type
            that the input's numbers do not fit into.
        NotImplementedError: the type is not one of the four.

    Backward keeps the input; under `saving("bits")` one bit for each element, if the weight requires no gradient.
    Source: He, Zhang, Ren & Sun 2015, Delving Deep into Rectifiers.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.prelu(torch.tensor([[-1.0, -1.0, 2.0]]), torch.tensor([0.5, 0.25, 0.0]))
        tensor([[-0.5000, -0.2500,  2.0000]])
    """
    return prelu_keeping(input, weight, None)


@shortcut
def prelu_keeping(input: Tensor, weight: Tensor, policy: str | None) -> Tensor:
    """`prelu`, keeping for backward what `policy` says; None follows `nnkernels.saving`.

    Raises:
        ValueError: `policy` cannot serve, as "bits" cannot for a weight that requires a gradient.
    """
    if has_torch_function((input, weight)):
        return handle_torch_function(prelu, (input, weight), input, weight)
    _check_tensors("prelu", input=input, weight=weight)
    if not accepts(input) or not accepts(weight):
        return torch.nn.functional.prelu(input, weight)
    _check_devices("prelu", input, weight)
    if weight.dim() > 1:
        raise _ShapeError(f"prelu(): weight must have shape () or (C,), got {tuple(weight.shape)}")
    _check_channels("prelu", "weight", weight.shape, weight.numel(), input)
    if _torch.autocasts(input.device.type) and input.dtype != torch.float64:
        input = input.to(torch.get_autocast_dtype(input.device.type))
    _check_width("prelu", input, weight=weight)
    return autograd.call("prelu", input, (weight,), policy=policy)


_swish_of_a_number = elementwise.function_of(row_of("swish"))


def swish(input: Tensor, beta: float | Tensor = 1.0, inplace: bool = False) -> Tensor:
    """x sigmoid(beta x), with a beta that is a number, or a tensor that may be learned.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        beta: a number, a tensor of one element, or one of shape (C,) for an input (N, C, ...), of the input's type or a
            wider one.
        inplace: whether to write the result into `input`.

    Returns:
        A tensor with the shape, type and strides of `input`; values in [-0.2785 / beta, inf) for beta > 0. The
        gradients of input and beta come from one pass, beta's added up in float32 (float64 for float64) and bitwise
        the same in every run and for any number of threads.

    Raises:
        ValueError: `beta` is a tensor with neither one element nor one for each channel.
        RuntimeError: the input's numbers do not fit into `beta`'s type.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input, or a leaf is written.

    The derivative is s (1 + beta x (1 - s)) for x and x^2 s (1 - s) for beta, s = sigmoid(beta x).
    Source: Ramachandran, Zoph & Le 2017, Searching for Activation Functions.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.swish(torch.tensor([-1.0, 1.0]), torch.tensor(2.0))
        tensor([-0.1192,  0.8808])
    """
    if not isinstance(beta, Tensor):
        return _swish_of_a_number(input, beta, inplace)
    return _swish_of_a_tensor(input, beta, inplace)


@shortcut
def _swish_of_a_tensor(input: Tensor, beta: Tensor, inplace: bool) -> Tensor:
    if has_torch_function((input, beta)):
        return handle_torch_function(swish, (input, beta), input, beta, inplace=inplace)
    _check_tensors("swish", input=input)
    _check_types("swish", input, beta)
    if beta.numel() != 1 and beta.dim() != 1:
        raise _ShapeError(
            f"swish(): beta must have one element, or shape (C,) for an input (N, C, ...), got {tuple(beta.shape)} for "
            f"an input of shape {tuple(input.shape)}"
        )
    _check_width("swish", input, beta=beta)
    _check_channels("swish", "beta", beta.shape, beta.numel(), input)
    return autograd.call("swish", input, (beta,), inplace)


def swish_(input: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """`swish`, written into `input`."""
    return swish(input, beta, True)


# One function for both kinds of beta, also where it is looked up by the catalogue's row.
elementwise._FUNCTIONS["swish"] = swish
elementwise._FUNCTIONS["swish_"] = swish_


@shortcut
def apl(input: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    """Adaptive piecewise linear: max(0, x) + sum over s of slopes[s] max(0, offsets[s] - x).

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        slopes: shape (S,) or (S, 1) for S segments that all channels share, or (S, C) for S in each channel of an input
            (N, C, ...); of the input's type or a wider one.
        offsets: where the segments start, of the same shape.

    Returns:
        A tensor like `input`. All gradients come from one pass, the parameters' added up in float32 (float64 for
        float64) and bitwise the same in every run and for any number of threads.

    Raises:
        ValueError: slopes and offsets differ in shape, have no segment, or do not match the channels.
        RuntimeError: the input's numbers do not fit into their type.
        NotImplementedError: the type is not one of the four.

    Source: Agostinelli, Hoffman, Sadowski & Baldi 2015, Learning Activation Functions to Improve Deep Neural Networks.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.apl(torch.tensor([-2.0, 1.0]), slopes=torch.tensor([0.5]), offsets=torch.tensor([0.0]))
        tensor([1., 1.])
    """
    if has_torch_function((input, slopes, offsets)):
        return handle_torch_function(apl, (input, slopes, offsets), input, slopes, offsets)
    _check_tensors("apl", input=input, slopes=slopes, offsets=offsets)
    _check_types("apl", input, slopes, offsets)
    shape = tuple(slopes.shape)
    if shape != offsets.shape or len(shape) not in (1, 2) or shape[0] == 0:
        raise _ShapeError(
            f"apl(): slopes and offsets must both have shape (S,), or (S, C) for an input (N, C, ...), S > 0; got "
            f"slopes {shape} and offsets {tuple(offsets.shape)} for an input of shape {tuple(input.shape)}"
        )
    _check_width("apl", input, slopes=slopes, offsets=offsets)
    _check_channels("apl", "slopes and offsets", slopes.shape, shape[1] if len(shape) == 2 else 1, input)
    return autograd.call("apl", input, (slopes, offsets))


def _check_tensors(name: str, **arguments: object) -> None:
    for argument, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}(): argument {argument!r} must be Tensor, not {type(value).__name__}")


def _check_types(name: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if not accepts(tensor):
            raise NotImplementedError(refusal(name, tensor, "tensor"))
    _check_devices(name, *tensors)


def _check_devices(name: str, input: Tensor, *parameters: Tensor) -> None:
    for parameter in parameters:
        if parameter.device != input.device:
            raise RuntimeError(
                f"{name}(): the input is on {input.device} and a parameter of shape {tuple(parameter.shape)} on "
                f"{parameter.device}; they have to be on one device"
            )


def _check_width(name: str, input: Tensor, **parameters: Tensor) -> None:
    for argument, parameter in parameters.items():
        if parameter.dtype != input.dtype and torch.promote_types(parameter.dtype, input.dtype) != parameter.dtype:
            raise RuntimeError(
                f"{name}(): {argument} of {parameter.dtype} cannot hold the input's {input.dtype}; "
                f"give {argument} of the input's type or a wider one"
            )


def _check_channels(name: str, what: str, shape: torch.Size, count: int, input: Tensor) -> None:
    channels = input.shape[1] if input.dim() > 1 else 1
    if count not in (1, channels):
        raise _ShapeError(
            f"{name}(): {what} of shape {tuple(shape)} hold parameters for {count} channels, but an input of shape "
            f"{tuple(input.shape)} has {channels} (dimension 1): give one for all, or {channels}"
        )
