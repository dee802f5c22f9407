"""Content addressing in torch operations; the formulas are told in `contracts/addressing.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.addressing import FLOOR, Gradients, Operands
from . import base


def _unit(x: Tensor, eps: float) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + eps).rsqrt()


def _turned(mixed: Tensor, shift: Tensor) -> Tensor:
    reach = shift.shape[-1] // 2
    shares = shift.unsqueeze(-1).unbind(-2)
    return torch.stack([share * mixed.roll(k - reach, -1) for k, share in enumerate(shares)]).sum(0)


def composed(operands: Operands, eps: float) -> Tensor:
    """Where the heads are, for any tensors, differentiable to any order."""
    memory = operands.memory
    dtype = base.compute_dtype(memory)
    slots, key, strength, gate, previous, shift, sharpness = (
        None if tensor is None else tensor.to(dtype) for tensor in operands
    )
    assert slots is not None and key is not None and strength is not None
    cosine = _unit(key, eps) @ _unit(slots, eps).mT
    where = torch.softmax(strength.unsqueeze(-1) * cosine, -1)
    if gate is not None and previous is not None:
        where = previous + gate.unsqueeze(-1) * (where - previous)
    if shift is not None:
        where = _turned(where, shift)
    if sharpness is not None:
        where = torch.softmax(sharpness.unsqueeze(-1) * where.clamp(min=FLOOR).log(), -1)
    return where.to(memory.dtype)


def content_addressing(operands: Operands, eps: float, where: Tensor) -> None:
    where.copy_(composed(operands, eps))


def content_addressing_backward(grad: Tensor, operands: Operands, eps: float, gradients: Gradients) -> None:
    wanted = [at for at, gradient in enumerate(gradients) if gradient is not None]
    with torch.enable_grad():
        given = list(operands)
        leaves = []
        for at in wanted:
            given[at] = given[at].detach().requires_grad_()  # type: ignore[union-attr]
            leaves.append(given[at])
        y = composed(Operands(*given), eps)  # type: ignore[arg-type]
    for at, found in zip(wanted, torch.autograd.grad(y, leaves, grad), strict=True):  # type: ignore[arg-type]
        gradients[at].copy_(found)  # type: ignore[union-attr]
