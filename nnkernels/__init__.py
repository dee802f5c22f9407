"""The activation family for PyTorch: exact in the tails, differentiable to any order, at the speed of memory.

What needs torch is imported at once where torch already is, which registers the C++ operators; otherwise when it is
first used, so that the command line can answer without torch.

Example:
    >>> import torch, nnkernels
    >>> nnkernels.nn.Mish()(torch.zeros(3))
    tensor([0., 0., 0.])
"""

import sys
from typing import TYPE_CHECKING

from .requirement import check_torch

check_torch()

from . import catalogue  # noqa: E402, F401  (before all that is derived from it)
from .registry import Activation, activation, activations  # noqa: E402

if TYPE_CHECKING or "torch" in sys.modules:
    from . import functional, nn
    from .dispatch import backend
    from .initialization import init_for
    from .native import build_info
    from .optimizing import optimize, restore
    from .policies import saving
    from .products import tune_products
    from .registering import register
else:
    from .lazy import attributes

    __getattr__, __dir__ = attributes(
        __name__,
        {
            "backend": "dispatch",
            "build_info": "native",
            "init_for": "initialization",
            "optimize": "optimizing",
            "register": "registering",
            "restore": "optimizing",
            "saving": "policies",
            "tune_products": "products",
        },
    )

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
    "restore",
    "saving",
    "tune_products",
]
