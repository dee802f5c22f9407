"""The activation family for PyTorch: exact in the tails, differentiable to any order, at the speed of memory.

Example:
    >>> import torch, nnkernels
    >>> nnkernels.nn.Mish()(torch.zeros(3))
    tensor([0., 0., 0.])
"""

from . import catalogue, functional, nn  # noqa: F401  (the catalogue comes first: everything is derived from it)
from .dispatch import backend
from .initialization import init_for
from .native import build_info
from .optimizing import optimize
from .policies import saving
from .registering import register
from .registry import Activation, activation, activations

__version__ = "0.1.0"
__all__ = [
    "Activation",
    "activation",
    "activations",
    "backend",
    "build_info",
    "functional",
    "init_for",
    "nn",
    "optimize",
    "register",
    "saving",
]
