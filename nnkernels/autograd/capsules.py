"""The routes from calls of squash and of routing to their kernels.

Backward of squash keeps its input; that of routing the last round's shares and sums, and the votes, of which only a
second derivative has need.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from ..contracts.capsules import ON_CHIP, fits_on_chip
from ..contracts.computing import wide_dtype
from ..dispatch import chosen
from ..layout import empty_in, in_memory, line_of, memory_order
from ..reference import capsules as reference
from . import route as routes
from . import sharded
from .context import differentiable_gradients
from .route import Gradients


class _Squash(routes.Form):
    family = "capsules"
    tensors = 1

    def forward(self, kernels: ModuleType, dim: int, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        (x,) = tensors
        order = memory_order(x)
        y = empty_in(order, x, x.shape)
        kernels.squash(in_memory(order, x), in_memory(order, y), *line_of(order, x, dim))
        return (y,)

    def keeps(self, dim: int, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(self, kernels: ModuleType, dim: int, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        (x,) = kept
        order = memory_order(x)
        grad_x = empty_in(order, x, x.shape)
        given = [in_memory(order, tensor) for tensor in (grad, x, grad_x)]
        kernels.squash_backward(*given, *line_of(order, x, dim))
        return (grad_x,)

    def differentiable(self, dim: int, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return differentiable_gradients(lambda x: reference.squashed(x, dim), kept, grad)

    def elsewhere(self, dim: int, *tensors: Any) -> Tensor:
        (x,) = tensors
        if sharded.serves(x):
            return sharded.locally(lambda x: squash(x, dim), x, whole=[dim])
        return reference.squashed(x, dim)


class _Route(routes.Form):
    family = "capsules"
    tensors = 1

    def forward(self, kernels: ModuleType, rounds: int, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        (votes,) = tensors
        batch, below, above, size = votes.shape
        capsules = votes.new_empty((batch, above, size))
        shares = sums = None
        if records:
            wide = wide_dtype(votes.dtype)
            shares, sums = (votes.new_empty(shape, dtype=wide) for shape in ((batch, below, above), capsules.shape))
        kernels.route(votes, capsules, shares, sums, rounds)
        return (capsules,) if shares is None or sums is None else (capsules, shares, sums)

    def keeps(self, rounds: int, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return *tensors, *made[1:]

    def backward(
        self, kernels: ModuleType, rounds: int, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        votes, shares, sums = kept
        grad_votes = empty_in(memory_order(votes), votes, votes.shape)
        kernels.route_backward(grad, shares, sums, grad_votes)
        return (grad_votes,)

    def differentiable(self, rounds: int, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return differentiable_gradients(lambda votes: reference.routed(votes, rounds), kept[:1], grad)

    def elsewhere(self, rounds: int, *tensors: Any) -> Tensor:
        return reference.routed(tensors[0], rounds)


_SQUASH, _ROUTE = _Squash(), _Route()


def squash(x: Tensor, dim: int) -> Tensor:
    """For a checked tensor; `dim` is not negative."""
    if x.numel() == 0:
        return _SQUASH.elsewhere(dim, x)
    _refuse_what_is_too_large("squash", x, x.shape[dim])
    return routes.call(_SQUASH, dim, x)


def route(votes: Tensor, rounds: int) -> Tensor:
    """The capsules above, for checked arguments."""
    if votes.numel() == 0:
        return _ROUTE.elsewhere(rounds, votes)
    _refuse_what_is_too_large("route", votes, *votes.shape[2:])
    return routes.call(_ROUTE, rounds, votes)


def _refuse_what_is_too_large(caller: str, x: Tensor, *sizes: int) -> None:
    if chosen() == "triton" and not fits_on_chip(x, *sizes):
        raise RuntimeError(
            f"nnkernels.backend('triton') cannot serve {caller} of {tuple(x.shape)}: a program holds {ON_CHIP} numbers"
        )
