"""The Triton backend: portable GPU kernels, compiled on first use. Importing this package does not import Triton."""

from .backend import TritonBackend

__all__ = ["TritonBackend"]
