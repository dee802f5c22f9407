"""Adapters of transformers' activations, norms, feed-forward blocks and layers.

Its models are written out one by one, so that one forward stands in many classes: that of Llama's rms norm in more than
140, that of its gated layer in more than 120. One adapter serves them all.
"""

from . import activations, bert, feed_forward, layers, norms

__all__ = ["activations", "bert", "feed_forward", "layers", "norms"]
