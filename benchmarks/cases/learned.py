"""Activations with learned parameters: both gradients in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def _inputs(shape: tuple[int, ...], *parameters: tuple[int, ...]):
    def make(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(0)
        return tuple(
            torch.randn(one, device=device, dtype=dtype, generator=generator).requires_grad_()
            for one in (shape, *parameters)
        )

    return make


def _streams(count: int):
    return lambda x, *parameters: count * x.numel() * x.element_size()


def _shaped(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.view(-1, *[1] * (x.dim() - 2)) if parameter.numel() > 1 else parameter


def _swish(x: Tensor, beta: Tensor) -> Tensor:
    return x * torch.sigmoid(_shaped(beta, x) * x)


def _apl(x: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    y = torch.relu(x)
    for slope, offset in zip(slopes, offsets, strict=True):
        y = y + _shaped(slope, x) * torch.relu(_shaped(offset, x) - x)
    return y


def _cases(size: str, shape: tuple[int, ...], channels: tuple[int, ...], device: str, dtype: torch.dtype, **bars):
    ways = (_streams(2), _streams(3))
    one, four = _inputs(shape, channels or (1,)), _inputs(shape, (4, *channels), (4, *channels))
    bars |= {"device": device, "dtype": dtype}
    return [
        Case(f"prelu-{size}", one, F.prelu, torch.nn.functional.prelu, *ways, **bars),
        Case(f"swish-beta-{size}", one, F.swish, _swish, *ways, **bars),
        Case(f"apl-4-{size}", four, F.apl, _apl, *ways, **bars),
    ]


_GPU = {"device": "cuda", "dtype": torch.bfloat16, "forward_bar": 0.97, "backward_bar": 0.90}
CASES = [
    *_cases("64x256x56x56", (64, 256, 56, 56), (256,), **_GPU),
    *_cases("16384x8192", (16384, 8192), (), **_GPU),
    *_cases("cpu-64x64x16x16", (64, 64, 16, 16), (64,), "cpu", torch.float32),
    *_cases("cpu-1024x1024", (1024, 1024), (), "cpu", torch.float32),
]
