"""Products with an activation behind them as forms; `contracts/linear.py` tells what backward finds and what it keeps.

Elsewhere, and where second derivatives are asked for, a call is torch's products and the forms of what stands behind
them: under a compiler Inductor sees torch operations, and DTensors whose weights are divided are multiplied as torch
has them placed; where rows alone are divided each process calls the kernels.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as torch_functional

from .. import dispatch
from ..contracts.gated import Gating
from ..contracts.inner import Inner
from ..contracts.linear import Ending, keeps_result
from ..contracts.pooling import MOST_PIECES
from ..pairing import as_matrix
from ..registry import IDENTITY
from ..registry import elementwise as row_of
from . import elementwise, gated, pooling, route, sharded, shortcut
from .context import differentiable_gradients
from .route import Gradients


class Hidden(NamedTuple):
    """What stands between the products of an mlp, and whether backward makes it again from x."""

    ending: Ending
    recompute: bool


class GatedHidden(NamedTuple):
    """The same for a gated mlp."""

    gating: Gating
    recompute: bool


def activated(inner: Inner, z: Tensor) -> Tensor:
    """f(z) in z's type, by the route of stateless activations."""
    if inner.name == IDENTITY.name:
        return z
    return elementwise.call(row_of(inner.name), activated, z, inner.a, inner.b).to(z.dtype)


