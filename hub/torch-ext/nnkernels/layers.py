"""The layers by the names that transformers looks up."""

from .integrations.transformers import LAYERS

__all__ = list(LAYERS)
globals().update(LAYERS)
