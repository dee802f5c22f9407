"""A model over several processes: copied (DDP), sharded (FSDP2), its feed-forward blocks split (tensor parallelism)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from .. import nn
from ..registry import Activation, activation, activations

_SYNCS_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the second is torch's name for it up to 2.13
    if name in inspect.signature(DistributedDataParallel).parameters
)


class FeedForward(NamedTuple):
    """down(activation(up(x))); what a network's method `feed_forwards` gives, so that it can be split."""

    up: torch.nn.Linear
    activation: torch.nn.Module
    down: torch.nn.Linear


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
        gradient_as_bucket_view=True,
        **{_SYNCS_BUFFERS: any(getattr(one, "track_running_stats", False) for one in model.modules())},  # type: ignore[arg-type]
    )


def sharded(model: torch.nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
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
    fully_shard(model, mesh=mesh, mp_policy=precision)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, or all of one that is not divided; writing into it writes into the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def blocks_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts that are gathered one by one: those in lists of modules, which is where networks repeat themselves."""
    return [block for one in model.modules() if isinstance(one, torch.nn.ModuleList) for block in one]


def split(model: torch.nn.Module, mesh: DeviceMesh) -> dict[str, Tensor]:
    """Each process of the mesh holds some of the features between the two matrices of each feed-forward block.

    The first matrix is split by its outputs and the second by its inputs (Shoeybi et al. 2019), which takes one sum
    over the processes forward and one backward. Dropout between them drops the same units of each part.

    Args:
        model: whose modules have `feed_forwards`, as `networks.MLP` and `networks.Transformer`.
        mesh: of one dimension.

    Returns:
        For each weight whose rows had to be put into another order, its name and that order.

    Raises:
        ValueError: the model has no such block, its activation needs all features at once or learns parameters, or its
            features cannot be divided.
    """
    names = {id(one): name for name, one in model.named_parameters()}
    orders: dict[str, Tensor] = {}
    found = False
    for block in feed_forwards(model):
        found = True
        parts = _parts(block, mesh.size())
        if parts > 1:
            order = halves_of_each(block.up.out_features, parts, mesh.size())
            for weight in block.up.parameters():
                orders[names[id(weight)]] = order
                with torch.no_grad():
                    weight.copy_(weight[order.to(weight.device)])
        parallelize_module(block.up, mesh, ColwiseParallel())
        parallelize_module(block.down, mesh, RowwiseParallel())
    if not found:
        raise ValueError("tensor parallelism splits feed-forward blocks, and this network has none; leave it at 1")
    return orders


def feed_forwards(model: torch.nn.Module) -> Iterator[FeedForward]:
    """Those of all modules of the model that have such."""
    for module in model.modules():
        blocks: Any = getattr(module, "feed_forwards", None)
        if blocks is not None:
            yield from (FeedForward(*block) for block in blocks())


def halves_of_each(rows: int, parts: int, processes: int) -> Tensor:
    """The order in which the rows of [gate, up] are cut into [gate, up] of each process.

    Example:
        >>> from nnkernels.train.parallel import halves_of_each
        >>> halves_of_each(8, parts=2, processes=2)
        tensor([0, 1, 4, 5, 2, 3, 6, 7])
    """
    return torch.arange(rows).view(parts, processes, -1).transpose(0, 1).flatten()


def _parts(block: FeedForward, processes: int) -> int:
    """How many features the activation makes one of, 1 or 2, side by side as halves."""
    gates = isinstance(block.activation, nn.Gated | nn.GLU)
    alone = tuple(getattr(nn, activation(name).module) for name in activations() if _is_stateless(name))
    if not gates and not isinstance(block.activation, alone):
        raise ValueError(
            f"tensor parallelism cannot split {block.activation}: it takes all features at once, or learns parameters; "
            "choose a stateless activation, such as 'silu' or 'swiglu'"
        )
    if block.down.in_features % processes:
        raise ValueError(
            f"{block.down.in_features} features of a feed-forward block cannot be divided among {processes} processes; "
            f"choose a width that makes it a multiple of {processes}"
        )
    return 2 if gates and not getattr(block.activation, "interleaved", False) else 1


def _is_stateless(name: str) -> bool:
    return isinstance(activation(name), Activation)