class _Product(route.Form):
    """What the forms share: how they are composed, and how a gradient of theirs is."""

    family = "linear"

    def composed(self, spec: Any, *tensors: Any) -> Tensor:
        raise NotImplementedError

    def elsewhere(self, spec: Any, *tensors: Any) -> Tensor:
        x, *weights = tensors
        if sharded.serves(*tensors) and _divides_rows(x, weights):
            operands = [(one, [None] * (0 if one is None else one.dim())) for one in weights]
            return sharded.locally(lambda *parts: route.call(self, spec, *parts), x, operands, whole=[-1])
        return self.composed(spec, *tensors)

    def differentiable(self, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        tensors = kept[: self.tensors]
        given = [tensor for tensor in tensors if tensor is not None]

        def function(*given: Tensor) -> Tensor:
            rest = iter(given)
            return self.composed(spec, *(None if tensor is None else next(rest) for tensor in tensors))

        found = iter(differentiable_gradients(function, given, grad))
        return tuple(None if tensor is None else next(found) for tensor in tensors)


class _LinearAct(_Product):
    tensors = 3

    def activation(self, spec: Ending) -> str:
        return spec.inner.name

    def forward(self, kernels: ModuleType, spec: Ending, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        return kernels.linear_act(spec, *tensors, records)

    def keeps(self, spec: Ending, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return *tensors, made[1]

    def backward(
        self, kernels: ModuleType, spec: Ending, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        x, weight, bias, z = kept
        d, total, _ = kernels.activation_backward(spec.inner, as_matrix(grad), as_matrix(z), wanted[2], False)
        return *_of_product(wanted, d, x, weight), _like(total, bias)

    def is_made_again(self, spec: Ending, tensors: Gradients) -> bool:
        return not keeps_result(spec.inner)

    def again(self, kernels: ModuleType, spec: Ending, *kept: Any) -> Tensor:
        name, a, b = spec.inner
        return dispatch.select(name, kept[-1]).forward(name, kept[-1], a, b)

    def composed(self, spec: Ending, *tensors: Any) -> Tensor:
        return activated(spec.inner, torch_functional.linear(*tensors))


class _Mlp(_Product):
    tensors = 5

    def activation(self, spec: Hidden) -> str:
        return spec.ending.inner.name

    def forward(self, kernels: ModuleType, spec: Hidden, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, w1, b1, w2, b2 = tensors
        h, kept = kernels.linear_act(spec.ending, x, w1, b1, records and not spec.recompute)
        return torch_functional.linear(h, w2, b2), kept

    def keeps(self, spec: Hidden, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return *tensors, None if spec.recompute else made[1]

    def backward(
        self, kernels: ModuleType, spec: Hidden, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        x, w1, b1, w2, b2, z = kept
        if z is None:
            _, z = kernels.linear_act(spec.ending, x, w1, b1, True)
        grad = as_matrix(grad)
        d, total, h = kernels.hidden_backward(spec.ending.inner, grad, w2, as_matrix(z), wanted[2], wanted[3])
        return (
            *_of_product(wanted, d, x, w1),
            _like(total, b1),
            grad.t() @ h if wanted[3] else None,
            _like(grad.sum(0), b2) if wanted[4] else None,
        )

    def composed(self, spec: Hidden, *tensors: Any) -> Tensor:
        x, w1, b1, w2, b2 = tensors
        h = activated(spec.ending.inner, torch_functional.linear(x, w1, b1))
        return torch_functional.linear(h, w2, b2)


class _GatedMlp(_Product):
    """Of x, the weights of gate, up and down, and the biases of the same."""

    tensors = 7

    def activation(self, spec: GatedHidden) -> str:
        return spec.gating.activation

    def forward(self, kernels: ModuleType, spec: GatedHidden, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, w_gate, w_up, w_down, b_gate, b_up, b_down = tensors
        parts = _gate_and_up(x, w_gate, w_up, b_gate, b_up)
        h = kernels.gated(spec.gating, *parts)
        return torch_functional.linear(h, w_down, b_down), *(part for part in parts if part is not None)

    def keeps(self, spec: GatedHidden, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        hidden: Gradients = (None, None) if spec.recompute else (*made[1:], None)[:2]
        return *tensors, *hidden

    def backward(
        self, kernels: ModuleType, spec: GatedHidden, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        x, w_gate, w_up, w_down, b_gate, b_up, b_down, gate, up = kept
        if gate is None:
            gate, up = _gate_and_up(x, w_gate, w_up, b_gate, b_up)
        grad, gate, up = as_matrix(grad), as_matrix(gate), None if up is None else as_matrix(up)
        for_gate, for_up, h = kernels.gated_backward(spec.gating, grad @ w_down, gate, up)
        for_x, for_w_gate = _of_product(wanted, for_gate, x, w_gate)
        for_w_up = None
        if for_up is not None:
            for_x, for_w_up = _of_product((wanted[0], wanted[2]), for_up, x, w_up, for_x)
        return (
            for_x,
            for_w_gate,
            for_w_up,
            grad.t() @ h if wanted[3] else None,
            _like(for_gate.sum(0), b_gate) if wanted[4] else None,
            _like(for_up.sum(0), b_up) if wanted[5] and for_up is not None else None,
            _like(grad.sum(0), b_down) if wanted[6] else None,
        )

    def composed(self, spec: GatedHidden, *tensors: Any) -> Tensor:
        x, w_gate, w_up, w_down, b_gate, b_up, b_down = tensors
        h = gated.call(spec.gating, *_gate_and_up(x, w_gate, w_up, b_gate, b_up))
        return torch_functional.linear(h, w_down, b_down)


class _MaxoutLinear(_Product):
    """Its spec is the number of pieces."""

    tensors = 3

    def forward(self, kernels: ModuleType, spec: int, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        y, winners = kernels.linear_maxout(*tensors, spec, records)
        return (y,) if winners is None else (y, winners)

    def keeps(self, spec: int, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return *tensors, made[1]

    def backward(self, kernels: ModuleType, spec: int, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        x, weight, bias, winners = kept
        d = kernels.maxout_backward(as_matrix(grad), winners, spec)
        return *_of_product(wanted, d, x, weight), _like(d.sum(0), bias) if wanted[2] else None

    def composed(self, spec: int, *tensors: Any) -> Tensor:
        z = torch_functional.linear(*tensors)
        return pooling.call(z, spec, z.dim() - 1)


def _gate_and_up(
    x: Tensor, w_gate: Tensor, w_up: Tensor | None, b_gate: Tensor | None, b_up: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    up = None if w_up is None else torch_functional.linear(x, w_up, b_up)
    return torch_functional.linear(x, w_gate, b_gate), up


def _divides_rows(x: Any, weights: list[Any]) -> bool:
    """Whether of DTensors only rows of `x` are divided, so that each process multiplies its own."""
    rows = (at.is_replicate() or (at.is_shard() and at.dim < x.dim() - 1) for at in x.placements)
    return all(rows) and all(at.is_replicate() for one in weights if one is not None for at in one.placements)


def _of_product(
    wanted: tuple[bool, ...], d: Tensor, x: Tensor, weight: Tensor, also: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x, to which `also` is added in its place, and of the weight, where they are wanted."""
    for_x = for_weight = None
    if wanted[0]:
        flat = d @ weight if also is None else as_matrix(also).addmm_(d, weight)
        for_x = flat.view(x.shape)
    if wanted[1]:
        for_weight = d.t() @ as_matrix(x)
    return for_x, for_weight


def _like(total: Tensor | None, bias: Tensor | None) -> Tensor | None:
    return None if total is None or bias is None else total.to(bias.dtype)


_LINEAR_ACT, _MLP, _GATED_MLP, _MAXOUT_LINEAR = _LinearAct(), _Mlp(), _GatedMlp(), _MaxoutLinear()


def linear_act(spec: Ending, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """f(x W^T + b) of checked arguments."""
    return route.call(_LINEAR_ACT, spec, x, weight, bias)


def mlp(spec: Hidden, *tensors: Tensor | None) -> Tensor:
    """Two products with an activation between them, of x, w1, b1, w2, b2."""
    return route.call(_MLP, spec, *tensors)


def gated_mlp(spec: GatedHidden, *tensors: Tensor | None) -> Tensor:
    """Two products that gate each other and one behind them, of x, the weights and the biases of gate, up and down."""
    return route.call(_GATED_MLP, spec, *tensors)


def maxout_linear(pieces: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The greatest of each `pieces` neighbouring outputs of a product."""
    if not 1 < pieces <= MOST_PIECES:
        return _MAXOUT_LINEAR.composed(pieces, x, weight, bias)
    return route.call(_MAXOUT_LINEAR, pieces, x, weight, bias)


def choose_anew() -> None:
    """Calls that were recorded ask again which kernels serve them, as after it has been measured."""
    route.forget(_LINEAR_ACT, _MLP)
    shortcut.forget()
