"""Activation and cast to 8 bits in one pass.

Quantised values are to be read as x = q scale, which is how `torch._scaled_mm` and torchao take them. Transformer
Engine calls this scale `scale_inv`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, refusal
from ..autograd import quantized as autograd
from ..contracts.quantized import GRANULARITIES, LARGEST, SMALLEST_SCALE, Rounding
from ..fusing import inner
from .gated import check_gated, gating

__all__ = ["act_quantize", "gated_quantize"]


def act_quantize(
    input: Tensor,
    activation: str = "identity",
    dtype: torch.dtype = torch.float8_e4m3fn,
    scale: Tensor | float | None = None,
    *,
    granularity: str = "tensor",
    pow2: bool = False,
    **constants: float,
) -> tuple[Tensor, Tensor]:
    """f(input) in 8 bits: q = f(input) / scale, rounded to the nearest even number and saturating.

    Three ways to a scale:

    - given, "delayed scaling": one pass, which returns the greatest magnitude of f(input) for the scales to come;
    - `granularity="row"` or `"block"`: each row or block of 128 elements gets the scale that maps its own greatest
      magnitude to the type's largest number, in one pass;
    - `granularity="tensor"` without a scale: the same for the whole tensor, in two passes.

    NaN stays NaN (0 in int8) and makes the scale of its group NaN. All arithmetic behind f is float32: a scale is the
    greatest magnitude times 1/largest, and f(input) is multiplied by 1/scale. A group whose scale would be below
    2^-126, such as one of zeros, gets scale 1. 8-bit numbers carry no gradient.

    Args:
        input: `(..., K)`, of any layout; float64, float32, bfloat16 or float16.
        activation: the name of a stateless activation, or "identity".
        dtype: torch.float8_e4m3fn (up to 448), torch.float8_e5m2 (57344) or torch.int8 (127, symmetric).
        scale: a positive number, or a float32 tensor of one element on the input's device. Numbers and CPU tensors are
            checked; a GPU tensor is not, since that would wait for the GPU: 0 then gives infinities held at the largest
            number, and NaN.
        granularity: what shares a scale: "tensor", "row" (the last dimension) or "block" (128 elements of a row).
        pow2: whether scales are rounded up to powers of two, as for MX formats.
        **constants: those of the activation.

    Returns:
        (q, scale): q of the input's shape; scale in float32, of shape () for "tensor", `(..., 1)` for "row" and
        `(..., ceil(K / 128))` for "block". If a scale was given (q, amax), amax of shape () in float32.

    Raises:
        ValueError: a scale that is not positive, finite and at least 2^-126, or that comes with rows, blocks or pow2;
            an unknown granularity or activation; an input without dimensions for rows or blocks.
        TypeError: a constant that the activation lacks, or lacks a value for; a dtype of other than the three.
        NotImplementedError: the input's type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> q, scale = F.act_quantize(torch.tensor([[-1.0, 0.0, 254.0]]), "relu", torch.int8, granularity="row")
        >>> q, scale
        (tensor([[  0,   0, 127]], dtype=torch.int8), tensor([[2.]]))
        >>> q, amax = F.act_quantize(torch.tensor([1.0, -3.0]), scale=0.5)
        >>> q.float() * 0.5, amax
        (tensor([ 1., -3.]), tensor(3.))
    """
    if has_torch_function((input, scale)):
        return handle_torch_function(
            act_quantize, (input, scale), input, activation, dtype, scale,
            granularity=granularity, pow2=pow2, **constants,
        )  # fmt: skip
    chosen = inner("act_quantize", activation, constants)
    if not isinstance(input, Tensor):
        raise TypeError(f"act_quantize(): argument 'input' must be Tensor, not {type(input).__name__}")
    rounding = rounding_of("act_quantize", dtype, granularity, pow2, scale is not None)
    _check_input("act_quantize", input, rounding)
    return autograd.call(chosen, input, None, rounding, _scale_tensor("act_quantize", scale, input))


def gated_quantize(
    input: Tensor,
    activation: str = "silu",
    dim: int = -1,
    dtype: torch.dtype = torch.float8_e4m3fn,
    scale: Tensor | float | None = None,
    *,
    up: Tensor | None = None,
    granularity: str = "tensor",
    pow2: bool = False,
    interleaved: bool = False,
    gate_first: bool = True,
    limit: float | None = None,
    offset: float = 0.0,
    **constants: float,
) -> tuple[Tensor, Tensor]:
    """f(gate) up in 8 bits, what `gated` and `act_quantize` say together, in one pass.

    Args:
        input, activation, dim, up, interleaved, gate_first, limit, offset: as for `gated`.
        dtype, scale, granularity, pow2: as for `act_quantize`; rows and blocks lie along the result's last dimension.
        **constants: those of the activation.

    Returns:
        (q, scale), or (q, amax) if a scale was given; q of the shape of the gate, the rest as of `act_quantize`.

    Raises:
        ValueError, TypeError, IndexError, RuntimeError, NotImplementedError: as `gated` and `act_quantize` do.

    Source: Shazeer 2020, GLU Variants Improve Transformer; Micikevicius et al. 2022, FP8 Formats for Deep Learning.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> gate_up = torch.tensor([[2.0, 8.0, 3.0, 4.0]])
        >>> q, scale = F.gated_quantize(gate_up, "relu", granularity="row", pow2=True)
        >>> q.float() * scale, scale
        (tensor([[ 6., 32.]]), tensor([[0.1250]]))
    """
    if has_torch_function((input, up, scale)):
        return handle_torch_function(
            gated_quantize, (input, up, scale), input, activation, dim, dtype, scale,
            up=up, granularity=granularity, pow2=pow2, interleaved=interleaved, gate_first=gate_first, limit=limit,
            offset=offset, **constants,
        )  # fmt: skip
    chosen = gating(activation, dim, interleaved, gate_first, limit, offset, constants)
    check_gated("gated_quantize", input, up, chosen)
    rounding = rounding_of("gated_quantize", dtype, granularity, pow2, scale is not None)
    _check_input("gated_quantize", input, rounding)
    return autograd.call(chosen, input, up, rounding, _scale_tensor("gated_quantize", scale, input))


def rounding_of(name: str, dtype: torch.dtype, granularity: str, pow2: bool, has_scale: bool) -> Rounding:
    """What the options of a call say, checked as far as they can be without a tensor."""
    if dtype not in LARGEST:
        known = ", ".join(map(str, LARGEST))
        raise TypeError(f"{name}(): dtype must be one of {known}, got {dtype}")
    if granularity not in GRANULARITIES:
        known = ", ".join(map(repr, GRANULARITIES))
        raise ValueError(f"{name}(): granularity must be one of {known}, got {granularity!r}")
    if has_scale and (granularity != "tensor" or pow2):
        option = "pow2=True" if granularity == "tensor" else f"granularity={granularity!r}"
        raise ValueError(f"{name}(): {option} computes scales, but a scale was given as well; leave one of them out")
    return Rounding(dtype, granularity, pow2)


def _check_input(name: str, input: Tensor, rounding: Rounding) -> None:
    if not accepts(input):
        raise NotImplementedError(refusal(name, input))
    if rounding.granularity != "tensor" and input.dim() == 0:
        raise ValueError(
            f"{name}(): an input without dimensions has no {rounding.granularity}s; use granularity='tensor'"
        )


def _scale_tensor(name: str, scale: Tensor | float | None, input: Tensor) -> Tensor | None:
    """A given scale as a tensor of shape (), checked where that does not wait for a GPU."""
    if scale is None:
        return None
    if not isinstance(scale, Tensor):
        _check_scale(name, float(scale))
        return torch.full((), scale, dtype=torch.float32, device=input.device)
    if scale.numel() != 1 or scale.dtype != torch.float32 or scale.device != input.device:
        raise ValueError(
            f"{name}(): scale must be one float32 number on {input.device}, got {tuple(scale.shape)} numbers of "
            f"{scale.dtype} on {scale.device}"
        )
    if scale.device.type == "cpu" and autograd.is_readable(scale):
        _check_scale(name, scale.item())
    return scale.detach().reshape(())


def _check_scale(name: str, scale: float) -> None:
    if not SMALLEST_SCALE <= scale <= torch.finfo(torch.float32).max:
        raise ValueError(
            f"{name}(): scale must be positive, finite and at least 2^-126 (the smallest normal float32), got {scale}"
        )
