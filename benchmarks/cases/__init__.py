"""The benchmark's cases of the families that are not stateless and elementwise, one module for each family.

A case is data: `benchmarks/families.py` checks and times it, on the CPU and on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One call, ours and torch's, with its bars.

    Attributes:
        name: what is called and on what, such as "softmax-4096".
        inputs: told the device and the dtype, the tensors; those that require a gradient get one in backward.
        ours: the call.
        eager: the same as a user of torch would write it; `torch.compile` is timed on it too.
        forward_bytes: told the inputs, the bytes that one forward pass has to read and write.
        backward_bytes: told the inputs, the same for one backward pass.
        random: whether the two sides draw different numbers, so that neither values nor gradients are compared.
        exact: whether the gradients are meant to be exact; lossy ones are not compared.
        slack: how many times the limit an error may be, where gradients are differences of what nearly cancels.
        compiled: whether ours is called under torch.compile; on a GPU only.
        forward_bar, backward_bar: on a GPU, the share of the copy's bandwidth; on the CPU, times as fast as eager.
        device: "cuda" or "cpu": where the case is meant to run.
        dtype: of the data.
    """

    name: str
    inputs: Callable[[str, torch.dtype], tuple[Tensor, ...]]
    ours: Callable[..., Tensor]
    eager: Callable[..., Tensor]
    forward_bytes: Callable[..., int]
    backward_bytes: Callable[..., int]
    random: bool = False
    exact: bool = True
    slack: float = 1.0
    compiled: bool = False
    forward_bar: float | None = None
    backward_bar: float | None = None
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
