"""Layer and rms norm with residual and activation in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .. import norm_arguments as arguments
from ..arguments import integer, number
from ..autograd import channel_normalization as channels
from ..autograd import normalization as autograd
from ..autograd.shortcut import shortcut
from ..contracts.computing import wide_dtype
from ..contracts.normalization import Gate, Norm, summed_dtype
from ..fusing import Inner, inner

__all__ = ["add_layer_norm", "add_rms_norm", "gated_rms_norm", "layer_norm_act", "rms_norm_act"]


@shortcut
def layer_norm_act(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "identity",
    *,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
    dim: int | None = None,
    **constants: float,
) -> Tensor:
    """f((input - mean) / sqrt(variance + eps) weight + bias + residual), rounded once, in one pass each way.

    Mean and (biased) variance are those over the last dimensions, which `normalized_shape` names, or over dimension
    `dim`. They are exact to the last digits of their type also where the mean is many times the deviation.

    Args:
        input: a tensor of shape (*, *normalized_shape), or with a dimension `dim` of that size; float64, float32,
            bfloat16 or float16.
        normalized_shape: the sizes of the last dimensions, or the size of the last one or of dimension `dim`.
        weight, bias: of shape `normalized_shape`; their type may differ from the input's.
        eps: added to the variance; not negative.
        activation: the name of a stateless activation, or "identity".
        residual: added before the activation; of a shape that broadcasts to the input's.
        dtype: of the result, None for the input's. float32 of 16-bit numbers is what autocast makes of torch's norms;
            16 bits of float32 are what it makes of a norm before a product, in one pass instead of two.
        dim: of the input, the one dimension to be normalised, if it is not the last: 1 for the channels of images,
            which a GPU then neither permutes nor copies (the CPU's kernels copy them).
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        A tensor of the input's shape and of the type `dtype`, also under autocast: what is computed in between is
        float32 (float64 for float64) in any case. It is contiguous, or, where dimension `dim` lies last in memory, as
        that of images does channels last, a view of rows with that dimension moved back.

    Raises:
        ValueError (and RuntimeError, as torch's): the input does not end in `normalized_shape`, or has another size in
            dimension `dim`; weight or bias have another shape, the residual does not broadcast.
        IndexError: the input has no dimension `dim`.
        ValueError: eps is negative, the activation is unknown, a tensor is on another device.
        TypeError: a constant that the activation lacks, or lacks a value for; an argument that is no tensor; a dtype
            between which and the input's there is no such pair.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Backward keeps the input and two numbers for each row (and the residual where f is not "identity"), computes the
    normalised values again, and adds up the gradients of weight and bias in the same pass, in float32 (float64 for
    float64), in an order that depends on the shape and the device alone.

    Source: Ba, Kiros & Hinton 2016, Layer Normalization.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> x, residual = torch.tensor([[1.0, 3.0], [-5.0, 5.0]]), torch.tensor([2.0, -2.0])
        >>> F.layer_norm_act(x, 2, eps=0.0, activation="relu", residual=residual)
        tensor([[1., 0.],
                [1., 0.]])
        >>> F.layer_norm_act(torch.ones(2, 64, 7, 7), 64, dim=1).shape
        torch.Size([2, 64, 7, 7])
    """
    tensors = (input, weight, bias, residual)
    if has_torch_function(tensors):
        return handle_torch_function(
            layer_norm_act, tensors, input, normalized_shape, weight, bias, eps, activation,
            residual=residual, dtype=dtype, dim=dim, **constants,
        )  # fmt: skip
    given = {"input": input, "weight": weight, "bias": bias, "residual": residual}
    over = arguments.check("layer_norm_act", given, normalized_shape, number("layer_norm_act", "eps", eps), dim)
    chosen = inner("layer_norm_act", activation, constants)
    norm = Norm(chosen, float(eps), True, arguments.result_type("layer_norm_act", input.dtype, dtype))
    return _normed("layer_norm_act", norm, input, over, residual, weight, bias)


@shortcut
def rms_norm_act(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    activation: str = "identity",
    *,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
    offset: float = 0.0,
    dim: int | None = None,
    **constants: float,
) -> Tensor:
    """f(input / sqrt(mean(input^2) + eps) (weight + offset) + residual), rounded once, in one pass each way.

    The mean is that over the last dimensions, which `normalized_shape` names, or over dimension `dim`.

    Args:
        input: a tensor of shape (*, *normalized_shape), or with a dimension `dim` of that size; float64, float32,
            bfloat16 or float16.
        normalized_shape: the sizes of the last dimensions, or the size of the last one or of dimension `dim`.
        weight: of shape `normalized_shape`; its type may differ from the input's.
        eps: added to the mean square; not negative; None is the epsilon of the type in which is computed: 2^-52 for
            float64, 2^-23 for the others.
        activation: the name of a stateless activation, or "identity".
        residual: added before the activation; of a shape that broadcasts to the input's.
        dtype: of the result, None for the input's. float32 of 16-bit numbers is what autocast makes of torch's norms;
            16 bits of float32 are what it makes of a norm before a product, in one pass instead of two.
        dim: of the input, the one dimension to be normalised, as `layer_norm_act`'s.
        offset: added to the weight, if there is one: 1 in Gemma, whose weights start at 0.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        A tensor of the input's shape and of the type `dtype`, also under autocast: what is computed in between is
        float32 (float64 for float64) in any case. It is contiguous, or, where dimension `dim` lies last in memory, as
        that of images does channels last, a view of rows with that dimension moved back.

    Raises:
        ValueError, IndexError, TypeError, NotImplementedError, RuntimeError: as `layer_norm_act`.

    Backward keeps the input and one number for each row (and the residual where f is not "identity"), computes the
    normalised values again, and adds up the weight's gradient in the same pass, as `layer_norm_act`'s.

    Source: Zhang & Sennrich 2019, Root Mean Square Layer Normalization.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.rms_norm_act(torch.tensor([[1.0, -7.0], [3.0, 3.0]]), 2, activation="relu")
        tensor([[0.2000, 0.0000],
                [1.0000, 1.0000]])
        >>> F.rms_norm_act(torch.tensor([[1.0, 3.0], [-7.0, 3.0]]), 2, dim=0)
        tensor([[ 0.2000,  1.0000],
                [-1.4000,  1.0000]])
    """
    tensors = (input, weight, residual)
    if has_torch_function(tensors):
        return handle_torch_function(
            rms_norm_act, tensors, input, normalized_shape, weight, eps, activation,
            residual=residual, dtype=dtype, offset=offset, dim=dim, **constants,
        )  # fmt: skip
    given = {"input": input, "weight": weight, "residual": residual}
    over = arguments.check("rms_norm_act", given, normalized_shape, eps, dim)
    chosen = inner("rms_norm_act", activation, constants)
    norm = _rms_norm("rms_norm_act", chosen, input.dtype, eps, dtype, offset)
    return _normed("rms_norm_act", norm, input, over, residual, weight, None)


@shortcut
def add_layer_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """layer_norm(input + residual) and input + residual, in one pass each way: what stands between the blocks of GPT-2.

    Args:
        input: a tensor of shape (*, *normalized_shape); float64, float32, bfloat16 or float16.
        residual: of a shape that broadcasts to the input's; its type may be another, as under autocast.
        normalized_shape, weight, bias, eps: as `layer_norm_act`'s.
        dtype: of the norm, not of the sum; None for the sum's.

    Returns:
        The norm and the sum, contiguous tensors of the input's shape. The sum has the type that torch gives it, the
        wider of the two, and is rounded to it before it is normalised, as where the two are separate operations.

    Raises:
        ValueError, TypeError, NotImplementedError, RuntimeError: as `layer_norm_act`.

    Backward keeps the sum and two numbers for each row. The gradient of the sum joins that of the norm in the same
    pass; it is the gradient of input and residual alike, written in the type of each.

    Source: Ba, Kiros & Hinton 2016, Layer Normalization; before the blocks in GPT-2 (Radford et al. 2019).

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.add_layer_norm(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, -2.0]]), 2, eps=0.0)
        (tensor([[ 1., -1.]]), tensor([[3., 1.]]))
    """
    tensors = (input, residual, weight, bias)
    if has_torch_function(tensors):
        return handle_torch_function(
            add_layer_norm, tensors, input, residual, normalized_shape, weight, bias, eps, dtype=dtype
        )
    given = {"input": input, "residual": residual, "weight": weight, "bias": bias}
    dims = arguments.check("add_layer_norm", given, normalized_shape, number("add_layer_norm", "eps", eps)).dims
    addend = arguments.addend("add_layer_norm", residual, input)
    dtype = arguments.result_type("add_layer_norm", summed_dtype(input, addend), dtype)
    norm = Norm(inner("add_layer_norm", "identity", {}), float(eps), True, dtype)
    return autograd.call_of_sum(norm, input, addend, dims, weight, bias)


@shortcut
def add_rms_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    dtype: torch.dtype | None = None,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """rms_norm(input + residual) and input + residual, in one pass each way: what stands between the blocks of Llama.

    Args:
        input: a tensor of shape (*, *normalized_shape); float64, float32, bfloat16 or float16.
        residual: of a shape that broadcasts to the input's; its type may be another, as under autocast.
        normalized_shape, weight, eps, offset: as `rms_norm_act`'s.
        dtype: of the norm, not of the sum; None for the sum's.

    Returns:
        The norm and the sum, contiguous tensors of the input's shape. The sum has the type that torch gives it, the
        wider of the two, and is rounded to it before it is normalised, as where the two are separate operations.

    Raises:
        ValueError, TypeError, NotImplementedError, RuntimeError: as `layer_norm_act`.

    Backward keeps the sum and one number for each row. The gradient of the sum joins that of the norm in the same pass;
    it is the gradient of input and residual alike, written in the type of each.

    Source: Zhang & Sennrich 2019, Root Mean Square Layer Normalization; before each block in Llama (Touvron et al.
    2023).

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.add_rms_norm(torch.tensor([[1.0, -7.0]]), torch.tensor([[2.0, 4.0]]), 2, eps=0.0)
        (tensor([[ 1., -1.]]), tensor([[ 3., -3.]]))
    """
    tensors = (input, residual, weight)
    if has_torch_function(tensors):
        return handle_torch_function(
            add_rms_norm, tensors, input, residual, normalized_shape, weight, eps, dtype=dtype, offset=offset
        )
    given = {"input": input, "residual": residual, "weight": weight}
    dims = arguments.check("add_rms_norm", given, normalized_shape, eps).dims
    addend = arguments.addend("add_rms_norm", residual, input)
    of = summed_dtype(input, addend)
    norm = _rms_norm("add_rms_norm", inner("add_rms_norm", "identity", {}), of, eps, dtype, offset)
    return autograd.call_of_sum(norm, input, addend, dims, weight, None)


@shortcut
def gated_rms_norm(
    input: Tensor,
    gate: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    activation: str = "silu",
    *,
    norm_before_gate: bool = True,
    group_size: int | None = None,
    dtype: torch.dtype | None = None,
    offset: float = 0.0,
    **constants: float,
) -> Tensor:
    """input / sqrt(mean(input^2) + eps) (weight + offset) f(gate), rounded once, in one pass each way.

    It is the norm behind linear attention. Qwen3-Next and its kin multiply by the gate what is normalised already;
    Mamba-2 and its kin (Bamba, Zamba 2, Nemotron-H, Falcon-H1) normalise the product: `norm_before_gate=False`.

    Args:
        input: a tensor of shape (*, *normalized_shape); float64, float32, bfloat16 or float16.
        gate: of a shape that broadcasts to the input's.
        normalized_shape, weight, eps, dtype, offset: as `rms_norm_act`'s.
        activation: f, the name of a stateless activation, or "identity".
        norm_before_gate: whether the mean square is that of the input; else it is that of input f(gate), and the result
            is input f(gate) / sqrt(mean((input f(gate))^2) + eps) (weight + offset).
        group_size: if given, each row, of one dimension, is cut into groups of so many numbers, each normalised by
            itself, as Mamba-2 does for tensor parallelism. The weight, of the row's size, is then a pass of its own.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        A contiguous tensor of the input's shape and of the type `dtype`.

    Raises:
        ValueError: `group_size` does not divide the row's size, or `normalized_shape` has several sizes beside it.
        ValueError, TypeError, NotImplementedError, RuntimeError: as `layer_norm_act`.

    Backward keeps the input, the gate and one number for each row or group.

    Source: Dao & Gu 2024, Transformers are SSMs; Yang, Kautz & Hatamizadeh 2025, Gated Delta Networks.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.gated_rms_norm(torch.tensor([[3.0, -3.0]]), torch.tensor([[2.0, -1.0]]), 2, activation="relu")
        tensor([[2., -0.]])
    """
    tensors = (input, gate, weight)
    if has_torch_function(tensors):
        return handle_torch_function(
            gated_rms_norm, tensors, input, gate, normalized_shape, weight, eps, activation,
            norm_before_gate=norm_before_gate, group_size=group_size, dtype=dtype, offset=offset, **constants,
        )  # fmt: skip
    given = {"input": input, "gate": gate, "weight": weight}
    dims = arguments.check("gated_rms_norm", given, normalized_shape, eps).dims
    chosen = inner("gated_rms_norm", activation, constants)
    where = Gate.AFTER if norm_before_gate else Gate.BEFORE
    norm = _rms_norm("gated_rms_norm", chosen, input.dtype, eps, dtype, offset)._replace(gates=where)
    arguments.check_given("gated_rms_norm", "gate", gate)
    beside = arguments.broadcast("gated_rms_norm", gate, input, "gate")
    if group_size is None or (dims == 1 and group_size == input.shape[-1]):
        return autograd.call(norm, input, dims, beside, weight, None)
    return _in_groups(norm, input, beside, weight, dims, integer("gated_rms_norm", "group_size", group_size))


def _normed(
    name: str,
    norm: Norm,
    x: Tensor,
    over: arguments.Over,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    residual = None if residual is None else arguments.broadcast(name, residual, x)
    if over.dim is None:
        return autograd.call(norm, x, over.dims, residual, weight, bias)
    return channels.call(norm, x, over.dim, residual, weight, bias)


def _in_groups(norm: Norm, x: Tensor, gate: Tensor, weight: Tensor | None, dims: int, size: int) -> Tensor:
    """The norm of groups of `size` numbers, not rounded before the weight, which differs from group to group."""
    if dims != 1 or size < 1 or x.shape[-1] % size:
        raise arguments.ShapeError(
            f"gated_rms_norm(): group_size={size} does not divide rows of shape {tuple(x.shape[x.dim() - dims :])}; "
            "give a divisor of the one size that is normalised"
        )
    groups = [one.unflatten(-1, (x.shape[-1] // size, size)) for one in (x, gate)]
    if weight is None:
        return autograd.call(norm, groups[0], 1, groups[1], None, None).flatten(-2)
    wide = wide_dtype(x.dtype)
    y = autograd.call(norm._replace(dtype=wide), groups[0], 1, groups[1], None, None).flatten(-2)
    return (y * (weight.to(wide) + norm.offset)).to(norm.dtype)


def _rms_norm(
    name: str, chosen: Inner, of: torch.dtype, eps: float | None, dtype: torch.dtype | None, offset: float
) -> Norm:
    """Told what has been checked but for the type and the offset; `of` is the type of what is normalised."""
    if eps is None:
        eps = torch.finfo(torch.float64 if of == torch.float64 else torch.float32).eps
    return Norm(chosen, float(eps), False, arguments.result_type(name, of, dtype), number(name, "offset", offset))
