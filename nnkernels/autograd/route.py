"""The one route from a call to its kernels, and from a gradient back to its own.

    a plain call                  the C++ node (csrc/bindings/node/), which repeats what Python recorded of the second
                                  call of a kind: same form and constants, same shapes, strides, types and device
    the first two, or without     `_Recorded`, a ctx-style Function, or the bare kernels where no gradient is asked for
    the node, or a chosen backend
    any other                     what the form says: operators under a compiler, each process's part of DTensors,
                                  torch's operations for transforms, tangents, modes and subclasses

A form of call is described by a `Form`; what one call of it is to do, but for its tensors, by a hashable `spec`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import cache, partial
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch, policies
from ..recording import recorded
from . import node, recomputing
from .context import is_plain_call, save, saved, shown_as

Gradients = tuple[Tensor | None, ...]


class Form:
    """What a form of call is: what it computes, of which tensors, and what its backward keeps.

    The tensors of a call always come in the same order, None for those that are left out.
    """

    family: ClassVar[str]
    """The module of its kernels in `cpu`, `triton` and `reference`."""

    tensors: ClassVar[int]
    """How many tensors a call has."""

    outputs: ClassVar[int] = 1
    """How many tensors it gives: a call of several returns them in a tuple."""

    def shown(self, spec: Any) -> str:
        """The name by which a profiler shows its calls: that of the module in `nnkernels.nn`, if there is one."""
        return type(self).__name__.lstrip("_").removesuffix("Form")

    row: str | None = None
    """What the kernels have to have among their `FORMULAS`, of a family that is told by name what it is to compute."""

    def activation(self, spec: Any) -> str | None:
        """The stateless activation that the kernels have to know."""
        return None

    def repeats(self, spec: Any) -> bool:
        """Whether a call can be recorded and repeated: nothing happens in it but operators and kernels."""
        return True

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """The outputs and, if `records`, whatever else backward is to keep."""
        raise NotImplementedError

    def keeps(self, spec: Any, tensors: tuple[Tensor | None, ...], made: tuple[Tensor, ...]) -> Gradients:
        """What backward keeps of the tensors and of what `forward` made."""
        raise NotImplementedError

    def backward_spec(self, spec: Any, tensors: tuple[Tensor | None, ...], made: tuple[Tensor, ...]) -> Any:
        """What backward has to know besides what it keeps: strides, for instance."""
        return spec

    def backward(self, kernels: ModuleType, spec: Any, wanted: tuple[bool, ...], grad: Any, *given: Any) -> Gradients:
        """The gradient of each tensor, from the kernels; None or anything else where none is wanted.

        Given are the outputs' gradients, of which some may be None where there are several, and what `keeps` told.
        """
        raise NotImplementedError

    def differentiable(self, spec: Any, wanted: tuple[bool, ...], grad: Any, *given: Any) -> Gradients:
        """The same in torch operations, which have derivatives of their own."""
        raise NotImplementedError

    def elsewhere(self, spec: Any, *tensors: Tensor | None) -> Any:
        """The output, or the tuple of them, of what is no plain call."""
        raise NotImplementedError

    def is_made_again(self, spec: Any, tensors: tuple[Tensor | None, ...]) -> bool:
        """Whether what backward keeps is enough for `again`, by which `saving("recompute")` spares others a copy."""
        return False

    def again(self, kernels: ModuleType, spec: Any, *kept: Tensor | None) -> Tensor:
        """The first output once more, lying as it did, told `backward_spec`'s spec and what `keeps` told."""
        raise NotImplementedError


_MOST_NUMBERS = 2**16
_forms: list[tuple[Form, Any]] = []
_numbers: dict[tuple[Form, Hashable, Hashable], int] = {}


def _number(form: Form, spec: Hashable) -> int:
    """By which the C++ node knows a form with its constants; -1 is none, as for constants that never come again."""
    key = form, spec, _negative_zeros(spec)
    try:
        return _numbers[key]
    except KeyError:
        if len(_forms) == _MOST_NUMBERS or not form.repeats(spec):
            return -1
        _forms.append((form, spec))
        return _numbers.setdefault(key, len(_forms) - 1)


def forget(*forms: Form) -> None:
    """Calls of the forms are recorded anew from here on, as where other kernels are to serve them.

    A backward pass of a call that was made before goes on as it was recorded.
    """
    for key in list(_numbers):
        if key[0] in forms:
            _numbers.pop(key, None)


def _negative_zeros(spec: Any) -> Hashable:
    """Where `spec` has -0.0, which equals 0.0 without being computed with alike."""
    if isinstance(spec, tuple):
        return tuple(map(_negative_zeros, spec))
    return spec == 0 and isinstance(spec, float) and math.copysign(1.0, spec) < 0


def call(form: Form, spec: Any, *tensors: Tensor | None) -> Any:
    """The output of `form` with the constants `spec`, or the tuple of its outputs."""
    record = None
    if node.repeats and not torch.compiler.is_compiling():
        if node.serves or policies.chosen() != "recompute":
            found = node.module.call(_number(form, spec), *tensors)
        elif isinstance(found := node.module.call_and_kept(_number(form, spec), *tensors), tuple):
            outputs, kept = found
            if kept:
                _remember(form, spec, tensors, outputs, kept)
            return _outputs(form, outputs)
        if isinstance(found, (Tensor, tuple)):
            return found
        record = found
    if record is None and not is_plain_call(*tensors):
        return form.elsewhere(spec, *tensors)
    kernels = _kernels(form, spec, tensors[0])  # type: ignore[arg-type]
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return shown_as(form.shown(spec), _Recorded).apply(form, spec, kernels, record, *tensors)
    return _outputs(form, _forward(form, spec, kernels, record, 0, tensors))


