"""Activations with learned parameters, each a single one or one for each channel (dimension 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .. import _torch
from ..arguments import accepts, integer, number
from ..autograd import learned as autograd
from ..autograd.shortcut import shortcut
from ..parameters import ShapeError, check, check_channels, check_devices, check_tensors, check_types, check_width
from ..registry import elementwise as row_of
from . import elementwise

__all__ = ["apl", "dyt", "prelu", "snake", "snake_beta", "starrelu", "starrelu_", "swish", "swish_", "xielu"]


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
    check_tensors("prelu", input=input, weight=weight)
    if not accepts(input) or not accepts(weight):
        return torch.nn.functional.prelu(input, weight)
    check_devices("prelu", input, weight)
    if weight.dim() > 1:
        raise ShapeError(f"prelu(): weight must have shape () or (C,), got {tuple(weight.shape)}")
    check_channels("prelu", "weight", weight.shape, weight.numel(), input)
    if _torch.autocasts(input.device.type) and input.dtype != torch.float64:
        input = input.to(torch.get_autocast_dtype(input.device.type))
    check_width("prelu", input, weight=weight)
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
    check("swish", input, beta=beta)
    check_width("swish", input, beta=beta)
    return autograd.call("swish", input, (beta,), inplace=inplace)


def swish_(input: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """`swish`, written into `input`."""
    return swish(input, beta, True)


_starrelu_of_numbers = elementwise.function_of(row_of("starrelu"))


def starrelu(
    input: Tensor, scale_value: float | Tensor = 0.8944, bias_value: float | Tensor = -0.4472, inplace: bool = False
) -> Tensor:
    """scale_value max(x, 0)^2 + bias_value, with a scale and a bias that are numbers, or tensors that may be learned.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        scale_value: a number, a tensor of one element, or one of shape (C,) for an input (N, C, ...), of any of the
            four types.
        bias_value: likewise.
        inplace: whether to write the result into `input`.

    Returns:
        A tensor with the shape, type and strides of `input`. All gradients come from one pass, those of scale and bias
        added up in float32 (float64 for float64) and bitwise the same in every run and for any number of threads.

    Raises:
        ValueError: a tensor has neither one element nor one for each channel.
        TypeError: a constant is neither a number nor a tensor.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input, or a leaf is written.

    The derivative is 2 scale_value max(x, 0) for x, max(x, 0)^2 for the scale and 1 for the bias.
    Source: Yu et al. 2022, MetaFormer Baselines for Vision; in timm's CAFormer and ConvFormer both are learned.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.starrelu(torch.tensor([-1.0, 2.0]), torch.tensor(0.5), torch.tensor(-1.0))
        tensor([-1.,  1.])
    """
    if not isinstance(scale_value, Tensor) and not isinstance(bias_value, Tensor):
        return _starrelu_of_numbers(input, scale_value, bias_value, inplace)
    return _starrelu_of_tensors(input, scale_value, bias_value, inplace)


@shortcut
def _starrelu_of_tensors(input: Tensor, scale: float | Tensor, bias: float | Tensor, inplace: bool) -> Tensor:
    if has_torch_function((input, scale, bias)):
        return handle_torch_function(starrelu, (input, scale, bias), input, scale, bias, inplace=inplace)
    check_tensors("starrelu", input=input)
    scale, bias = (
        one if isinstance(one, Tensor) else input.new_tensor(number("starrelu", name, one))
        for name, one in (("scale_value", scale), ("bias_value", bias))
    )
    check("starrelu", input, scale_value=scale, bias_value=bias)
    return autograd.call("starrelu", input, (scale, bias), inplace=inplace)


def starrelu_(input: Tensor, scale_value: float | Tensor = 0.8944, bias_value: float | Tensor = -0.4472) -> Tensor:
    """`starrelu`, written into `input`."""
    return starrelu(input, scale_value, bias_value, True)


# One function for numbers and tensors, also where it is looked up by the catalogue's row.
elementwise._FUNCTIONS |= {"swish": swish, "swish_": swish_, "starrelu": starrelu, "starrelu_": starrelu_}


@shortcut
def xielu(input: Tensor, alpha_p: Tensor, alpha_n: Tensor, beta: float = 0.5, eps: float = -1e-6) -> Tensor:
    """a x^2 + beta x for x > 0, b (exp(min(x, eps)) - 1 - x) + beta x else; a = softplus(alpha_p), b = beta +
    softplus(alpha_n).

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        alpha_p: shape () or (1,), or (C,) for one in each channel of an input (N, C, ...), of any of the four types.
        alpha_n: likewise.
        beta: the slope at 0, a number.
        eps: a number. Between it and 0 the exponential is held, as in transformers' XIELUActivation, so that the slope
            is -softplus(alpha_n) there; with eps=0 the function is the paper's.

    Returns:
        A tensor like `input`. All gradients come from one pass, those of alpha_p and alpha_n added up in float32
        (float64 for float64) and bitwise the same in every run and for any number of threads.

    Raises:
        ValueError: a parameter has neither one element nor one for each channel.
        TypeError: `beta` or `eps` is no number.
        NotImplementedError: the type is not one of the four.

    Source: Huang & Schlag 2024, Deriving Activation Functions Using Integration; the activation of Apertus.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.xielu(torch.tensor([-2.0, 1.0]), torch.zeros(1), torch.zeros(1))
        tensor([0.3546, 1.1931])
    """
    if has_torch_function((input, alpha_p, alpha_n)):
        return handle_torch_function(xielu, (input, alpha_p, alpha_n), input, alpha_p, alpha_n, beta, eps)
    beta, eps = number("xielu", "beta", beta), number("xielu", "eps", eps)
    check("xielu", input, alpha_p=alpha_p, alpha_n=alpha_n)
    return autograd.call("xielu", input, (alpha_p, alpha_n), (beta, eps if eps < 0 else math.inf))


@shortcut
def snake(input: Tensor, alpha: Tensor) -> Tensor:
    """x + sin(alpha x)^2 / (alpha + 1e-9): `snake_beta` with one parameter for frequency and size.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        alpha: shape () or (1,), or (C,) for one in each channel of an input (N, C, ...), of any of the four types.

    Returns, raises: as `snake_beta`.

    The derivative is 1 + sin(2 alpha x) for x.
    Source: Ziyin, Hartwig & Ueda 2020, Neural Networks Fail to Learn Periodic Functions and How to Fix It; the
    activation of the Descript Audio Codec and of BigVGAN.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.snake(torch.tensor([-1.0, 1.0]), torch.tensor(1.0))
        tensor([-0.2919,  1.7081])
    """
    if has_torch_function((input, alpha)):
        return handle_torch_function(snake, (input, alpha), input, alpha)
    check("snake", input, alpha=alpha)
    return autograd.call("snake", input, (alpha,))


@shortcut
def snake_beta(input: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """x + sin(alpha x)^2 / (beta + 1e-9)

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        alpha: the frequency: shape () or (1,), or (C,) for one in each channel of an input (N, C, ...), of any of the
            four types.
        beta: the inverse size, likewise.

    Returns:
        A tensor like `input`. All gradients come from one pass, those of alpha and beta added up in float32 (float64
        for float64) and bitwise the same in every run and for any number of threads.

    Raises:
        ValueError: a parameter has neither one element nor one for each channel.
        NotImplementedError: the type is not one of the four.

    The derivative is 1 + alpha sin(2 alpha x) / (beta + 1e-9) for x.
    Source: Lee et al. 2023, BigVGAN, after Ziyin, Hartwig & Ueda 2020; also in the vocoder of Qwen2.5-Omni.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.snake_beta(torch.tensor([-1.0, 1.0]), torch.tensor(1.0), torch.tensor(2.0))
        tensor([-0.6460,  1.3540])
    """
    if has_torch_function((input, alpha, beta)):
        return handle_torch_function(snake_beta, (input, alpha, beta), input, alpha, beta)
    check("snake_beta", input, alpha=alpha, beta=beta)
    return autograd.call("snake_beta", input, (alpha, beta))


@shortcut
def dyt(input: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, dim: int = -1) -> Tensor:
    """Dynamic tanh, weight tanh(alpha x) + bias: what stands in place of a norm in a transformer without norms.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        alpha: shape () or (1,), or (C,) for C channels along `dim`, of any of the four types.
        weight, bias: likewise.
        dim: the dimension of the channels.

    Returns:
        A tensor like `input`. All gradients come from one pass, the parameters' added up in float32 (float64 for
        float64) and bitwise the same in every run and for any number of threads.

    Raises:
        ValueError: a parameter has neither one element nor one for each channel.
        IndexError: the input has no dimension `dim`.
        NotImplementedError: the type is not one of the four.

    The derivative is weight alpha (1 - tanh(alpha x)^2) for x.
    Source: Zhu, Chen, He, LeCun & Liu 2025, Transformers without Normalization.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.dyt(torch.tensor([[-9.0, 9.0]]), torch.tensor(0.5), torch.tensor([1.0, 2.0]), torch.zeros(2))
        tensor([[-0.9998,  1.9995]])
    """
    if has_torch_function((input, alpha, weight, bias)):
        return handle_torch_function(dyt, (input, alpha, weight, bias), input, alpha, weight, bias, dim=dim)
    check_tensors("dyt", input=input)
    dims = max(input.dim(), 1)
    dim = integer("dyt", "dim", dim)
    if not -dims <= dim < dims:
        raise IndexError(
            f"dyt(): dim is {dim}, but an input of shape {tuple(input.shape)} has {input.dim()} dimensions"
        )
    if input.dim() < 2:
        return dyt(torch.atleast_2d(input), alpha, weight, bias).view(input.shape)
    check("dyt", input, dim % dims, alpha=alpha, weight=weight, bias=bias)
    return autograd.call("dyt", input, (alpha, weight, bias), dim=dim % dims)


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
    check_tensors("apl", input=input, slopes=slopes, offsets=offsets)
    check_types("apl", input, slopes, offsets)
    shape = tuple(slopes.shape)
    if shape != offsets.shape or len(shape) not in (1, 2) or shape[0] == 0:
        raise ShapeError(
            f"apl(): slopes and offsets must both have shape (S,), or (S, C) for an input (N, C, ...), S > 0; got "
            f"slopes {shape} and offsets {tuple(offsets.shape)} for an input of shape {tuple(input.shape)}"
        )
    check_width("apl", input, slopes=slopes, offsets=offsets)
    check_channels("apl", "slopes and offsets", slopes.shape, shape[1] if len(shape) == 2 else 1, input)
    return autograd.call("apl", input, (slopes, offsets))
