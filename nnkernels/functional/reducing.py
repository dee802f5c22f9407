"""softmax and its kin as functions: torch's signatures, and `scale`, `mask` and `causal` in the same pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import SUPPORTED_DTYPES, accepts, check_whole, number, refusal
from ..autograd import reducing as autograd
from ..autograd.shortcut import shortcut

__all__ = ["log_softmax", "softmax", "softmin"]


def softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """exp(z_i) / sum_j exp(z_j) along `dim`, z = scale input + mask.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        dim: the dimension along which the results sum to 1; None is torch's deprecated implicit choice.
        dtype: the type to which the input is cast first, and of the result.
        scale: a number that multiplies the input.
        mask: a tensor that broadcasts to the input's shape: bool, True where an element counts, or floating, to be
        added. causal: keeps column j (along `dim`) of query i (along the dimension before it) where j <= i. The
            diagonal starts at the top left where there are more columns than queries or fewer, as in
            `scaled_dot_product_attention`.

    Returns:
        A contiguous tensor with the input's shape. With `mask` or `causal`, a row of which nothing is left, or whose
        every element is -inf, is 0, with a gradient of 0; without them it is NaN, as in torch.

    Raises:
        IndexError: `dim` is out of range.
        ValueError: `mask` does not broadcast to the input's shape or lies on another device, or a causal input has no
            dimension before `dim`.
        TypeError: `mask` is neither bool nor floating, or `scale` is not a number.
        NotImplementedError: the type is not one of the four.

    Source: Boltzmann 1868; Gibbs 1902; in networks Bridle 1990.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.softmax(torch.zeros(2, 2), dim=-1, causal=True)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]])
    """
    if has_torch_function((input, mask)):
        return _overridden(softmax, input, dim, _stacklevel, dtype, scale, mask, causal)
    if dim is None:
        dim = _implicit_dim("softmax", input, _stacklevel)
    return _call(softmax, input, dim, dtype, False, _number(softmax, scale), mask, causal)


def log_softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """z_i - log(sum_j exp(z_j)) along `dim`, z = scale input + mask; exact also where it is close to 0.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        dim: the dimension along which the exponentials sum to 1; None is torch's deprecated implicit choice.
        dtype, scale, mask, causal: as `softmax`'s.

    Returns:
        A contiguous tensor with the input's shape; -inf, with a gradient of 0, where `mask` or `causal` leaves nothing.
        Backward keeps it, or, for a 16-bit input or result, what has not been rounded: the input, the mask and two
        numbers of each row, so that the gradient is as exact as 16 bits can hold.

    Raises:
        IndexError, ValueError, TypeError, NotImplementedError: as `softmax`.

    Source: Boltzmann 1868; Gibbs 1902; in networks Bridle 1990.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.log_softmax(torch.tensor([0.0, 20.0]), dim=0)  # torch gives -20 and 0
        tensor([-2.0000e+01, -2.0612e-09])
    """
    if has_torch_function((input, mask)):
        return _overridden(log_softmax, input, dim, _stacklevel, dtype, scale, mask, causal)
    if dim is None:
        dim = _implicit_dim("log_softmax", input, _stacklevel)
    return _call(log_softmax, input, dim, dtype, True, _number(log_softmax, scale), mask, causal)


def softmin(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """exp(-z_i) / sum_j exp(-z_j) along `dim`, z = scale input - mask, so that a mask of -inf removes here as well.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        dim: the dimension along which the results sum to 1; None is torch's deprecated implicit choice.
        dtype, scale, mask, causal: as `softmax`'s.

    Returns:
        As `softmax`.

    Raises:
        IndexError, ValueError, TypeError, NotImplementedError: as `softmax`.

    Source: Boltzmann 1868; Gibbs 1902; in networks Bridle 1990.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.softmin(torch.tensor([0.0, 100.0]), dim=0)
        tensor([1.0000e+00, 3.7835e-44])
    """
    if has_torch_function((input, mask)):
        return _overridden(softmin, input, dim, _stacklevel, dtype, scale, mask, causal)
    if dim is None:
        dim = _implicit_dim("softmin", input, _stacklevel)
    return _call(softmin, input, dim, dtype, False, -_number(softmin, scale), mask, causal)


Function = Callable[..., Tensor]


def _overridden(
    function: Function,
    input: Tensor,
    dim: int | None,
    stacklevel: int,
    dtype: torch.dtype | None,
    scale: float | None,
    mask: Tensor | None,
    causal: bool,
) -> Tensor:
    extras = {"scale": scale, "mask": mask, "causal": causal}
    given = {name: value for name, value in extras.items() if value is not None and value is not False}
    return handle_torch_function(function, (input, mask), input, dim, _stacklevel=stacklevel, dtype=dtype, **given)


def _implicit_dim(name: str, input: Tensor, stacklevel: int) -> int:
    _check_tensor(name, input)
    if not torch.compiler.is_compiling():
        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated. "
            "Change the call to include dim=X as an argument.",
            stacklevel=stacklevel,
        )
    return 0 if input.dim() in (0, 1, 3) else 1


def _number(function: Function, scale: float | None) -> float:
    if scale is None:
        return 1.0
    if isinstance(scale, Tensor):
        raise TypeError(f"{function.__name__}(): scale must be a number; multiply the input by the tensor instead")
    return number(function.__name__, "scale", scale)


@shortcut
def _call(
    function: Function,
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None,
    log: bool,
    scale: float,
    mask: Tensor | None,
    causal: bool,
) -> Tensor:
    name = function.__name__
    _check_tensor(name, input)
    if not hasattr(dim, "__index__"):
        raise TypeError(f"{name}(): dim must be int, not {type(dim).__name__}")
    dims = input.dim() or 1
    if not -dims <= dim < dims:
        raise IndexError(
            f"{name}(): Dimension out of range (expected to be in range of [{-dims}, {dims - 1}], but got {dim}) "
            f"for an input of shape {tuple(input.shape)}"
        )
    dim %= dims
    if mask is not None:
        _check_mask(name, mask, input)
    if causal and dim == 0:
        raise ValueError(
            f"{name}(): causal=True needs a dimension of queries before dim={dim}, got an input of shape "
            f"{tuple(input.shape)}; unsqueeze it, or choose another dim"
        )
    if causal:
        check_whole(name, input, dim)
        check_whole(name, input, dim - 1)
    if dtype is not None and dtype != input.dtype and input.dtype not in SUPPORTED_DTYPES:
        input = input.to(dtype)
    if not accepts(input) or (dtype is not None and dtype not in SUPPORTED_DTYPES):
        return _as_torch_does(function, input, dim, dtype, scale, mask, causal)
    if input.layout == torch.jagged and _is_torchs(name, scale, mask, causal):
        return _as_torch_does(function, input, dim, dtype, scale, mask, causal)
    return autograd.softmax(input, dim, log, scale, mask, causal, dtype)


def _check_tensor(name: str, input: Tensor) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(input).__name__}")


def _check_mask(name: str, mask: Tensor, input: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name}(): mask must be Tensor, not {type(mask).__name__}")
    if mask.dtype != torch.bool and mask.dtype not in SUPPORTED_DTYPES:
        raise TypeError(
            f"{name}(): mask must be bool (True keeps) or floating (added), got {mask.dtype} of shape "
            f"{tuple(mask.shape)}; for a mask of zeros and ones pass mask.bool()"
        )
    if mask.device != input.device:
        raise ValueError(f"{name}(): mask is on {mask.device}, input on {input.device}; move one of them")
    lacks = mask.dim() > input.dim()
    pairs = zip(reversed(mask.shape), reversed(input.shape), strict=False)
    if lacks or any(mine != 1 and mine != whole for mine, whole in pairs):
        raise ValueError(
            f"{name}(): a mask of shape {tuple(mask.shape)} does not broadcast to the input's shape "
            f"{tuple(input.shape)}"
        )


def _is_torchs(name: str, scale: float, mask: Tensor | None, causal: bool) -> bool:
    """Whether torch's function called `name` does the same; softmin is a softmax of scale -1."""
    return mask is None and not causal and scale == (-1 if name == "softmin" else 1)


def _as_torch_does(
    function: Function,
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None,
    scale: float,
    mask: Tensor | None,
    causal: bool,
) -> Tensor:
    """For other types and layouts: torch's own function, and torch's own exception."""
    name = function.__name__
    if _is_torchs(name, scale, mask, causal):
        return getattr(torch.nn.functional, name)(input, dim, dtype=dtype)
    raise NotImplementedError(refusal(name, input, dtype=dtype))