def _remember(
    form: Form, spec: Any, tensors: tuple[Tensor | None, ...], made: tuple[Tensor, ...], kept: Gradients
) -> None:
    """Under `saving("recompute")` the first output need not be kept by others, if it can be made again."""
    if form.is_made_again(spec, tensors):
        again = partial(call, _repetition(form), form.backward_spec(spec, tensors, made))
        recomputing.remember(made[0], form.shown(spec), again, *kept)


class _Repetition(Form):
    """The first output of a form, of what its backward keeps."""

    def __init__(self, form: Form) -> None:
        self.form, self.family, self.row = form, form.family, form.row  # type: ignore[misc]

    def shown(self, spec: Any) -> str:
        return self.form.shown(spec)

    def activation(self, spec: Any) -> str | None:
        return self.form.activation(spec)

    def repeats(self, spec: Any) -> bool:
        return self.form.repeats(spec)

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return (self.form.again(kernels, spec, *tensors),)

    def elsewhere(self, spec: Any, *tensors: Tensor | None) -> Any:
        return self.form.again(_kernels(self, spec, tensors[0]), spec, *tensors)  # type: ignore[arg-type]


_repetition = cache(_Repetition)


def _outputs(form: Form, made: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return made[0] if form.outputs == 1 else made[: form.outputs]


def _forward(
    form: Form, spec: Any, kernels: ModuleType, record: bool | None, wanted: int, tensors: tuple[Tensor | None, ...]
) -> tuple[Tensor, ...]:
    """What the kernels make; `wanted` has a bit for each tensor that is to get a gradient."""
    if not record:
        return form.forward(kernels, spec, bool(wanted), *tensors)

    def learn(events: Any, made: tuple[Tensor, ...]) -> None:
        kept: Gradients = ()
        after = 0
        if wanted:
            kept, after = form.keeps(spec, tensors, made), _number(form, form.backward_spec(spec, tensors, made))
        node.module.learn(
            _number(form, spec),
            after,
            node.shown(form.shown(spec)),
            False,
            wanted,
            tensors,
            None if after < 0 else events,
            made[: form.outputs],
            kept,
        )

    return recorded(lambda: form.forward(kernels, spec, bool(wanted), *tensors), learn)


def _gradients(
    form: Form,
    spec: Any,
    kernels: ModuleType | None,
    wanted: tuple[bool, ...],
    given: tuple[Tensor | None, ...],
) -> Gradients:
    """The gradients that are wanted, themselves differentiable where a graph of them is asked for.

    Given are the outputs' and what was kept.
    """
    if torch.is_grad_enabled() or not is_plain_call(*given):
        return _only(wanted, form.differentiable(spec, wanted, *given))
    return _only(wanted, form.backward(kernels or _kernels_for(form, spec, given), spec, wanted, *given))


def _kernels(form: Form, spec: Any, x: Tensor) -> ModuleType:
    return dispatch.kernels(form.family, x, form.activation(spec), form.row)


def _kernels_for(form: Form, spec: Any, given: tuple[Tensor | None, ...]) -> ModuleType:
    """Those of the backward pass, told the gradients."""
    return _kernels(form, spec, next(grad for grad in given[: form.outputs] if grad is not None))


def _only(wanted: tuple[bool, ...], found: Gradients) -> Gradients:
    return tuple(one if needed else None for one, needed in zip(found, wanted, strict=True))


class _Recorded(Function):
    @staticmethod
    def forward(ctx, form, spec, kernels, record, *tensors):  # type: ignore[override]
        wanted = sum(needed << at for at, needed in enumerate(ctx.needs_input_grad[4:]))
        made = _forward(form, spec, kernels, record, wanted, tensors)
        kept = form.keeps(spec, tensors, made)
        save(ctx, *kept)
        ctx.constants = (form, form.backward_spec(spec, tensors, made), kernels)
        if policies.chosen() == "recompute":
            _remember(form, spec, tensors, made, kept)
        ctx.set_materialize_grads(False)
        return _outputs(form, made)

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[override]
        form, spec, kernels = ctx.constants
        wanted = ctx.needs_input_grad[4:]
        if all(grad is None for grad in grads):
            return (None,) * (4 + len(wanted))
        return *[None] * 4, *_gradients(form, spec, kernels, wanted, (*grads, *saved(ctx)))


def _backward_of_node(number: int, bits: int, record: bool, *given: Tensor | None) -> Gradients:
    """What the C++ node calls where it has no plan: the first backward passes of a kind, and those of no plain call."""
    form, spec = _forms[number]
    wanted = tuple(bool(bits >> at & 1) for at in range(form.tensors))
    if not record:
        return _gradients(form, spec, None, wanted, given)
    kernels = _kernels_for(form, spec, given)

    def learn(events: Any, found: Gradients) -> None:
        node.module.learn(number, 0, "", True, bits, given, events, found, ())

    return recorded(lambda: _only(wanted, form.backward(kernels, spec, wanted, *given)), learn)


if node.module is not None:
    node.module.connect_forms(_backward_of_node)
