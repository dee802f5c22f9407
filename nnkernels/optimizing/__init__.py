"""`nnkernels.optimize`: which modules of a model are replaced or fused, and how that is decided."""

from .swapping import optimize

__all__ = ["optimize"]
