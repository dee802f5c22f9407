"""The layers of nnkernels for Hugging Face's `kernels`, with the functions that they call."""

from . import catalogue, functional, layers  # the catalogue first, before all that is derived from it

__all__ = ["catalogue", "functional", "layers"]
