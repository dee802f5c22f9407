"""A model over several processes: copied (DDP), sharded (FSDP2)."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel


def copied(model: torch.nn.Module, mesh: DeviceMesh) -> torch.nn.Module:
    """Each process of the mesh holds the whole model, and gradients are averaged while backward computes.

    Args:
        model: on the device of this process.
        mesh: of one dimension.
    """
    device = next(model.parameters()).device
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=mesh.get_group(),
        broadcast_buffers=any(getattr(one, "track_running_stats", False) for one in model.modules()),
        gradient_as_bucket_view=True,
    )


def sharded(model: torch.nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Each process of the mesh holds its part of every weight, gathered block by block when needed; in place.

    Args:
        model: on the device of this process.
        mesh: of one dimension, or of two, of which the first holds copies of the second.
        dtype: in which weights are gathered and multiplied; gradients are summed in the weights' own.
    """
    own = next(model.parameters()).dtype
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=own if dtype else None, cast_forward_inputs=False)
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, mp_policy=precision)
    return fully_shard(model, mesh=mesh, mp_policy=precision)


def blocks_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts that are gathered one by one: those in lists of modules, which is where networks repeat themselves."""
    return [block for one in model.modules() if isinstance(one, torch.nn.ModuleList) for block in one]
