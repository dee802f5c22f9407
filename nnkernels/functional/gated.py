"""The gated activations, y = f(gate) up, as functions.

One packed tensor holds gate and up along `dim`, as halves or as alternating pairs, or they are two tensors. Customs:

    [gate, up]         `gate_first=True`, the default here: vLLM's SiluAndMul, checkpoints with a fused gate_up_proj
    [up, gate]         `gate_first=False`: `torch.nn.functional.glu` and our `glu`, diffusers' GEGLU
    g0 u0 g1 u1 ...    `interleaved=True`: gpt-oss
    two tensors        `up=`: Llama in Transformers (`act(gate_proj(x)) * up_proj(x)`), Liger-Kernel
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, check_whole, number, refusal
from ..autograd import gated as autograd
from ..autograd.shortcut import shortcut
from ..contracts.gated import Gating
from ..fusing import inner
from ..registry import Activation, catalogue

__all__ = ["gated", "geglu", "glu", "situ_glu", "swiglu"]

_VARIANTS = {row.variant: row.name for row in catalogue(Activation) if row.variant}


@shortcut
def gated(
    input: Tensor,
    activation: str = "silu",
    dim: int = -1,
    *,
    up: Tensor | None = None,
    interleaved: bool = False,
    gate_first: bool = True,
    limit: float | None = None,
    limit_after: bool = False,
    offset: float = 0.0,
    **constants: float,
) -> Tensor:
    """f(gate) up, f being any stateless activation of the catalogue.

    Args:
        input: gate and up packed along `dim`: `(..., 2 n, ...)`; or the gate alone, of any shape, if `up` is given.
            float64, float32, bfloat16 or float16, in any layout.
        activation: the name of a stateless activation, such as "silu", "gelu_tanh" or "leaky_relu".
        dim: the dimension that is halved; without meaning if `up` is given.
        up: what the gate multiplies, of the gate's shape, dtype and device; nothing is broadcast.
        interleaved: whether gate and up alternate along `dim` (`x[..., ::2]` and `x[..., 1::2]`); else halves.
        gate_first: whether the gate is the first half (of each pair, if interleaved).
        limit: if given, the gate is held below `limit` and up within `[-limit, limit]` before anything else; what lies
            outside (not at the limit) gets a gradient of 0. This is gpt-oss's convention.
        limit_after: whether the limit holds f(gate) instead of the gate, as in Step-3.
        offset: added to up after it was limited; gpt-oss multiplies by up + 1.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Returns:
        A tensor of shape `(..., n, ...)`, or of the gate's shape if `up` is given. 16-bit numbers are multiplied in
        float32 and rounded once.

    Raises:
        RuntimeError: `dim` has an odd size, or `input` no dimension; or the backend chosen by name cannot serve.
        IndexError: there is no dimension `dim`.
        ValueError: an unknown activation, gate and up that do not match, a limit that is not positive, or an option for
            packed tensors together with `up`.
        TypeError: a constant that the activation lacks, or lacks a value for.
        NotImplementedError: the type is not one of the four.

    Source: Dauphin et al. 2017, Language Modeling with Gated Convolutional Networks; Shazeer 2020, GLU Variants Improve
        Transformer.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> x = torch.tensor([[-2.0, 4.0, 10.0, 100.0]])  # gates -2 and 4, ups 10 and 100
        >>> F.gated(x, "leaky_relu", negative_slope=0.5)
        tensor([[-10., 400.]])
        >>> F.gated(x, "relu", interleaved=True)
        tensor([[   0., 1000.]])
        >>> gate_up = torch.randn(4, 16)
        >>> F.gated(gate_up, "swish", beta=1.702, interleaved=True, limit=7.0, offset=1.0).shape  # gpt-oss's
        torch.Size([4, 8])
        >>> F.gated(torch.tensor([9.0]), "relu", up=torch.tensor([-8.0]), limit=7.0, limit_after=True)  # Step-3's
        tensor([-49.])
    """
    if has_torch_function((input, up)):
        return handle_torch_function(
            gated, (input, up), input, activation, dim,
            up=up, interleaved=interleaved, gate_first=gate_first, limit=limit, limit_after=limit_after, offset=offset,
            **constants,
        )  # fmt: skip
    chosen = gating(activation, dim, interleaved, gate_first, limit, offset, constants, limit_after)
    return _call("gated", input, up, chosen)


@shortcut
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The gated linear unit, a sigmoid(b): as in `torch.nn.functional.glu`, the gate b is the second half.

    Args:
        input: `(..., 2 n, ...)`, the halves a and b along `dim`; float64, float32, bfloat16 or float16.
        dim: the dimension that is halved.

    Returns:
        A tensor of shape `(..., n, ...)`.

    Raises:
        RuntimeError: `dim` has an odd size, or `input` no dimension.
        IndexError: there is no dimension `dim`.
        NotImplementedError: the type is not one of the four.

    Source: Dauphin et al. 2017, Language Modeling with Gated Convolutional Networks.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.glu(torch.tensor([3.0, 0.0]))
        tensor([1.5000])
    """
    if has_torch_function((input,)):
        return handle_torch_function(glu, (input,), input, dim=dim)
    return _call("glu", input, None, gating("sigmoid", dim, False, False, None, 0.0, {}))


