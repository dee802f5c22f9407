"""Gives the modules of a model the adapters that pay, and takes them back."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch.nn import Module

from ..ahead import compiled_ahead
from ..benchmark import best_of_rounds
from .adapting import is_adapted, load_libraries, own_class
from .judging import Kind, Trial, adapted, kinds
from .report import Report, Row
from .step import Step, difference, forked, put_back

_NO_SLOWER = 1.0
"""How many times as fast the whole step has to be to keep anything."""

_ROUNDS = 5


def optimize(
    model: Module, example: Any = None, *, always: bool = False, verbose: bool = True, random: bool = False
) -> Report:
    """Gives the modules of `model` that it knows a faster forward, where that pays on this machine.

    Known are torch's activations and norms, a norm or linear layer with the activation behind it in a
    `torch.nn.Sequential`, and the blocks of torchvision, timm, transformers and diffusers (docs/models.md lists them),
    each by the source of its forward. What is fused stays the same object with its parameters, hooks, name and state
    dict, and an instance of its class: tools that look for batch norms find them, a slice of a container is what it
    was. Compilers, exporters and transforms meet the original forward, and so does a call that ours does not serve,
    such as that of a block in which somebody has since put another module. `restore` undoes all.

    Args:
        model: the model, changed in place.
        example: an input of the size that the model is used with: a tensor, a tuple of positional or a dictionary of
            named arguments. With it each kind of module is timed on what it is called with in a real step (forward and,
            if the model is training, backward, under the caller's autocast), by the GPU's own time where the step
            keeps the GPU busy; then outputs and gradients are compared, and the whole step is timed. Unless it is at
            least as fast, nothing is kept. Without it, kinds are timed on samples. Where the host takes longer to ask a
            GPU for ours, small calls without gradients, such as a batch of 1, stay the class's own.
        always: whether to fuse without timing, for exact tails or smaller memory where the speed is the same. With an
            example outputs and gradients are still compared, and nothing is kept if they differ.
        verbose: whether to print the report.
        random: whether to fuse `Dropout` and `RReLU` too, which then draw other numbers from the same seed.

    Returns:
        A `Report` of what was fused, where, and how much faster it is, or why it was left.

    Raises:
        TypeError: `model` is not a module.
        Whatever the model raises, given the example. Then, as after any exception, the model is as it was.

    Random numbers, running statistics, gradients and flags are as before. Processes that train together have to decide
    alike: there use `always=True`.

    Example:
        >>> import torch, nnkernels
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(8, 8, 1), torch.nn.Mish(), torch.nn.Conv1d(8, 2, 1))
        >>> report = nnkernels.optimize(model, always=True)
        fused  1 Mish()  unconditionally  1
        >>> isinstance(model[1], torch.nn.Mish)
        True
        >>> nnkernels.restore(model) is model
        True
    """
    if not isinstance(model, Module):
        raise TypeError(f"optimize(): expected a torch.nn.Module, got {type(model).__name__}")
    load_libraries()
    step = None if example is None else Step(model, example)
    with ExitStack() as undo:
        if step is not None:
            undo.enter_context(put_back([model]))
            undo.enter_context(forked(step.device))
        queued = step is not None and not always and step.keeps_the_gpu_busy()
        report, changes = _planned(model, step, always, random, queued)
        if queued and report.after is not None and not report.fused:
            report, changes = _planned(model, step, always, random, queued=False)
        if report.fused:
            undo.push(lambda kind, *_: changes.__exit__() if kind is not None else None)
            changes.__enter__()
        if verbose:
            print(report)
    return report


def restore(model: Module) -> Module:
    """Undoes `optimize`: every module of `model` gets its own class back.

    Args:
        model: the model, changed in place.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is not a module.

    Example:
        >>> import torch, nnkernels
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Mish())
        >>> report = nnkernels.optimize(model, always=True, verbose=False)
        >>> type(nnkernels.restore(model)[1]) is torch.nn.Mish
        True
    """
    if not isinstance(model, Module):
        raise TypeError(f"restore(): expected a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        if is_adapted(module):
            module.__class__ = own_class(module)
    return model


def _planned(model: Module, step: Step | None, always: bool, random: bool, queued: bool) -> tuple[Report, adapted]:
    """What is to be fused, and why; `queued` says whether the GPU's own time counts for each kind."""
    report, found, records = Report(model), kinds(model), step is None or step.trains
    chosen: list[Kind] = []
    taken = {id(inside) for module in model.modules() if is_adapted(module) for inside in module.takes()}  # type: ignore[operator]
    # What takes other modules is decided on before those are, and what is around others before what is inside.
    for group in ([kind for kind in found if kind.takes()], [kind for kind in found if not kind.takes()]):
        left = [kind for kind in group if kind.without(taken)]
        seen = None
        if step is not None and not always:
            first = [one for kind in left for one in kind.probes(kind.modules[0])]
            seen = step.seen(first, [one for kind in left for module in kind.modules for one in kind.probes(module)])
        known = [_known(kind, always, random) for kind in left]
        trials = [Trial(kind, model, seen, queued, records) for kind in left]
        with compiled_ahead():
            for verdict, trial in zip(known, trials, strict=True):
                if verdict is None:
                    trial.compile()
        rows: dict[int, Row] = {}
        for at, kind in sorted(enumerate(left), key=lambda pair: pair[1].depth()):
            if not kind.without(taken):  # by what was chosen meanwhile
                continue
            rows[at] = Row(kind.shown, tuple(kind.names), *(known[at] or trials[at].judge()))
            if rows[at].fused:
                if known[at] is None and trials[at].keeps_the_host():
                    kind.leaves_small = True
                    rows[at] = replace(rows[at], why=f"{rows[at].why}, but small calls without gradients are left")
                chosen.append(kind)
                taken |= {id(inside) for inside in kind.takes()}
        report.rows += [rows[at] for at in sorted(rows)]
    changes = adapted(*((kind.adapter, kind.modules, kind.leaves_small) for kind in chosen))  # type: ignore[arg-type]
    if step is not None and chosen:
        _weigh(report, step, changes, always)
    return report, changes


def _known(kind: Kind, always: bool, random: bool) -> tuple[bool, str] | None:
    """Whether a kind is fused, and why; None if that has to be timed."""
    if kind.why:
        return False, kind.why
    if kind.adapter.draws and not random:  # type: ignore[union-attr]
        return False, "it draws random numbers: only with random=True"
    return (True, "unconditionally") if always else None


def _weigh(report: Report, step: Step, changes: adapted, always: bool) -> None:
    """Compares and times the whole step with the changes, and marks all as left if it does not pay."""
    expected, nudged = step.repeated(), step.nudged()
    with changes:
        differs = difference(step.repeated(), expected, nudged)
    del expected, nudged
    if always and not differs:
        return
    if not differs:

        def fused() -> None:
            with changes:
                step()

        report.after, report.before = best_of_rounds([fused, step], _ROUNDS, step.device.type)
        gain = report.before / report.after
        report.step = f"the step: {report.before * 1e3:.2f} ms before, {report.after * 1e3:.2f} ms after, {gain:.2f} x"
        if gain >= _NO_SLOWER:
            return
        why = "the whole step is not faster"
    else:
        why = differs
    report.step = f"{report.step}; nothing is kept: {why}".removeprefix("; ")
    report.rows = [
        Row(row.shown, row.places, False, f"not kept: {why}" if row.fused else row.why, row.gain) for row in report.rows
    ]
