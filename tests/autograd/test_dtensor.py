"""DTensors: each process computes its part, and no collective runs that torch's own activation would not need."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import pytest
import torch
from launching import DEVICES, join, together
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import nnkernels.functional as F
from nnkernels.benchmark import ours as call_of
from nnkernels.registry import Activation, catalogue
from nnkernels.samples import sample_of

eager = torch.nn.functional

SHAPE = (5, 4, 6)
"""Two processes get different parts of the first dimension."""

CALLS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    **{row.name: (sample_of(row).call, sample_of(row).shapes) for row in catalogue() if row.example},
    "silu-transposed": (lambda x: F.silu(x.transpose(0, 2)), (SHAPE,)),
    "silu-inplace": (lambda x: F.silu(x * 1, inplace=True), (SHAPE,)),
    "swish-inplace": (lambda x, beta: F.swish(x * 1, beta, inplace=True), (SHAPE, (4,))),
    "prelu-one": (F.prelu, (SHAPE, (1,))),
    "swish-channels": (F.swish, (SHAPE, (4,))),
    "swish-one": (F.swish, (SHAPE, (1,))),
    "xielu-channels": (F.xielu, (SHAPE, (4,), (1,))),
    "starrelu-learned": (F.starrelu, (SHAPE, (1,), (4,))),
    "apl-one": (F.apl, (SHAPE, (3,), (3,))),
    "swiglu-two": (lambda gate, up: F.swiglu(gate, up=up), (SHAPE, SHAPE)),
    "geglu-pairs": (lambda x: F.geglu(x, interleaved=True), (SHAPE,)),
    "glu-first": (lambda x: F.glu(x, 1), (SHAPE,)),
    "sparsemax": (lambda x: F.sparsemax(x, -1), (SHAPE,)),
    "softmax-causal": (lambda x: F.softmax(x, -1, causal=True), (SHAPE,)),
    "rms_norm_act": (lambda x, w: F.rms_norm_act(x, (6,), w, activation="silu"), (SHAPE, (6,))),
    "gated_rms_norm": (lambda x, z, w: F.gated_rms_norm(x, z, (6,), w), (SHAPE, SHAPE, (6,))),
    "add_rms_norm": (lambda x, r, w: sum(F.add_rms_norm(x, r, (6,), w)), (SHAPE, SHAPE, (6,))),
    "layer_norm_act": (
        lambda x, w, b, r: F.layer_norm_act(x, (4, 6), w, b, activation="gelu", residual=r),
        (SHAPE, (4, 6), (4, 6), SHAPE),
    ),
    "layer_norm_act-channels": (
        lambda x, w, b, r: F.layer_norm_act(x, 4, w, b, activation="gelu", residual=r, dim=1),
        (SHAPE, (4,), (4,), SHAPE),
    ),
    "bias_act": (lambda x, b, r: F.bias_act(x, b, "gelu", residual=r), (SHAPE, (4, 1), SHAPE)),
    "layer-scale": (lambda x, gamma, r: F.scale_act(x, gamma, residual=r), (SHAPE, (6,), SHAPE)),
    "gate": (lambda x, gate: F.scale_act(x, gate, "sigmoid"), (SHAPE, (*SHAPE[:-1], 1))),
    "dropout-none": (lambda x: F.dropout(x, 0.5, training=False), (SHAPE,)),
}
CALLS |= {row.name: (call_of(row), (SHAPE,)) for row in catalogue(Activation)}
PLACEMENTS = [Shard(0), Shard(1), Replicate(), Partial()]


def numbers(shapes: tuple[tuple[int, ...], ...], device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device) for shape in shapes]


def summed(placements: Sequence[Any]) -> list[Any]:
    """The placements once the sums are made."""
    return [Replicate() if placement.is_partial() else placement for placement in placements]


def leaf(x: Tensor, mesh: Any, placements: Sequence[Any]) -> DTensor:
    part = distribute_tensor(x, mesh, summed(placements)).to_local()
    parts = prod(mesh.size(i) for i, placement in enumerate(placements) if placement.is_partial())
    whole = {"shape": x.shape, "stride": x.stride()}
    return DTensor.from_local(part / parts, mesh, placements, run_check=False, **whole).detach().requires_grad_()


def differences(device_type: str, mesh_shape: tuple[int, ...], names: Sequence[str]) -> list[str]:
    """Where the whole value or gradient of a call on DTensors is not that on the whole tensors."""
    device = join(device_type)
    mesh = init_device_mesh(device_type, mesh_shape)
    found = []
    for name in names:
        call, shapes = CALLS[name]
        for placement in itertools.product(PLACEMENTS, repeat=len(mesh_shape)):
            wholes = [tensor.requires_grad_() for tensor in numbers(shapes, device)]
            parts = [
                leaf(x.detach(), mesh, placement if x is wholes[0] else summed(placement))
                if x.shape == shapes[0]
                else leaf(x.detach(), mesh, [Replicate()] * mesh.ndim)
                for x in wholes
            ]
            y, z = call(*wholes), call(*parts)
            grad = torch.cos(torch.arange(y.numel(), dtype=y.dtype, device=device)).view(y.shape)
            exact = (y, *torch.autograd.grad(y, wholes, grad))
            z.backward(distribute_tensor(grad, mesh, summed(z.placements)))
            if z.stride() != y.stride() or z.to_local().untyped_storage().nbytes() < z.to_local().numel() * 8:
                found.append(f"{name} {placement}: strides {z.stride()} for {y.stride()}")
            for got, truth in zip((z, *(part.grad for part in parts)), exact, strict=True):
                if not torch.allclose(got.full_tensor(), truth, rtol=1e-10, atol=1e-12):
                    found.append(f"{name} {placement}: off by {(got.full_tensor() - truth).abs().max():.1e}")
    torch.distributed.destroy_process_group()
    return found


PAIRS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "silu": (F.silu, eager.silu, (SHAPE,)),
    "softmax": (lambda x: F.softmax(x, -1), lambda x: eager.softmax(x, -1), (SHAPE,)),
    "swiglu": (lambda g, u: F.swiglu(g, up=u), lambda g, u: eager.silu(g) * u, (SHAPE, SHAPE)),
    "glu": (F.glu, lambda x: x.chunk(2, -1)[0] * torch.sigmoid(x.chunk(2, -1)[1]), (SHAPE,)),
    "rms_norm": (lambda x, w: F.rms_norm_act(x, (6,), w), lambda x, w: eager.rms_norm(x, (6,), w), (SHAPE, (6,))),
    "bias": (lambda x, b: F.bias_act(x, b, "silu"), lambda x, b: eager.silu(x + b), (SHAPE, (6,))),
}


def collectives(device_type: str) -> list[str]:
    """Where ours sends more often than torch's own operations do."""
    device = join(device_type)
    mesh = init_device_mesh(device_type, (2,))
    found = []
    for name, (ours, torchs, shapes) in PAIRS.items():
        for placement in (*PLACEMENTS, Shard(2)):
            counts = []
            for call in (ours, torchs):
                parts = [
                    leaf(x, mesh, [placement if x.shape == SHAPE else Replicate()]) for x in numbers(shapes, device)
                ]
                try:
                    with CommDebugMode() as counting:
                        call(*parts).sum().redistribute(placements=[Replicate()]).backward()
                        for part in parts:
                            if not part.placements[0].is_partial():  # as an optimiser needs it
                                part.grad.redistribute(placements=part.placements)
                    counts.append(counting.get_total_counts())
                except RuntimeError:
                    if call is ours:
                        raise
                    counts.append(counts[0])  # torch has no rule: rms_norm of a row that is divided
            if counts[0] > counts[1]:
                found.append(f"{name} {placement}: {counts[0]} collectives, torch {counts[1]}")
    torch.distributed.destroy_process_group()
    return found


@pytest.mark.parametrize("device_type", DEVICES)
def test_parts_make_the_whole(device_type):
    for found in together(2, differences, device_type, (2,), list(CALLS)):
        assert not found, "\n".join(found)


@pytest.mark.parametrize("device_type", DEVICES)
def test_parts_of_a_mesh_of_two_dimensions_make_the_whole(device_type):
    if device_type == "cuda" and torch.cuda.device_count() < 4:
        pytest.skip("needs four GPUs")
    names = ["mish", "prelu", "softmax", "swiglu", "swiglu-two", "layer_norm_act", "bias_act"]
    for found in together(4, differences, device_type, (2, 2), names):
        assert not found, "\n".join(found)


@pytest.mark.parametrize("device_type", DEVICES)
def test_no_collective_more_than_torchs(device_type):
    for found in together(2, collectives, device_type):
        assert not found, "\n".join(found)
