"""Calls on DTensors: each process runs the kernels on its own part, and nothing is sent but what the formula needs.

Torch's operators would do as well, but one by one, in the reference's precision, and several have no rule for DTensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from .context import is_traced

Operand = tuple[Tensor | None, Sequence[int | None]]
"""A tensor beside the input, and for each of its dimensions that of the input which it runs along, if any."""


def classes() -> tuple[type[Tensor], ...]:
    """DTensor, if its module has been imported: without that nobody has one."""
    module = sys.modules.get("torch.distributed.tensor")
    return () if module is None else (module.DTensor,)


def serves(*tensors: Tensor | None) -> bool:
    """Whether all are DTensors of one mesh, in eager mode and under no transform."""
    known = classes()
    if not known or not all(tensor is None or isinstance(tensor, known) for tensor in tensors):
        return False
    if is_traced():
        return False
    meshes: list[Any] = [tensor.device_mesh for tensor in tensors if tensor is not None]  # type: ignore[attr-defined]
    return all(mesh == meshes[0] for mesh in meshes)


def alike(x: Tensor, other: Tensor | None) -> Operand:
    """An operand of `x`'s own shape."""
    return other, range(x.dim())


def locally(
    function: Callable[..., Tensor], x: Any, operands: Sequence[Operand] = (), whole: Collection[int] = ()
) -> Tensor:
    """`function(x, *operands)` of DTensors, from what each process has of them, placed as `x` is.

    `x` is first gathered along the dimensions `whole`, of which the result may have another size, and where it is a sum
    that is still to be made. The operands go where the parts of `x` that they meet are; the gradient of one that
    several parts meet is the sum over these.
    """
    from torch.distributed.tensor import DTensor

    dims = x.dim()
    placements = [_kept(placement, [dim % dims for dim in whole]) for placement in x.placements]
    parts = [_part(tensor, along, placements) for tensor, along in operands]
    y = function(_placed(x, placements).to_local(), *parts)
    shared = {placement.dim for placement in placements if placement.is_shard()}
    shape = torch.Size(x.shape[dim] if dim in shared else y.shape[dim] for dim in range(dims))
    stride = x.stride()
    if shape != x.shape or not x.is_contiguous():  # the whole result's follow from the whole input's as a part's do
        stride = torch.empty_like(torch.empty(0, device="meta").as_strided(shape, stride)).stride()
    return DTensor.from_local(y, x.device_mesh, placements, run_check=False, shape=shape, stride=stride)


def _placed(x: Any, placements: Sequence[Any]) -> Any:
    return x if list(x.placements) == list(placements) else x.redistribute(placements=placements)


def _kept(placement: Any, whole: Collection[int]) -> Any:
    from torch.distributed.tensor import Replicate, Shard

    return placement if type(placement) is Shard and placement.dim not in whole else Replicate()


def _part(tensor: Any, along: Sequence[int | None], placements: Sequence[Any]) -> Tensor | None:
    """This process's part of an operand, for an input that lies as `placements` say."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    if tensor is None:
        return None
    wanted: list[Any] = []
    gradient: list[Any] = []
    for placement in placements:
        shared = placement.dim if placement.is_shard() else None
        if shared is not None and shared in along:
            wanted.append(Shard(list(along).index(shared)))
            gradient.append(wanted[-1])
        else:
            wanted.append(Replicate())
            gradient.append(Replicate() if shared is None else Partial())
    return _placed(tensor, wanted).to_local(grad_placements=gradient)
