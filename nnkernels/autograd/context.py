"""Which calls a kernel may serve, and the gradients of those it may not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.parameter import Parameter

from .. import _torch, dispatch
from . import node

F = TypeVar("F", bound=type[Function])

_HAS_TRITON = importlib.util.find_spec("triton") is not None


def has_plain_data(x: Tensor) -> bool:
    """Whether `x` has memory of its own that a kernel can read: no subclass, no mode, nothing lazily negated."""
    return _is_plain(x) and not _is_watched()


def _is_plain(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, Parameter)
        and x.layout == torch.strided
        and not x.is_neg()
        and not _torch.is_batched_by_autograd(x)
    )


def _is_watched() -> bool:
    return _torch.dispatch_mode_active() or torch.jit.is_tracing()


def is_traced() -> bool:
    """Whether a compiler, a transform or a tangent follows the operations."""
    return torch.compiler.is_compiling() or _torch.transforms_active() or _torch.has_forward_level()


def is_plain_call(*tensors: Tensor | None) -> bool:
    """Whether kernels may serve a call on `tensors`: data of their own, no compiler, no transform, no tangent.

    Everything else is served by the reference's torch operations, which all of those understand.
    """
    if is_traced() or _is_watched():
        return False
    for tensor in tensors:  # noqa: SIM110, `all` takes half as long again
        if tensor is not None and not _is_plain(tensor):
            return False
    return True


def writing(x: Tensor, write: Callable[[], object]) -> Tensor:
    """`x`, after `write` has put a result into its memory and its version has moved, as in torch's in-place operators.

    Whoever kept `x` for a backward pass finds out by the version that it has changed.
    """
    before = None if x.is_inference() else x._version
    write()
    if before is not None and x._version == before:
        torch.autograd.graph.increment_version(x)
    return x


@cache
def shown_as(name: str, function: F) -> F:
    """The Function under the name by which a profiler shows calls of the module `name`."""
    return type(node.shown(name), (function,), {"__module__": function.__module__})  # type: ignore[return-value]


def check_alike(grad: Tensor, kept: Tensor, name: str) -> None:
    """Raises RuntimeError if what backward of the activation called `name` kept no longer fits the gradient's shape."""
    if grad.shape != kept.shape:
        raise RuntimeError(
            f"{name}: the tensor that was kept for backward has shape {tuple(kept.shape)}, but the gradient has "
            f"{tuple(grad.shape)}; a saved-tensor hook or an assignment to .data has replaced it since the forward pass"
        )


def compiles_kernels(*tensors: Tensor | None) -> bool:
    """Whether torch.compile traces a call that operators of our own may serve: on a GPU, with Triton, no transform.

    An exported program is of torch's operators, which every reader of it knows.
    """
    return (
        _HAS_TRITON
        and torch.compiler.is_compiling()
        and not _torch.exporting()
        and not _torch.transforms_active()
        and not _torch.has_forward_level()
        and dispatch.chosen() in ("auto", "triton")
        and all(t is None or (t.device.type in ("cuda", "xpu") and type(t) in (Tensor, Parameter)) for t in tensors)
    )


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """As `ctx.save_for_backward`, for `saved`."""
    ctx.save_for_backward(*tensors)
    ctx.saved_as = [None if tensor is None else (tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def saved(ctx: Any) -> tuple[Any, ...]:
    """What `save` saved.

    Raises:
        RuntimeError: a tensor has another shape, type or device than it had, which kernels would read beyond its end: a
            hook returned it so, or somebody gave the tensor other data.
    """
    tensors = ctx.saved_tensors
    if torch.compiler.is_compiling():
        return tensors
    for tensor, was in zip(tensors, ctx.saved_as, strict=True):
        if was is not None and (tensor.shape, tensor.dtype, tensor.device) != was:
            raise RuntimeError(
                f"{type(ctx).__name__}: a tensor that was saved for backward came back as {tensor.dtype} of shape "
                f"{tuple(tensor.shape)} on {tensor.device}, it was {was[1]} of shape {tuple(was[0])} on {was[2]}; "
                "saved_tensors_hooks have to restore it, and its .data may not be exchanged"
            )
    return tensors


@_torch.untraced
def differentiable_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of `function(*inputs)` for those inputs that require one, themselves differentiable.

    For the backward of a Function while `create_graph` is on: `function`, in torch operations, is evaluated again.
    """
    with torch.enable_grad():
        # Views, so that a tensor given twice counts as two inputs.
        views = [tensor.view_as(tensor) for tensor in inputs]
        y = function(*views)
        wanted = [view for view in views if view.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(found) if view.requires_grad else None for view in views)
