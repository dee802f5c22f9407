"""What the operators registered from Python ask of their arguments: kernels read memory by what these promise.

The public functions check what a user says; these checks serve those who call `torch.ops.nnkernels` themselves. Each
raises a ValueError that names the operator, the argument and what was given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import SUPPORTED_DTYPES


class Requirements:
    """The requirements of the operator called `operator`, to be listed at the head of it."""

    def __init__(self, operator: str) -> None:
        self.operator = operator

    def that(self, fulfilled: bool, otherwise: str) -> None:
        if not fulfilled:
            raise ValueError(f"nnkernels::{self.operator}: {otherwise}")

    def floating(self, name: str, tensor: Tensor) -> None:
        self.that(tensor.dtype in SUPPORTED_DTYPES, f"{name} is {tensor.dtype}, expected one of {SUPPORTED_DTYPES}")

    def alike(self, name: str, tensor: Tensor, like: Tensor) -> None:
        """Of one shape, type and device with `like`, the operator's main operand."""
        self.that(
            tensor.shape == like.shape and tensor.dtype == like.dtype and tensor.device == like.device,
            f"{name} is {_described(tensor)}, expected {_described(like)}",
        )

    def vector(self, name: str, tensor: Tensor, count: int, like: Tensor) -> None:
        """`count` floating numbers on the device of `like`."""
        self.floating(name, tensor)
        self.that(
            tuple(tensor.shape) == (count,) and tensor.device == like.device,
            f"{name} is {_described(tensor)}, expected shape [{count}] on {like.device}",
        )

    def seed(self, seed: Tensor, like: Tensor) -> None:
        self.that(
            seed.dtype == torch.int64 and seed.numel() == 1 and seed.device == like.device,
            f"seed is {_described(seed)}, expected one int64 on {like.device}",
        )

    def probability(self, p: float) -> None:
        self.that(0 <= p < 1, f"p is {p}, expected 0 <= p < 1")

    def dim(self, dim: int, like: Tensor) -> None:
        self.that(0 <= dim < like.dim(), f"dim is {dim}, expected a dimension of shape {list(like.shape)}")

    def dense(self, strides: Sequence[int], like: Tensor) -> None:
        """Strides of a dense tensor with the shape of `like`, in some order of its dimensions."""
        self.that(len(strides) == like.dim(), f"strides are {list(strides)} for shape {list(like.shape)}")
        extent = 1
        for stride, size in sorted(zip(strides, like.shape, strict=True)):
            if size == 1 or like.numel() == 0:
                continue
            self.that(
                stride == extent, f"strides are {list(strides)} for shape {list(like.shape)}, expected dense ones"
            )
            extent *= size


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {list(tensor.shape)} on {tensor.device}"
