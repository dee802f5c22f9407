"""What stands behind torch's products, in Triton; each function is told in `contracts/linear.py`."""

from __future__ import annotations

from ..pairing import Pair
from . import fused, gated, pooling
from .backend import TritonBackend

_PAIR = Pair(TritonBackend(), fused, gated, pooling)

linear_act = _PAIR.linear_act
activation_backward = _PAIR.activation_backward
hidden_backward = _PAIR.hidden_backward
linear_gated = _PAIR.linear_gated
gated_hidden_backward = _PAIR.gated_hidden_backward
linear_maxout = _PAIR.linear_maxout
maxout_backward = _PAIR.maxout_backward
