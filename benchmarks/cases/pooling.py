"""Maxout against `torch.max` over groups: pieces that lie apart, and pieces that are neighbours."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import nnkernels.functional as F
from nnkernels.reference.pooling import width

from . import Case


def _inputs(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> tuple[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return (torch.randn(shape, generator=generator, device=device, dtype=dtype).requires_grad_(),)


def _eager(x: Tensor, pieces: int, dim: int) -> Tensor:
    dim %= x.dim()
    return torch.max(x.unflatten(dim, (-1, pieces)), dim + 1).values


def _bytes(x: Tensor, pieces: int, records: bool) -> int:
    outputs = x.numel() // pieces
    return x.nbytes + x.nbytes // pieces + (outputs * width(pieces) // 8 if records else 0)


def _case(name: str, shape: tuple[int, ...], pieces: int, dim: int, device: str, dtype: torch.dtype) -> Case:
    on_gpu = device == "cuda"
    return Case(
        name,
        partial(_inputs, shape),
        ours=partial(F.maxout, num_pieces=pieces, dim=dim),
        eager=partial(_eager, pieces=pieces, dim=dim),
        forward_bytes=lambda x: _bytes(x, pieces, torch.is_grad_enabled()),
        backward_bytes=lambda x: _bytes(x, pieces, True),
        forward_bar=0.95 if on_gpu else 2.0,
        backward_bar=0.95 if on_gpu else 5.0,
        device=device,
        dtype=dtype,
    )


CASES = [
    _case(f"maxout-{pieces}-{name}", shape, pieces, dim, "cuda", dtype)
    for pieces, dtype in ((4, torch.bfloat16), (2, torch.bfloat16), (4, torch.float32))
    for name, shape, dim in (("nchw", (64, 256, 56, 56), 1), ("last", (16384, 8192), -1))
] + [
    _case(f"maxout-4-{name}", shape, 4, dim, "cpu", dtype)
    for dtype in (torch.float32, torch.bfloat16)
    for name, shape, dim in (("nchw", (2, 32, 2048), 1), ("last", (4096, 32), -1))
]
