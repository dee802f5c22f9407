"""Batch and group normalisation with an activation, in training, as in convolutional networks and diffusion models."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def _inputs(shape: tuple[int, ...], channels_last: bool, alike: bool):
    """`alike`: parameters of the data's type, as torch's group_norm on GPUs needs them; else in float32."""

    def make(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(shape, device=device, dtype=dtype, generator=generator)
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        wide = dtype if alike else torch.float32
        weight, bias = torch.rand(2, shape[1], device=device, dtype=wide, generator=generator)
        return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()

    return make


def _bytes(passes: int):
    return lambda x, weight, bias: passes * x.numel() * x.element_size()


def _batch(activation: str):
    function = getattr(torch.nn.functional, activation)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm_act(x, None, None, weight, bias, True, activation=activation)

    def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return function(torch.nn.functional.batch_norm(x, None, None, weight, bias, True))

    return ours, eager


def _group(activation: str, groups: int):
    function = getattr(torch.nn.functional, activation)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.group_norm_act(x, groups, weight, bias, activation=activation)

    def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return function(torch.nn.functional.group_norm(x, groups, weight, bias))

    return ours, eager


def _case(
    kind: str,
    activation: str,
    shape: tuple[int, ...],
    device: str,
    dtype: torch.dtype,
    groups: int | None = None,
    channels_last: bool = False,
    on_chip: bool = False,
    bar: float | None = None,
    backward_bar: float | None = None,
):
    """`on_chip`: sets are small enough to be read once, by one program or by several that exchange sums."""
    ours, eager = _batch(activation) if groups is None else _group(activation, groups)
    layout = "-last" if channels_last else ""
    return Case(
        f"{kind}-{activation}-{'x'.join(map(str, shape))}{layout}",
        _inputs(shape, channels_last, groups is not None),
        ours,
        eager,
        # forward: x for the statistics, x and y; backward: grad and x for the sums, both and grad_x
        _bytes(2 if on_chip else 3),
        _bytes(3 if on_chip else 5),
        device=device,
        dtype=dtype,
        forward_bar=bar,
        backward_bar=backward_bar or bar,
    )


_IMAGES, _SMALL = (256, 64, 112, 112), (16, 64, 32, 32)
_LATENTS, _DEEP = (16, 320, 64, 64), (4, 1280, 16, 16)
CASES = [
    _case("batch", "silu", _IMAGES, "cuda", torch.bfloat16, channels_last=True, bar=0.86, backward_bar=0.9),
    _case("batch", "silu", _IMAGES, "cuda", torch.bfloat16, bar=0.9, backward_bar=0.92),
    _case("batch", "silu", (256, 256, 14, 14), "cuda", torch.bfloat16, channels_last=True),
    _case("batch", "silu", (256, 960, 7, 7), "cuda", torch.bfloat16, channels_last=True),
    _case("group", "silu", _LATENTS, "cuda", torch.bfloat16, 32, on_chip=True, bar=0.58, backward_bar=0.46),
    _case("group", "silu", _LATENTS, "cuda", torch.bfloat16, 32, channels_last=True, on_chip=True),
    _case("group", "silu", _DEEP, "cuda", torch.bfloat16, 32, channels_last=True, on_chip=True),
    _case("group", "silu", (112, 64, 512, 512), "cuda", torch.float32, 8, on_chip=True),
    _case("batch", "silu", _SMALL, "cpu", torch.float32, bar=1.5),
    _case("batch", "silu", _SMALL, "cpu", torch.float32, channels_last=True, bar=1.5),
    _case("batch", "relu", _SMALL, "cpu", torch.float32, bar=1.5),
    _case("batch", "silu", _SMALL, "cpu", torch.bfloat16, bar=1.5),
    _case("group", "silu", _SMALL, "cpu", torch.float32, groups=32, bar=1.5),
]
