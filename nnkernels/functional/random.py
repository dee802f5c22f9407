"""Activations that draw random numbers in training, dropout and Bernoulli units.

The signatures are those of `torch.nn.functional`, where it has the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..arguments import accepts, number, refusal
from ..autograd import elementwise
from ..autograd import random as autograd
from ..autograd.shortcut import shortcut
from ..registry import elementwise as row_of

__all__ = ["bernoulli_straight_through", "dropout", "rrelu", "rrelu_"]

_LEAKY_RELU, _SIGMOID = row_of("leaky_relu"), row_of("sigmoid")


@shortcut
def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """The randomized leaky ReLU: x if x > 0 else a x, `a` drawn for each element.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        lower: the least slope.
        upper: the greatest slope.
        training: whether to draw each slope uniformly from [lower, upper); otherwise all are (lower + upper) / 2.
        inplace: whether to write the result into `input`.

    Returns:
        A tensor with the shape, type and strides that `torch.nn.functional.rrelu` gives. The numbers come from torch's
        generator of the device, but they are not those that torch would draw.

    Raises:
        ValueError: `lower` is greater than `upper`, or one of them is not finite.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input, or a leaf is written.

    Backward keeps the input and the seed, and draws the slopes again; on a CPU it keeps the slopes; under
    `saving("bits")` one bit for each element in place of the input.
    Source: Xu, Wang, Chen & Li 2015, Empirical Evaluation of Rectified Activations in Convolutional Network.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.rrelu(torch.tensor([-8.0, 3.0]), lower=0.0, upper=0.5)
        tensor([-2.,  3.])
        >>> y = F.rrelu(torch.full((100,), -8.0), lower=0.0, upper=0.5, training=True)
        >>> bool((y >= -4).all() and (y <= 0).all() and len(y.unique()) > 90)
        True
    """
    if has_torch_function_unary(input):
        given: dict[str, Any] = {"lower": lower, "upper": upper, "training": training, "inplace": inplace}
        return handle_torch_function(rrelu, (input,), input, **given)
    return rrelu_keeping(None, rrelu, input, lower, upper, training, inplace)


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """`rrelu` in place."""
    if has_torch_function_unary(input):
        return handle_torch_function(rrelu_, (input,), input, lower=lower, upper=upper, training=training)
    return rrelu_keeping(None, rrelu_, input, lower, upper, training, True)


@shortcut
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Sets each element to 0 with probability `p` and divides the others by 1 - p, in training only.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        p: the probability, from 0 to 1.
        training: whether to drop anything; otherwise `input` is returned as it is.
        inplace: whether to write the result into `input`.

    Returns:
        A tensor with the shape, type and strides that `torch.nn.functional.dropout` gives, drawn from torch's generator
        of the device, but not with the numbers that torch would draw.

    Raises:
        ValueError: `p` is not between 0 and 1.
        RuntimeError: the backend chosen by name cannot serve the input, torch cannot serve its type, or a leaf is
            written.

    Backward keeps the seed (8 bytes) and no input; on the CPU one bit for each element as well, since reading it costs
    a third of drawing again.
    Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, Dropout.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.dropout(torch.ones(1000), p=0.75).unique()
        tensor([0., 4.])
    """
    if has_torch_function_unary(input):
        return handle_torch_function(dropout, (input,), input, p=p, training=training, inplace=inplace)
    p = number("dropout", "p", p)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout(): p must be between 0 and 1, got {p}")
    _check(dropout, input)
    if not training or p == 0:
        return input
    if not accepts(input):
        return _as_torch_does(dropout, torch.nn.functional.dropout, input, p=p, training=True, inplace=inplace)
    if inplace:
        _refuse_leaf(dropout, input)
    if p == 1:
        return input.mul_(0.0) if inplace else input * 0.0
    return autograd.dropout(input, p, inplace)


@shortcut
def bernoulli_straight_through(input: Tensor, training: bool = True) -> Tensor:
    """Stochastic binary units: 1 with probability sigmoid(x), else 0, with the gradient of sigmoid(x).

    A draw has no derivative. Straight-through, backward takes that of the mean, `grad_output` sigmoid'(x): exact for a
    loss that is linear in the units, on average. Bengio et al. also try the identity in its place, which is no gradient
    of the mean, and goes on to push units that are long saturated; write it as `x + (unit - x).detach()`.

    Args:
        input: the log-odds, a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        training: whether to draw; otherwise each unit is its mean, sigmoid(x).

    Returns:
        Zeros and ones (NaN of NaN) with the shape and type of `input`, and the strides of `torch.empty_like`. They come
        from torch's generator of the device. Each probability is within 2^-32 of sigmoid(x), in the tails too.

    Raises:
        TypeError: `input` is no tensor.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Backward keeps the input alone: neither units nor probabilities.
    Source: Bengio, Leonard & Courville 2013, Estimating or Propagating Gradients Through Stochastic Neurons.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> x = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
        >>> y = F.bernoulli_straight_through(x)
        >>> bool(y[0] == 0 and y[1] in (0, 1) and y[2] == 1)
        True
        >>> torch.autograd.grad(y.sum(), x)
        (tensor([0.0000, 0.2500, 0.0000]),)
    """
    if has_torch_function_unary(input):
        return handle_torch_function(bernoulli_straight_through, (input,), input, training=training)
    _check(bernoulli_straight_through, input)
    if not accepts(input):
        raise NotImplementedError(refusal("bernoulli_straight_through", input))
    if not training:
        return elementwise.call(_SIGMOID, bernoulli_straight_through, input, 0.0, 0.0, False, None)
    return autograd.bernoulli(input)


def rrelu_keeping(
    policy: str | None,
    function: Callable[..., Tensor],
    x: Tensor,
    lower: float,
    upper: float,
    training: bool,
    inplace: bool,
) -> Tensor:
    """`function`, rrelu or rrelu_, keeping for backward what `policy` says; None follows `nnkernels.saving`."""
    name = function.__name__
    lower, upper = number(name, "lower", lower), number(name, "upper", upper)
    if not (-math.inf < lower < math.inf and -math.inf < upper < math.inf):  # also of a compiler's symbols
        raise ValueError(f"{name}(): lower and upper must be finite, got lower={lower} and upper={upper}")
    if lower > upper:
        raise ValueError(f"{name}(): lower must be at most upper, got lower={lower} and upper={upper}")
    _check(function, x)
    if not accepts(x):
        given = {"lower": lower, "upper": upper, "training": training, "inplace": inplace}
        return _as_torch_does(function, torch.nn.functional.rrelu, x, **given)
    if not training:
        return elementwise.call(_LEAKY_RELU, function, x, (lower + upper) / 2, 0.0, inplace, policy)
    if inplace:
        _refuse_leaf(function, x)
    return autograd.rrelu(x, lower, upper, inplace, policy)


def _check(function: Callable[..., Tensor], x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{function.__name__}(): argument 'input' must be Tensor, not {type(x).__name__}")


def _refuse_leaf(function: Callable[..., Tensor], x: Tensor) -> None:
    if torch.is_grad_enabled() and x.requires_grad and x.is_leaf:
        raise RuntimeError(
            f"{function.__name__}(): a leaf Variable that requires grad is being used in an in-place operation "
            f"(input of shape {tuple(x.shape)})"
        )


def _as_torch_does(function: Callable[..., Tensor], own: Callable[..., Tensor], x: Tensor, **given: Any) -> Tensor:
    """For other types and layouts: torch's own function, and torch's own kind of exception."""
    try:
        return own(x, **given)
    except RuntimeError as error:
        raise type(error)(refusal(function.__name__, x)) from error
