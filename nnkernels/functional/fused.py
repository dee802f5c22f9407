"""bias, activation, dropout and residual in one pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, refusal
from ..autograd import fused as autograd
from ..autograd.shortcut import shortcut
from ..broadcast import spread
from ..fusing import inner

__all__ = ["bias_act"]


@shortcut
def bias_act(
    input: Tensor,
    bias: Tensor | None = None,
    activation: str = "identity",
    *,
    dropout_p: float = 0.0,
    residual: Tensor | None = None,
    training: bool = True,
    **constants: float,
) -> Tensor:
    """dropout(f(input + bias)) + residual, rounded once, in one pass over the data each way.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        bias: a number for each channel, in a shape that broadcasts along one dimension of the input: (C,) for the last,
            (C, 1, 1) for the second of (N, C, H, W). Its type may differ from the input's.
        activation: the name of a stateless activation, or "identity".
        dropout_p: the probability of dropping an element, in [0, 1); the others are divided by 1 - dropout_p.
        residual: added at the end; of a shape that broadcasts to the input's.
        training: whether dropout drops.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        A tensor with the shape, type and strides of the input.

    Raises:
        ValueError: bias or residual do not broadcast, bias varies along several dimensions, dropout_p is not in [0, 1),
            or the activation is unknown.
        TypeError: a constant that the activation lacks, or lacks a value for.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Backward keeps the input, the bias and the seed of the random numbers, which it draws again; it adds up the bias's
    gradient in the same pass, in float32 (float64 for float64), always in the same order: on a CPU for any number of
    threads, on GPUs of one model.

    Source: Srivastava et al. 2014 for dropout; the fused form is that of Megatron-LM (Shoeybi et al. 2019).

    Example:
        >>> import torch, nnkernels.functional as F
        >>> x, bias, residual = torch.tensor([[-1.0, 2.0]]), torch.tensor([3.0, -5.0]), torch.ones(1, 2)
        >>> F.bias_act(x, bias, "relu", residual=residual)
        tensor([[3., 1.]])
    """
    tensors = (input, bias, residual)
    if has_torch_function(tensors):
        return handle_torch_function(
            bias_act, tensors, input, bias, activation,
            dropout_p=dropout_p, residual=residual, training=training, **constants,
        )  # fmt: skip
    for name, tensor in zip(("input", "bias", "residual"), tensors, strict=True):
        if not isinstance(tensor, Tensor) and (name == "input" or tensor is not None):
            raise TypeError(f"bias_act(): argument {name!r} must be Tensor, not {type(tensor).__name__}")
        if tensor is not None and not accepts(tensor):
            raise NotImplementedError(refusal("bias_act", tensor, name))
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"bias_act(): {name} is on {tensor.device}, the input on {input.device}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"bias_act(): dropout_p must be in [0, 1), got {dropout_p}")
    chosen = inner("bias_act", activation, constants)
    dim = None
    if bias is not None:
        dim = _channel_dim(input, bias)
        if bias.dim() != 1 or bias.shape[0] != input.shape[dim]:
            wide = torch.promote_types(bias.dtype, torch.float32)  # in which the channels' gradients are added up
            bias = bias.to(wide).reshape(-1).expand(input.shape[dim])
        bias = bias.contiguous()
    if residual is not None:
        try:
            if residual.dtype != input.dtype or residual.shape != input.shape:
                residual = spread(residual, input)
        except RuntimeError:
            raise ValueError(
                f"bias_act(): a residual of shape {tuple(residual.shape)} does not broadcast to the input's "
                f"{tuple(input.shape)}"
            ) from None
    return autograd.call(chosen, input, bias, dim, residual, dropout_p if training else 0.0)


def _channel_dim(input: Tensor, bias: Tensor) -> int:
    """The dimension of the input along which the bias varies."""
    if bias.dim() == 1 and input.dim() > 0 and bias.shape[0] == input.shape[-1]:
        return input.dim() - 1
    if input.dim() == 0:
        raise ValueError("bias_act(): an input without dimensions has no channels; add the bias to it")
    shape = tuple(bias.shape)
    offset = input.dim() - bias.dim()
    varies = [d for d, size in enumerate(shape) if size != 1]
    fits = offset >= 0 and all(size in (1, input.shape[offset + d]) for d, size in enumerate(shape))
    if not fits or len(varies) > 1:
        why = "does not broadcast to" if not fits else "varies along several dimensions of"
        raise ValueError(
            f"bias_act(): a bias of shape {shape} {why} the input of shape {tuple(input.shape)}; give a number for "
            "each channel: (C,) for the last dimension, (C, 1, 1) for the second of (N, C, H, W)"
        )
    return offset + varies[0] if varies else input.dim() - 1
