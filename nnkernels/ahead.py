"""Triton's kernels, compiled side by side before anybody needs them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_active: ContextVar[bool] = ContextVar("nnkernels_compiled_ahead", default=False)

_MOST_THREADS = 16
"""Python's lock lets no more of them work: a good third of compiling is Python's own."""


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

    if hardware.interpreted() or not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        yield
        return
    from triton import AsyncCompileMode

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    token = _active.set(True)
    try:
        # Backward passes run in this thread, whose context says that nothing is launched.
        with (
            node.bypassed(),
            torch.autograd.set_multithreading_enabled(False),
            ThreadPoolExecutor(threads) as pool,
            AsyncCompileMode(pool, ignore_errors=True),
        ):
            yield
    finally:
        _active.reset(token)
