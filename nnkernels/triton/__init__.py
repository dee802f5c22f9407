"""The Triton backend: portable GPU kernels, compiled on first use. Importing this package does not import Triton."""

from __future__ import annotations

from . import hardware
from .backend import MISSING, TritonBackend

__all__ = ["TritonBackend"]


def installed() -> TritonBackend | str:
    """The backend, or one sentence why this installation lacks it."""
    return TritonBackend() if hardware.has_triton() else MISSING
