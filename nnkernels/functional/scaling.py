"""The product with a broadcast factor: layer scales, and the gates of squeeze-and-excitation."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, refusal
from ..autograd import scaling as autograd
from ..autograd.shortcut import shortcut
from ..fusing import inner

__all__ = ["scale_act"]


@shortcut
def scale_act(
    input: Tensor,
    scale: Tensor,
    activation: str = "identity",
    *,
    residual: Tensor | None = None,
    **constants: float,
) -> Tensor:
    """input f(scale) + residual, rounded once, in one pass over the data each way.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        scale: broadcasts to the input: (C,) or (C, 1, 1) of a layer scale, (N, C, 1, 1) of a squeeze-and-excite gate.
            Its type may differ from the input's.
        activation: f, the name of a stateless activation, "sigmoid" for instance, or "identity".
        residual: added at the end; of a shape that broadcasts to the input's, and of any of the types.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        A tensor with the shape and strides of the input and the type that torch gives to input * scale + residual.

    Raises:
        ValueError: scale or residual do not broadcast to the input, or the activation is unknown.
        TypeError: a constant that the activation lacks, or lacks a value for.
        NotImplementedError: a type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Backward keeps the input and the scale. It adds up the scale's gradient in the same pass in which it makes the
    input's, in float32 (float64 for float64), always in the same order. Scales that vary along dimensions which lie
    apart in memory are served by torch operations.

    Source: Touvron et al. 2021, Going deeper with Image Transformers, for layer scale; Hu, Shen & Sun 2018,
    Squeeze-and-Excitation Networks, for gates.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> x, gamma = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, -1.0])
        >>> F.scale_act(x, gamma, "relu", residual=torch.ones(2, 2))
        tensor([[11.,  1.],
                [31.,  1.]])
    """
    tensors = (input, scale, residual)
    if has_torch_function(tensors):
        return handle_torch_function(scale_act, tensors, input, scale, activation, residual=residual, **constants)
    for name, tensor in zip(("input", "scale", "residual"), tensors, strict=True):
        if name == "residual" and tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"scale_act(): argument {name!r} must be Tensor, not {type(tensor).__name__}")
        if not accepts(tensor):
            raise NotImplementedError(refusal("scale_act", tensor, name))
        if tensor.device != input.device:
            raise ValueError(f"scale_act(): {name} is on {tensor.device}, the input on {input.device}")
        offset = input.dim() - tensor.dim()
        sizes = tensor.shape
        if offset < 0 or any(size != 1 and size != input.shape[offset + d] for d, size in enumerate(sizes)):
            raise ValueError(
                f"scale_act(): a {name} of shape {tuple(sizes)} does not broadcast to the input's {tuple(input.shape)}"
            )
    chosen = inner("scale_act", activation, constants)
    weighty = [one for one in tensors if one is not None and (one.dim() or not input.dim())]  # as torch promotes types
    dtype = reduce(torch.promote_types, (one.dtype for one in weighty))
    if residual is not None and residual.shape != input.shape:
        residual = residual.to(dtype).expand(input.shape)
    return autograd.call(chosen, input, scale, residual, dtype)
