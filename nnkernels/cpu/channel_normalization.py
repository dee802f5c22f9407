"""Layer and rms norm over channels: each position's are brought together, for the kernels of rows in C++."""

from __future__ import annotations

from ..reference.channel_normalization import of_rows
from . import normalization as rows

norm_act, norm_act_backward = of_rows(rows)