@shortcut
def swiglu(
    input: Tensor,
    up: Tensor | None = None,
    dim: int = -1,
    *,
    beta: float = 1.0,
    interleaved: bool = False,
    gate_first: bool = True,
    limit: float | None = None,
    offset: float = 0.0,
) -> Tensor:
    """silu(gate) up, the unit of Llama's feed-forward block; with another `beta`, gate sigmoid(beta gate) up.

    Args:
        input: [gate, up] packed along `dim`, `(..., 2 n, ...)`, or the gate alone if `up` is given.
        up: what the gate multiplies, alike in shape, dtype and device.
        dim: the dimension that is halved; without meaning if `up` is given.
        beta: the sharpness of the gate.
        interleaved: whether gate and up alternate along `dim`, as in gpt-oss.
        gate_first: whether the gate comes first, as in vLLM's SiluAndMul; not so in `torch.nn.functional.glu`.
        limit: holds the gate below, and up within +-`limit`; outside, the gradient is 0. As in gpt-oss.
        offset: added to up after it was limited; 1 in gpt-oss.

    Returns:
        A tensor of shape `(..., n, ...)`, or of the gate's shape if `up` is given.

    Raises:
        RuntimeError, IndexError, ValueError, NotImplementedError: as `gated` does.

    Source: Shazeer 2020, GLU Variants Improve Transformer.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> gate, up = torch.tensor([0.0, 20.0]), torch.tensor([5.0, 3.0])
        >>> F.swiglu(gate, up)
        tensor([ 0., 60.])
        >>> torch.equal(F.swiglu(torch.cat([gate, up])), F.swiglu(gate, up))
        True
    """
    if has_torch_function((input, up)):
        return handle_torch_function(
            swiglu, (input, up), input, up, dim,
            beta=beta, interleaved=interleaved, gate_first=gate_first, limit=limit, offset=offset,
        )  # fmt: skip
    name, constants = ("silu", {}) if beta == 1 else ("swish", {"beta": beta})
    return _call("swiglu", input, up, gating(name, dim, interleaved, gate_first, limit, offset, constants))


