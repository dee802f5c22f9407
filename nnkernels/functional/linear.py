"""Linear layers with an activation behind them, and the blocks of two that hold an activation between them."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, integer, refusal
from ..autograd import linear as autograd
from ..autograd.casting import casting
from ..autograd.shortcut import shortcut
from ..contracts.linear import Ending
from ..fusing import inner
from .gated import gating

__all__ = ["gated_mlp", "linear_act", "maxout_linear", "mlp"]


@casting
@shortcut
def linear_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "gelu",
    *,
    round_preact: bool = False,
    **constants: float,
) -> Tensor:
    """f(input weight^T + bias): a linear layer and the activation behind it.

    On a GPU the fastest of three ways that was measured for such shapes, by us or by `nnkernels.tune_products` there: a
    kernel of both; torch's own; torch's product and the activation's kernel in its place. Backward keeps the
    pre-activation, or the result where the derivative there is the same, as of relu, and adds up the bias's gradient in
    the same pass.

    Args:
        input: `(*, in)`, float64, float32, bfloat16 or float16, in any layout.
        weight: `(out, in)`, as torch.nn.Linear has it.
        bias: `(out,)`.
        activation: the name of a stateless activation, or "identity".
        round_preact: whether the pre-activation is rounded to the type of the result first, so that the result is, bit
            for bit, what torch's linear and then the activation give.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        `(*, out)`, of the input's type; under autocast of autocast's.

    Raises:
        ValueError: the shapes do not multiply, or the activation is unknown.
        TypeError: an argument is no tensor or of another type than `input`, or a constant is unknown.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the devices differ, or the backend chosen by name cannot serve the input.

    Source: Chetlur et al. 2014, cuDNN; the kernels' shape is that of CUTLASS (Thakkar et al. 2023).

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.linear_act(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]]), activation="relu")
        tensor([[3., 0.]])
    """
    tensors = (input, weight, bias)
    if has_torch_function(tensors):
        return handle_torch_function(
            linear_act, tensors, input, weight, bias, activation, round_preact=round_preact, **constants
        )  # fmt: skip
    ending = Ending(inner("linear_act", activation, constants), bool(round_preact))
    input, weight, bias = _alike("linear_act", input=input, weight=weight, bias=bias)
    _check_product("linear_act", input, "weight", weight, bias)
    return autograd.linear_act(ending, input, weight, bias)


@casting
@shortcut
def mlp(
    input: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None = None,
    activation: str = "gelu",
    *,
    round_preact: bool = False,
    recompute: bool = False,
    **constants: float,
) -> Tensor:
    """f(input w1^T + b1) w2^T + b2: the feed-forward block of a transformer, with one hidden tensor kept, not two.

    Backward makes the hidden activation again from the pre-activation, in the pass that multiplies by its derivative.

    Args:
        input: `(*, in)`, float64, float32, bfloat16 or float16, in any layout.
        w1, b1: `(hidden, in)` and `(hidden,)` or None.
        w2, b2: `(out, hidden)` and `(out,)` or None.
        activation: the name of a stateless activation, or "identity".
        round_preact: as for `linear_act`.
        recompute: whether backward keeps no hidden tensor at all, and takes the first product again. Under a compiler
            and under transforms, which decide themselves what is kept, it has no effect.
        **constants: those of the activation.

    Returns:
        `(*, out)`, of the input's type; under autocast of autocast's.

    Raises:
        ValueError, TypeError, NotImplementedError, RuntimeError: as `linear_act` does.

    Source: Vaswani et al. 2017, Attention Is All You Need; Chen et al. 2016 for recomputing.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> x, w1, w2 = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0]])
        >>> F.mlp(x, w1, None, w2, activation="relu")
        tensor([[6.]])
    """
    tensors = (input, w1, b1, w2, b2)
    if has_torch_function(tensors):
        return handle_torch_function(
            mlp, tensors, input, w1, b1, w2, b2, activation,
            round_preact=round_preact, recompute=recompute, **constants,
        )  # fmt: skip
    ending = Ending(inner("mlp", activation, constants), bool(round_preact))
    input, w1, b1, w2, b2 = _alike("mlp", input=input, w1=w1, b1=b1, w2=w2, b2=b2)
    _check_product("mlp", input, "w1", w1, b1)
    _check_behind("mlp", "w1", w1, "w2", w2, b2, w1.shape[0])
    return autograd.mlp(autograd.Hidden(ending, bool(recompute)), input, w1, b1, w2, b2)


@casting
@shortcut
def gated_mlp(
    input: Tensor,
    w_gate: Tensor,
    w_up: Tensor | None,
    w_down: Tensor,
    b_gate: Tensor | None = None,
    b_up: Tensor | None = None,
    b_down: Tensor | None = None,
    activation: str = "silu",
    *,
    interleaved: bool = False,
    gate_first: bool = True,
    limit: float | None = None,
    limit_after: bool = False,
    offset: float = 0.0,
    recompute: bool = False,
    **constants: float,
) -> Tensor:
    """(f(gate) up) w_down^T + b_down, of gate = input w_gate^T + b_gate and up = input w_up^T + b_up.

    Backward keeps gate and up, where torch's composition keeps f(gate) and the product as well; it makes these again.

    Args:
        input: `(*, in)`, float64, float32, bfloat16 or float16, in any layout.
        w_gate, w_up: `(hidden, in)` each; or both in `w_gate`, `(2 hidden, in)`, and None.
        w_down: `(out, hidden)`.
        b_gate, b_up, b_down: as long as their weights, or None; `b_gate` has both where `w_gate` does.
        activation: the name of a stateless activation.
        interleaved: whether the rows of gate and up alternate in `w_gate`; else they are its halves.
        gate_first: whether the gate comes first there.
        limit, limit_after, offset: what happens to gate and up, as `gated` has it.
        recompute: whether backward keeps neither, and takes the first products again. Under a compiler and under
            transforms, which decide themselves what is kept, it has no effect.
        **constants: those of the activation.

    Returns:
        `(*, out)`, of the input's type; under autocast of autocast's.

    Raises:
        ValueError, TypeError, NotImplementedError, RuntimeError: as `linear_act` and `gated` do.

    Source: Shazeer 2020, GLU Variants Improve Transformer; Chen et al. 2016 for recomputing.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> one = torch.ones(1, 1)
        >>> F.gated_mlp(torch.tensor([[2.0]]), one, 3 * one, one, activation="relu")
        tensor([[12.]])
    """
    tensors = (input, w_gate, w_up, w_down, b_gate, b_up, b_down)
    if has_torch_function(tensors):
        return handle_torch_function(
            gated_mlp, tensors, input, w_gate, w_up, w_down, b_gate, b_up, b_down, activation,
            interleaved=interleaved, gate_first=gate_first, limit=limit, limit_after=limit_after, offset=offset,
            recompute=recompute, **constants,
        )  # fmt: skip
    chosen = gating(activation, -1, interleaved, gate_first, limit, offset, constants, limit_after)
    names = ("input", "w_gate", "w_up", "w_down", "b_gate", "b_up", "b_down")
    given = _alike("gated_mlp", **dict(zip(names, tensors, strict=True)))
    input, w_gate, w_up, w_down, b_gate, b_up, b_down = given
    _check_product("gated_mlp", input, "w_gate", w_gate, b_gate)
    hidden = w_gate.shape[0]
    if w_up is None:
        if hidden % 2 or b_up is not None:
            raise ValueError(
                "gated_mlp(): without w_up, b_gate holds the biases of gate and up, and b_up must be None"
                if b_up is not None
                else "gated_mlp(): without w_up, w_gate holds gate and up, so that its rows must be even in number, "
                f"got {tuple(w_gate.shape)}"
            )
        hidden //= 2
    else:
        if interleaved or not gate_first:
            option = "interleaved=True" if interleaved else "gate_first=False"
            raise ValueError(f"gated_mlp(): {option} describes gate and up in one w_gate, but w_up was given as well")
        _check_product("gated_mlp", input, "w_up", w_up, b_up)
        if w_up.shape != w_gate.shape:
            raise ValueError(
                f"gated_mlp(): w_gate and w_up must have one shape, got {tuple(w_gate.shape)} and {tuple(w_up.shape)}"
            )
    _check_behind("gated_mlp", "w_gate", w_gate, "w_down", w_down, b_down, hidden)
    return autograd.gated_mlp(autograd.GatedHidden(chosen, bool(recompute)), *given)


@casting
@shortcut
def maxout_linear(input: Tensor, weight: Tensor, bias: Tensor | None, num_pieces: int) -> Tensor:
    """The greatest of each `num_pieces` neighbouring outputs of a linear layer.

    Where a kernel does both (capability 9.0, 16 bits, measured shapes), the wide product is never stored.

    Backward keeps which piece won: 1 bit for each element of the result with 2 pieces, 2 with up to 4, 4 with up to 16,
    8 with up to 256; more pieces are torch operations. Of equal pieces the first gets the gradient, and NaN wins.

    Args:
        input: `(*, in)`, float64, float32, bfloat16 or float16, in any layout.
        weight: `(num_pieces out, in)`; an output's pieces one below the other, as `maxout` has them.
        bias: `(num_pieces out,)` or None.
        num_pieces: how many linear functions each output is the greatest of.

    Returns:
        `(*, out)`, of the input's type; under autocast of autocast's.

    Raises:
        ValueError: the shapes do not multiply, or `num_pieces` is less than 1 or does not divide the rows of `weight`.
        TypeError, NotImplementedError, RuntimeError: as `linear_act` does.

    Source: Goodfellow, Warde-Farley, Mirza, Courville & Bengio 2013, Maxout Networks.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.maxout_linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]]), None, 2)
        tensor([[3.]])
    """
    tensors = (input, weight, bias)
    if has_torch_function(tensors):
        return handle_torch_function(maxout_linear, tensors, *tensors, num_pieces)
    num_pieces = integer("maxout_linear", "num_pieces", num_pieces)
    input, weight, bias = _alike("maxout_linear", input=input, weight=weight, bias=bias)
    _check_product("maxout_linear", input, "weight", weight, bias)
    if num_pieces < 1 or weight.shape[0] % num_pieces:
        raise ValueError(
            f"maxout_linear(): a weight of shape {tuple(weight.shape)} does not have num_pieces {num_pieces} rows for "
            "each output"
        )
    return autograd.maxout_linear(int(num_pieces), input, weight, bias)


def _alike(caller: str, **tensors: Tensor | None) -> tuple[Tensor, ...]:
    """The tensors by name; biases, and an up of its own, may be missing.

    Raises what `caller` says of those that are no tensors, or differ from the first.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) and (tensor is not None or not (name[0] == "b" or name == "w_up")):
            raise TypeError(f"{caller}(): argument {name!r} must be Tensor, not {type(tensor).__name__}")
        if tensor is not None and not accepts(tensor):
            raise NotImplementedError(refusal(caller, tensor, name))
    first = tensors["input"]
    assert first is not None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.device != first.device:
            raise RuntimeError(f"{caller}(): {name} is on {tensor.device}, the input on {first.device}; move one")
        if tensor.dtype != first.dtype:
            raise TypeError(f"{caller}(): {name} is {tensor.dtype}, the input {first.dtype}; convert one of them")
    return tuple(tensors.values())  # type: ignore[arg-type]


def _check_product(caller: str, x: Tensor, name: str, weight: Tensor, bias: Tensor | None) -> None:
    if x.dim() == 0 or weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"{caller}(): input is (*, in) and {name} is (out, in), got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    _check_bias(caller, name, weight, bias)


def _check_behind(
    caller: str, name: str, weight: Tensor, behind: str, last: Tensor, bias: Tensor | None, hidden: int
) -> None:
    if last.dim() != 2 or last.shape[1] != hidden:
        raise ValueError(
            f"{caller}(): {behind} is (out, {hidden}) behind a {name} of shape {tuple(weight.shape)}, got "
            f"{tuple(last.shape)}"
        )
    _check_bias(caller, behind, last, bias)


def _check_bias(caller: str, name: str, weight: Tensor, bias: Tensor | None) -> None:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{caller}(): the bias of {name}, which is {tuple(weight.shape)}, has shape {tuple(bias.shape)}, expected "
            f"({weight.shape[0]},)"
        )
