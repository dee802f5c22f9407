"""The route from a call of spiking neurons to their kernels. Backward keeps the current and the first potential.

A call has one result, as every form has: the spikes, and the potential after the last step as one step more.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from ..contracts.spiking import Neuron
from ..layout import empty_in, memory_order
from ..reference import spiking as reference
from . import route, sharded
from .context import differentiable_gradients
from .route import Gradients


class _Call(NamedTuple):
    neuron: Neuron
    with_potential: bool


class _Lif(route.Form):
    family = "spiking"
    tensors = 2

    def forward(self, kernels: ModuleType, spec: _Call, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        current, start = tensors
        steps = len(current)
        order = memory_order(current)
        result = empty_in(order, current, (steps + spec.with_potential, *current.shape[1:]))
        if result.numel():
            (made,), (received, before) = _grids(order, [result], [current, start])
            potential = made[steps] if spec.with_potential else None
            kernels.lif(spec.neuron, received, before, made[:steps], potential)
        return (result,)

    def keeps(self, spec: _Call, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(
        self, kernels: ModuleType, spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        current, start = kept
        steps = len(current)
        order = memory_order(current)
        grad_current = empty_in(order, current, current.shape)
        grad_start = empty_in(_neurons(order), current, current.shape[1:]) if wanted[1] else None
        if grad_current.numel():
            outputs, (given, received, before) = _grids(order, [grad_current, grad_start], [grad, current, start])
            last = given[steps] if spec.with_potential else None
            kernels.lif_backward(spec.neuron, given[:steps], last, received, before, *outputs)
        return grad_current, grad_start

    def differentiable(self, spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        given = [tensor for tensor in kept if tensor is not None]
        found = differentiable_gradients(lambda *tensors: _composed(spec, *tensors), given, grad)
        return (*found, None)[:2]

    def elsewhere(self, spec: _Call, *tensors: Any) -> Tensor:
        current, start = tensors
        if sharded.serves(current, start):
            operands = [(start, range(1, current.dim()))]
            return sharded.locally(lambda *parts: route.call(_LIF, spec, *parts), current, operands, whole=[0])
        return _composed(spec, current, start)


_LIF = _Lif()


def call(neuron: Neuron, current: Tensor, start: Tensor | None, with_potential: bool) -> Tensor:
    """The spikes of checked arguments; with the potential after the last step behind them, if asked for."""
    return route.call(_LIF, _Call(neuron, with_potential), current, start)


def _composed(spec: _Call, current: Tensor, start: Tensor | None = None) -> Tensor:
    return reference.composed(spec.neuron, current, start, spec.with_potential)


def _neurons(order: Sequence[int] | None) -> list[int] | None:
    """The order in memory without time, which is dimension 0."""
    return None if order is None else [dim - 1 for dim in order if dim]


def _grids(order: Sequence[int] | None, outputs: Sequence[Any], inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """All as (steps, rows, cols), or (rows, cols) where there is no time: the neurons' dimensions as two.

    Those of the outputs are dense, in `order`. An input whose dimensions do not come down to two along with theirs is
    copied into that order.
    """
    neurons = outputs[0].shape[1:]

    def timed(x: Tensor) -> int:
        return x.dim() - len(neurons)

    given = [x for x in (*outputs, *inputs) if x is not None]
    runs = _runs(neurons, [x.stride()[timed(x) :] for x in given])
    if len(runs) > 2:
        orders = [_neurons(order), order]
        copies = [None if x is None else empty_in(orders[timed(x)], x, x.shape).copy_(x) for x in inputs]
        return _grids(order, outputs, copies)
    single = 1, (1,) * len(given)
    (cols, col_steps), (rows, row_steps) = (*runs, single, single)[:2]
    steps = iter(zip(row_steps, col_steps, strict=True))

    def grid(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        return x.as_strided((*x.shape[: timed(x)], rows, cols), (*x.stride()[: timed(x)], *next(steps)))

    return [grid(x) for x in outputs], [grid(x) for x in inputs]


def _runs(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, tuple[int, ...]]]:
    """The dimensions from the innermost of the first tensor on, merged where they continue each other in all tensors.

    Each is its size and the strides of all tensors.
    """
    runs: list[tuple[int, tuple[int, ...]]] = []
    for dim in sorted((dim for dim, size in enumerate(shape) if size != 1), key=strides[0].__getitem__):
        steps = tuple(stride[dim] for stride in strides)
        if runs and steps == tuple(runs[-1][0] * step for step in runs[-1][1]):
            runs[-1] = (runs[-1][0] * shape[dim], runs[-1][1])
        else:
            runs.append((shape[dim], steps))
    return runs