@shortcut
def geglu(
    input: Tensor,
    up: Tensor | None = None,
    dim: int = -1,
    *,
    approximate: str = "none",
    interleaved: bool = False,
    gate_first: bool = True,
    limit: float | None = None,
    offset: float = 0.0,
) -> Tensor:
    """gelu(gate) up. Gemma and T5 1.1 mean `approximate="tanh"`; diffusers' GEGLU has `gate_first=False`.

    Args:
        input: [gate, up] packed along `dim`, `(..., 2 n, ...)`, or the gate alone if `up` is given.
        up: what the gate multiplies, alike in shape, dtype and device.
        dim: the dimension that is halved; without meaning if `up` is given.
        approximate: which GELU: "none", "tanh" or "sigmoid", as in `gelu`.
        interleaved: whether gate and up alternate along `dim`.
        gate_first: whether the gate comes first; not so in `torch.nn.functional.glu`.
        limit: holds the gate below, and up within +-`limit`; outside, the gradient is 0. As in gpt-oss.
        offset: added to up after it was limited.

    Returns:
        A tensor of shape `(..., n, ...)`, or of the gate's shape if `up` is given.

    Raises:
        RuntimeError: `approximate` is none of the three.
        RuntimeError, IndexError, ValueError, NotImplementedError: as `gated` does.

    Source: Shazeer 2020, GLU Variants Improve Transformer.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.geglu(torch.tensor([[10.0, 2.0]]), approximate="tanh")
        tensor([[20.]])
    """
    if has_torch_function((input, up)):
        return handle_torch_function(
            geglu, (input, up), input, up, dim,
            approximate=approximate, interleaved=interleaved, gate_first=gate_first, limit=limit, offset=offset,
        )  # fmt: skip
    return _call("geglu", input, up, gating(gelu_called(approximate), dim, interleaved, gate_first, limit, offset, {}))


@shortcut
def situ_glu(
    input: Tensor,
    up: Tensor | None = None,
    dim: int = -1,
    *,
    beta: float = 4.0,
    linear_beta: float | None = 25.0,
    interleaved: bool = False,
    gate_first: bool = True,
) -> Tensor:
    """beta tanh(gate / beta) sigmoid(gate) linear_beta tanh(up / linear_beta): a SwiGLU whose factors are capped.

    Within the caps it is nearly SwiGLU; beyond, products are at most beta linear_beta, so that no activation grows out
    of a narrow type. 16-bit numbers are computed in float32 and rounded once.

    Args:
        input: [gate, up] packed along `dim`, `(..., 2 n, ...)`, or the gate alone if `up` is given.
        up: what the gate multiplies, alike in shape, dtype and device.
        dim: the dimension that is halved; without meaning if `up` is given.
        beta: the cap of the gate, greater than 0.
        linear_beta: that of up; None leaves up as it is.
        interleaved: whether gate and up alternate along `dim`.
        gate_first: whether the gate comes first; not so in `torch.nn.functional.glu`.

    Returns:
        A tensor of shape `(..., n, ...)`, or of the gate's shape if `up` is given.

    Raises:
        ValueError: a cap that is not positive and finite.
        RuntimeError, IndexError, ValueError, NotImplementedError: as `gated` does.

    Source: Moonshot AI 2026, Kimi K3, equation 12: SiTU, a sigmoid tanh unit.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.situ_glu(torch.tensor([[0.0, 100.0, 5.0, 1000.0]]))
        tensor([[  0., 100.]])
    """
    if has_torch_function((input, up)):
        return handle_torch_function(
            situ_glu, (input, up), input, up, dim,
            beta=beta, linear_beta=linear_beta, interleaved=interleaved, gate_first=gate_first,
        )  # fmt: skip
    return _call("situ_glu", input, up, situ_gating(dim, interleaved, gate_first, beta, linear_beta))


def situ_gating(dim: int, interleaved: bool, gate_first: bool, beta: float, linear_beta: float | None) -> Gating:
    """What the options of a call of `situ_glu` say, checked as far as they can be without a tensor."""
    given = {"beta": beta} | ({} if linear_beta is None else {"linear_beta": linear_beta})
    caps = {name: number("situ_glu", name, cap) for name, cap in given.items()}
    for name, cap in caps.items():
        if not 0 < cap < math.inf:
            raise ValueError(f"situ_glu(): {name} must be greater than 0 and finite, got {cap}")
    chosen = gating("sigmoid", dim, interleaved, gate_first, None, 0.0, {})
    return chosen._replace(gate_cap=caps["beta"], up_cap=caps.get("linear_beta", math.inf))


