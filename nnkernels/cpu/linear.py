"""What stands behind torch's products, in C++; each function is told in `contracts/linear.py`."""

from __future__ import annotations

from ..native import Native
from ..pairing import Pair
from . import fused, pooling
from . import gated as gates

_PAIR = Pair(Native("cpu"), fused, gates, pooling)

linear_act = _PAIR.linear_act
activation_backward = _PAIR.activation_backward
hidden_backward = _PAIR.hidden_backward
gated = _PAIR.gated
gated_backward = _PAIR.gated_backward
linear_maxout = _PAIR.linear_maxout
maxout_backward = _PAIR.maxout_backward
