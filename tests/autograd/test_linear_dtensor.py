"""Feed-forward blocks whose weights are divided, columns first and rows then: as torch's own products send, no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from launching import DEVICES, join, together
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.functional import gelu, linear, silu

import nnkernels.functional as F

COLUMNS, ROWS, WHOLE = Shard(0), Shard(1), Replicate()
Call = Callable[..., Tensor]
SHAPES = ((4, 6), (8, 6), (8,), (6, 8))
GATED_SHAPES = ((4, 6), (8, 6), (8, 6), (6, 8))
CALLS: dict[str, tuple[Call, Call, tuple[tuple[int, ...], ...]]] = {
    "mlp": (
        lambda x, v, b, w: F.mlp(x, v, b, w, None, "gelu"),
        lambda x, v, b, w: linear(gelu(linear(x, v, b)), w),
        SHAPES,
    ),
    "gated_mlp": (F.gated_mlp, lambda x, g, u, d: linear(silu(linear(x, g)) * linear(x, u), d), GATED_SHAPES),
    "linear_act": (
        lambda x, w, b: F.linear_act(x, w, b, "silu"),
        lambda x, w, b: silu(linear(x, w, b)),
        SHAPES[:3],
    ),
    "maxout_linear": (
        lambda x, w, b: F.maxout_linear(x, w, b, 2),
        lambda x, w, b: linear(x, w, b).unflatten(-1, (4, 2)).amax(-1),
        SHAPES[:3],
    ),
}
PLACED = [
    (name, placed)
    for name in CALLS
    for placed in ((WHOLE, COLUMNS, COLUMNS, ROWS), (Shard(0), WHOLE, WHOLE, WHOLE), (WHOLE,) * 4)
]
"""Weights that are divided, rows that are, and nothing."""


def differences(device_type: str) -> list[str]:
    """Where value, gradients or the number of collectives are not those of torch's composition."""
    device = join(device_type)
    mesh = init_device_mesh(device_type, (2,))
    found = []
    for name, placed in PLACED:
        ours, theirs, shapes = CALLS[name]
        generator = torch.Generator().manual_seed(2)
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device) for shape in shapes]
        results, counts = [], []
        for call in (ours, theirs):
            parts = [
                distribute_tensor(one, mesh, [at]).requires_grad_() for one, at in zip(drawn, placed, strict=False)
            ]
            with CommDebugMode() as counting:
                y = call(*parts)
                assert isinstance(y, DTensor)
                y.redistribute(placements=[Replicate()]).sin().sum().backward()
            counts.append(counting.get_total_counts())
            results.append([one.full_tensor() for one in (y, *(part.grad for part in parts))])
        if not all(torch.allclose(one, other, rtol=1e-10) for one, other in zip(*results, strict=True)):
            found.append(f"{name} {placed}: other numbers")
        if counts[0] > counts[1]:
            found.append(f"{name} {placed}: {counts[0]} collectives, torch {counts[1]}")
    torch.distributed.destroy_process_group()
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_divided_weights(device):
    for told in together(2, differences, device):
        assert told == []
