"""What is trained: a Llama-like model, and feed-forward blocks whose features are split over processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, PrepareModuleInput, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy, gelu, silu

import nnkernels.functional as F
from nnkernels import nn
from nnkernels.networks import Transformer

Pair = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Size:
    """Of the model: features, blocks, words and places of one text; and of what is done with it.

    Attributes:
        batch: texts of one step, of each process where the load grows with the processes.
        tokens: rows that the feed-forward blocks take; on a GPU so many that it, and not Python, sets the pace.
        mlps: feed-forward blocks.
    """

    width: int
    depth: int
    vocabulary: int
    context: int
    batch: int
    tokens: int
    mlps: int = 4

    @property
    def hidden(self) -> int:
        """Features inside a feed-forward block, as Llama has them: 8/3 of its width, divisible by 128."""
        return math.ceil(self.width * 8 / 3 / 128) * 128


GPU = Size(width=1024, depth=12, vocabulary=32_000, context=1024, batch=16, tokens=2**17)
CPU = Size(width=64, depth=2, vocabulary=256, context=64, batch=8, tokens=512, mlps=2)


def torch_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate) * up


class TorchSwiGLU(torch.nn.Module):
    def forward(self, packed: Tensor) -> Tensor:
        return torch_swiglu(*packed.chunk(2, -1))


def llama(size: Size, activations: str) -> torch.nn.Module:
    """The model with the kernels of "nnkernels", or with "torch"'s operations."""
    torch.manual_seed(0)
    model = Transformer((size.context,), size.vocabulary, width=size.width, depth=size.depth)
    if activations == "torch":
        for block in model.blocks:
            block.feed_forward.activation = TorchSwiGLU()
    return model


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class GatedBlock(torch.nn.Module):
    """down(act(gate(x), up(x))), as Llama has it in Transformers."""

    def __init__(self, size: Size, activation: Pair) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(size.width, size.hidden, bias=False)
        self.up = torch.nn.Linear(size.width, size.hidden, bias=False)
        self.down = torch.nn.Linear(size.hidden, size.width, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x), self.up(x)))

    def split(self, mesh: DeviceMesh) -> None:
        """The input becomes one DTensor, so that gate's and up's gradients of it are added before they are reduced."""
        whole = PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Replicate(),))
        parallelize_module(self, mesh, whole)
        plan = {"gate": ColwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(self, mesh, plan)


class PackedBlock(torch.nn.Module):
    """The same with gate and up in one matrix; each process's part of it holds its gates, then its ups."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.up = torch.nn.Linear(size.width, 2 * size.hidden, bias=False)
        self.activation = nn.SwiGLU()
        self.down = torch.nn.Linear(size.hidden, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))

    def split(self, mesh: DeviceMesh) -> None:
        parallelize_module(self, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


class BiasedBlock(torch.nn.Module):
    """down(gelu(up(x) + bias)), as GPT-2 has it."""

    def __init__(self, size: Size, fused: bool) -> None:
        super().__init__()
        self.up = torch.nn.Linear(size.width, 4 * size.width)
        self.down = torch.nn.Linear(4 * size.width, size.width)
        self.fused = fused
        if fused:
            self.bias = self.up.bias
            self.up.bias = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.fused:
            return self.down(gelu(self.up(x), approximate="tanh"))
        bias = self.bias if not hasattr(self.bias, "to_local") else self.bias.to_local()
        return self.down(F.bias_act(self.up(x), bias, "gelu_tanh"))

    def split(self, mesh: DeviceMesh) -> None:
        parallelize_module(self, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
        if self.fused:
            self.bias = torch.nn.Parameter(distribute_tensor(self.bias.data, mesh, [Shard(0)]))


MLPS: dict[str, Callable[[Size], torch.nn.Module]] = {
    "swiglu, torch": partial(GatedBlock, activation=torch_swiglu),
    "swiglu, torch compiled": lambda size: GatedBlock(size, torch.compile(torch_swiglu, dynamic=False)),
    "swiglu, nnkernels": partial(GatedBlock, activation=F.swiglu),
    "swiglu in one matrix, nnkernels": PackedBlock,
    "bias + gelu, torch": partial(BiasedBlock, fused=False),
    "bias + gelu, nnkernels": partial(BiasedBlock, fused=True),
}
"""Blocks by name; behind the comma is whose activation it is."""


def mlps(size: Size, name: str, device: torch.device, dtype: torch.dtype, mesh: DeviceMesh | None) -> torch.nn.Module:
    """`size.mlps` blocks in a row, their features split over the mesh, if there is one."""
    torch.manual_seed(0)
    with device:
        blocks = [MLPS[name](size).to(dtype) for _ in range(size.mlps)]
    if mesh is not None:
        for block in blocks:
            block.split(mesh)  # type: ignore[operator]
    return torch.nn.Sequential(*blocks)
