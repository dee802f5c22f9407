"""Triton's kernels, compiled side by side before anybody needs them."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch

_active: ContextVar[bool] = ContextVar("nnkernels_compiled_ahead", default=False)

_MOST_PROCESSES = 16
"""Compiling takes some 300 MiB in each."""

_MOST_SECONDS = 120.0
"""After which processes that are not done are ended: this one then compiles what they left."""


def is_active() -> bool:
    """Whether kernels are to be compiled, and not launched."""
    return _active.get()


@contextmanager
def compiled_ahead() -> Iterator[None]:
    """Within its `with` statement, kernels that are called are compiled and not launched; at its end all are compiled.

    What they would have written is left as it was allocated, so that a call's result is good for nothing. A kernel that
    cannot be compiled says so when it is launched.
    """
    from .autograd import node
    from .triton import hardware

    if hardware.interpreted() or not torch.cuda.is_available() or not hardware.has_triton():
        yield
        return
    from triton import AsyncCompileMode

    waiting = _Waiting()
    token = _active.set(True)
    try:
        # Backward passes run in this thread, whose context says that nothing is launched.
        with (
            node.bypassed(),
            torch.autograd.set_multithreading_enabled(False),
            AsyncCompileMode(waiting, ignore_errors=True),  # which waits, as it ends, until every call is settled
            waiting,
        ):
            yield
            waiting.finish()
    finally:
        _active.reset(token)


class _Waiting(Executor):
    """Calls that compile a kernel each, made together in the end: all that they leave is in Triton's cache on disk.

    What has not been made as its `with` statement ends, by an exception, never will be.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.append((partial(call, *args, **kwargs), future))
        return future

    def finish(self) -> None:
        """Makes all calls: in processes of their own, for the sake of the cache, and then here, where it serves."""
        run_in_forks([partial(_compile, call) for call, _ in self._calls])
        for call, future in self._calls:
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

    def __exit__(self, *_: object) -> None:
        for future in (future for _, future in self._calls if not future.done()):
            future.set_exception(CancelledError())


def _compile(call: Callable[[], Any]) -> None:
    """The kernel, and the C function that launches it, which some versions of Triton compile for each signature."""
    from triton.runtime import driver

    kernel = call()
    driver.active.launcher_cls(kernel.src, kernel.metadata)


def run_in_forks(calls: list[Callable[[], object]], seconds: float = _MOST_SECONDS) -> None:
    """Makes the calls in copies of this process, as many as there are processors, for what they leave on disk.

    What a call returns or raises is lost, as is what is not done after so many `seconds`, or if there can be no copies.
    Threads would share Python's lock, which a good third of compiling with Triton holds. The calls must not use a GPU,
    which a copy of a process cannot.
    """
    count = min(len(calls), _processors(), _MOST_PROCESSES)
    if count < 2 or not hasattr(os, "fork"):
        return
    # The numbers of the calls, of which each process takes the next when it has made one.
    numbers, told = os.pipe()
    children: list[int] = []
    try:
        os.write(told, b"".join(at.to_bytes(2, "little") for at in range(min(len(calls), 2**14))))
        os.close(told)
        sys.stdout.flush(), sys.stderr.flush()  # or a copy might write what is still to be written here
        with suppress(OSError), warnings.catch_warnings():
            # Python warns of forks beside threads, whose locks nobody opens: a process that waits for one is ended.
            warnings.simplefilter("ignore", DeprecationWarning)
            for _ in range(count):
                children.append(_forked(calls, numbers))
        end = time.monotonic() + seconds
        while (children := [child for child in children if not _has_ended(child)]) and time.monotonic() < end:
            time.sleep(0.005)
    finally:
        os.close(numbers)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _has_ended(child, 0)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forked(calls: list[Callable[[], object]], numbers: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        gc.disable()  # which might find tensors of the GPU
        while found := os.read(numbers, 2):
            with suppress(Exception):
                calls[int.from_bytes(found, "little")]()
    finally:
        os._exit(0)


def _has_ended(child: int, how: int = getattr(os, "WNOHANG", 0)) -> bool:
    try:
        return os.waitpid(child, how)[0] == child
    except ChildProcessError:  # somebody has asked not to be told of ended processes
        return True
