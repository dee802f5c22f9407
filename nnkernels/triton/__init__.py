"""The Triton backend: portable GPU kernels, compiled on first use. Importing this package does not import Triton."""

from __future__ import annotations

import importlib.util

from .backend import TritonBackend

__all__ = ["TritonBackend"]


def installed() -> TritonBackend | str:
    """The backend, or one sentence why this installation lacks it."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; run: pip install triton"
    return TritonBackend()