def gelu_called(approximate: str) -> str:
    """The row that `approximate` means."""
    if approximate not in _VARIANTS:
        known = ", ".join(map(repr, _VARIANTS))
        raise RuntimeError(f"geglu(): approximate must be one of {known}, got {approximate!r}")
    return _VARIANTS[approximate]


def gating(
    activation: str,
    dim: int,
    interleaved: bool,
    gate_first: bool,
    limit: float | None,
    offset: float,
    constants: dict[str, float],
    limit_after: bool = False,
) -> Gating:
    """What the options of a call say, checked as far as they can be without a tensor."""
    row = inner("gated", activation, constants)
    bound = math.inf if limit is None else number("gated", "limit", limit)
    if not bound > 0:
        raise ValueError(f"gated(): limit must be greater than 0, got {limit}; None sets no limit")
    after = limit_after and bound < math.inf
    return Gating(*row, dim, interleaved, gate_first, bound, number("gated", "offset", offset) or -0.0, after)


def _call(name: str, input: Tensor, up: Tensor | None, chosen: Gating) -> Tensor:
    """`name` is the public function's, for error messages."""
    if isinstance(input, Tensor) and not accepts(input):
        return _as_torch_does(name, input, chosen)
    check_gated(name, input, up, chosen)
    return autograd.call(chosen, input, up)


def check_gated(name: str, input: Tensor, up: Tensor | None, chosen: Gating) -> None:
    """Raises what `name` says of tensors that are no packed one, or no gate and up."""
    for argument, tensor in (("input", input), ("up", up)):
        if not isinstance(tensor, Tensor) and not (argument == "up" and tensor is None):
            raise TypeError(f"{name}(): argument {argument!r} must be Tensor, not {type(tensor).__name__}")
    if not accepts(input):
        raise NotImplementedError(refusal(name, input))
    if up is None:
        _check_packed(name, input, chosen)
    else:
        _check_pair(name, input, up, chosen)


def _check_packed(name: str, input: Tensor, chosen: Gating) -> None:
    dims = input.dim()
    if dims == 0:
        raise RuntimeError(
            f"{name}(): an input without dimensions has no halves; give a tensor of shape (2 n,) or (..., 2 n)"
        )
    if not -dims <= chosen.dim < dims:
        raise IndexError(
            f"{name}(): dim {chosen.dim} is out of range for an input of shape {tuple(input.shape)}; "
            f"choose one from {-dims} to {dims - 1}"
        )
    check_whole(name, input, chosen.dim)
    size = input.shape[chosen.dim]
    if size % 2:
        raise RuntimeError(
            f"{name}(): dim {chosen.dim} of an input of shape {tuple(input.shape)} has the odd size {size}; "
            "it must be even to be halved into gate and up"
        )


def _check_pair(name: str, gate: Tensor, up: Tensor, chosen: Gating) -> None:
    if chosen.interleaved or not chosen.gate_first:
        option = "interleaved=True" if chosen.interleaved else "gate_first=False"
        raise ValueError(
            f"{name}(): {option} describes one packed tensor, but up (of shape {tuple(up.shape)}) was given as well; "
            "leave one of them out"
        )
    if gate.shape != up.shape:
        raise ValueError(
            f"{name}(): gate and up must have one shape, got {tuple(gate.shape)} and {tuple(up.shape)}; "
            "expand the smaller one"
        )
    if gate.dtype != up.dtype:
        raise ValueError(f"{name}(): gate and up must have one dtype, got {gate.dtype} and {up.dtype}; convert one")
    if gate.device != up.device:
        raise ValueError(f"{name}(): gate and up must be on one device, got {gate.device} and {up.device}; move one")


def _as_torch_does(name: str, input: Tensor, chosen: Gating) -> Tensor:
    """For other types and layouts: torch's own glu where it has one for them."""
    if name != "glu":
        raise NotImplementedError(refusal(name, input))
    try:
        return torch.nn.functional.glu(input, chosen.dim)
    except RuntimeError as error:
        raise type(error)(refusal(name, input)) from error
