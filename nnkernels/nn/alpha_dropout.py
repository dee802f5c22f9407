"""Torch's modules that some activations need beside them, so that one import serves the whole network.

SELU keeps mean 0 and variance 1 only under dropout that keeps them too (Klambauer et al. 2017).
"""

from torch.nn import AlphaDropout, FeatureAlphaDropout

__all__ = ["AlphaDropout", "FeatureAlphaDropout"]
