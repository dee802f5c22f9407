"""The type that kernels compute in, and keep sums and statistics in."""

from __future__ import annotations

import torch


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, and float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
