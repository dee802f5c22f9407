"""Linear layers with an activation behind them, and the feed-forward blocks of two and three, as modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import integer
from ..autograd import sharded
from ..autograd.linear import activated
from ..functional.linear import gated_mlp, linear_act, maxout_linear, mlp
from ..fusing import inner
from ..hooks import multiplies
from .gated import Gated

__all__ = ["MLP", "GatedMLP", "LinearAct", "MaxoutLinear"]


class _Layer(torch.nn.Module):
    """A weight and a bias that start as those of torch.nn.Linear do."""

    bias: Tensor | None

    def __init__(
        self, in_features: int, rows: int, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        made = torch.nn.Linear(in_features, rows, bias, device=device, dtype=dtype)
        self.weight = made.weight
        self.register_parameter("bias", made.bias)

    def reset_parameters(self) -> None:
        torch.nn.Linear.reset_parameters(self)  # type: ignore[arg-type]


class LinearAct(_Layer):
    """f(x W^T + b), with the parameters of torch.nn.Linear; see `nnkernels.functional.linear_act`.

    Args:
        in_features, out_features: of each input and output vector.
        activation: the name of a stateless activation, or "identity".
        bias: whether there is one.
        round_preact: whether the result is, bit for bit, that of a linear layer and the activation behind it.
        device, dtype: of the parameters.
        **constants: those of the activation, such as `negative_slope` of leaky_relu.

    Attributes:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`, or None.

    Raises:
        ValueError: the activation is unknown.
        TypeError: a constant is.

    Shape: `(*, in_features)` to `(*, out_features)`.

    Example:
        >>> import torch, nnkernels
        >>> layer = nnkernels.nn.LinearAct(8, 16, "mish")
        >>> layer.load_state_dict(torch.nn.Linear(8, 16).state_dict())
        <All keys matched successfully>
        >>> layer(torch.randn(4, 8)).shape
        torch.Size([4, 16])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "gelu",
        bias: bool = True,
        *,
        round_preact: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **constants: float,
    ) -> None:
        inner("LinearAct", activation, constants)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.in_features, self.out_features, self.activation = in_features, out_features, activation
        self.round_preact, self.constants = round_preact, constants

    def forward(self, input: Tensor) -> Tensor:
        return linear_act(
            input, self.weight, self.bias, self.activation, round_preact=self.round_preact, **self.constants
        )

    def extra_repr(self) -> str:
        shown = [f"{self.in_features}, {self.out_features}, {self.activation!r}"]
        shown += ["bias=False"] if self.bias is None else []
        shown += ["round_preact=True"] if self.round_preact else []
        return ", ".join([*shown, *(f"{name}={value}" for name, value in self.constants.items())])


class MaxoutLinear(_Layer):
    """The greatest of `num_pieces` linear functions for each output; see `nnkernels.functional.maxout_linear`.

    Args:
        in_features, out_features: of each input and output vector.
        num_pieces: how many linear functions an output has.
        bias: whether each of them has one.
        device, dtype: of the parameters.

    Attributes:
        weight: `(num_pieces out_features, in_features)`, an output's pieces one below the other.
        bias: `(num_pieces out_features,)`, or None.

    Raises:
        ValueError: `num_pieces` is less than 1.

    Shape: `(*, in_features)` to `(*, out_features)`.
    Source: Goodfellow, Warde-Farley, Mirza, Courville & Bengio 2013, Maxout Networks.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.MaxoutLinear(8, 16, 4)(torch.randn(3, 8)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_pieces: int = 2,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        num_pieces = integer("MaxoutLinear", "num_pieces", num_pieces)
        if num_pieces < 1:
            raise ValueError(f"MaxoutLinear(): num_pieces must be at least 1, got {num_pieces}")
        super().__init__(in_features, num_pieces * out_features, bias, device, dtype)
        self.in_features, self.out_features, self.num_pieces = in_features, out_features, num_pieces

    def forward(self, input: Tensor) -> Tensor:
        return maxout_linear(input, self.weight, self.bias, self.num_pieces)

    def extra_repr(self) -> str:
        shown = f"{self.in_features}, {self.out_features}, num_pieces={self.num_pieces}"
        return shown if self.bias is not None else f"{shown}, bias=False"


def _is_linear(*layers: torch.nn.Module) -> bool:
    """Whether the layers are nothing but a weight and a bias: adapters and hooks want to be called."""
    return all(multiplies(layer, type(layer), sharded.classes()) for layer in layers)


class MLP(torch.nn.Module):
    """The feed-forward block of a transformer; see `nnkernels.functional.mlp`.

    Args:
        in_features: of each input vector.
        hidden_features: between the layers.
        out_features: of each output vector; None for as many as `in_features`.
        activation: the name of a stateless activation, or "identity".
        bias: whether both layers have one.
        round_preact: whether the hidden activation is, bit for bit, that of a linear layer and the activation.
        recompute: whether training keeps no hidden tensor, and computes the first layer twice.
        device, dtype: of the parameters.
        **constants: those of the activation.

    Attributes:
        fc1, fc2: torch.nn.Linear, by the names that timm gives them. One that is replaced, by an adapter for instance,
            or has hooks, is called as any module.

    Raises:
        ValueError: the activation is unknown.
        TypeError: a constant is.

    Shape: `(*, in_features)` to `(*, out_features)`. Source: Vaswani et al. 2017, Attention Is All You Need.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.MLP(8, 32, activation="relu_squared")(torch.randn(3, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        activation: str = "gelu",
        bias: bool = True,
        *,
        round_preact: bool = False,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **constants: float,
    ) -> None:
        inner("MLP", activation, constants)
        super().__init__()
        out_features = in_features if out_features is None else out_features
        self.fc1 = torch.nn.Linear(in_features, hidden_features, bias, device=device, dtype=dtype)
        self.fc2 = torch.nn.Linear(hidden_features, out_features, bias, device=device, dtype=dtype)
        self.activation, self.round_preact, self.recompute = activation, round_preact, recompute
        self.constants = constants

    def forward(self, input: Tensor) -> Tensor:
        fc1, fc2 = self.fc1, self.fc2
        if not _is_linear(fc1, fc2):
            return fc2(activated(inner("MLP", self.activation, self.constants), fc1(input)))
        return mlp(
            input, fc1.weight, fc1.bias, fc2.weight, fc2.bias, self.activation,
            round_preact=self.round_preact, recompute=self.recompute, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        shown = [
            repr(self.activation),
            *(f"{flag}=True" for flag in ("round_preact", "recompute") if getattr(self, flag)),
        ]
        return ", ".join([*shown, *(f"{name}={value}" for name, value in self.constants.items())])


class GatedMLP(torch.nn.Module):
    """The gated feed-forward block of Llama and its kin; see `nnkernels.functional.gated_mlp`.

    Args:
        in_features: of each input vector.
        hidden_features: of gate and up each.
        out_features: of each output vector; None for as many as `in_features`.
        activation: the name of a stateless activation.
        bias: whether the layers have one.
        packed: whether gate and up are one layer, `gate_up_proj`.
        recompute: whether training keeps neither gate nor up, and computes them twice.
        device, dtype: of the parameters.
        **options: `interleaved`, `gate_first`, `limit`, `limit_after` and `offset` as for `Gated`, and the constants of
            the activation.

    Attributes:
        gate_proj, up_proj, down_proj, or gate_up_proj, down_proj: torch.nn.Linear, by transformers' names. One that is
            replaced, by an adapter for instance, or has hooks, is called as any module.

    Raises:
        ValueError: the activation is unknown, `limit` is not positive, or an option describes a packed layer without
            `packed`.
        TypeError: a constant is unknown.

    Shape: `(*, in_features)` to `(*, out_features)`. Source: Shazeer 2020, GLU Variants Improve Transformer.

    Example:
        >>> import torch, nnkernels
        >>> block = nnkernels.nn.GatedMLP(8, 24, activation="gelu_tanh")
        >>> sorted(block.state_dict())
        ['down_proj.weight', 'gate_proj.weight', 'up_proj.weight']
        >>> block(torch.randn(3, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        activation: str = "silu",
        bias: bool = False,
        *,
        packed: bool = False,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not packed and (options.get("interleaved") or not options.get("gate_first", True)):
            given = "interleaved=True" if options.get("interleaved") else "gate_first=False"
            raise ValueError(f"GatedMLP(): {given} describes gate and up in one layer: give packed=True as well")
        self.activation, self.recompute, self.options = activation, recompute, options
        Gated(activation, **options)  # which names an option that is wrong
        out_features = in_features if out_features is None else out_features
        kind: Any = {"bias": bias, "device": device, "dtype": dtype}
        if packed:
            self.gate_up_proj = torch.nn.Linear(in_features, 2 * hidden_features, **kind)
        else:
            self.gate_proj = torch.nn.Linear(in_features, hidden_features, **kind)
            self.up_proj = torch.nn.Linear(in_features, hidden_features, **kind)
        self.down_proj = torch.nn.Linear(hidden_features, out_features, **kind)

    def forward(self, input: Tensor) -> Tensor:
        packed = hasattr(self, "gate_up_proj")
        gate, up = (self.gate_up_proj, None) if packed else (self.gate_proj, self.up_proj)
        down = self.down_proj
        if not _is_linear(gate, down, *([] if up is None else [up])):
            return down(Gated(self.activation, **self.options)(gate(input), None if up is None else up(input)))
        return gated_mlp(
            input, gate.weight, None if up is None else up.weight, down.weight,
            gate.bias, None if up is None else up.bias, down.bias, self.activation,
            recompute=self.recompute, **self.options,
        )  # fmt: skip

    def extra_repr(self) -> str:
        shown = [repr(self.activation), *(["recompute=True"] if self.recompute else [])]
        return ", ".join([*shown, *(f"{name}={value}" for name, value in self.options.items())])
