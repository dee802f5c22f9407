"""The gates of squeeze-and-excitation and layer scales, at the shapes of EfficientNet-B0 and ConvNeXt-T in training."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def _random(shape: tuple[int, ...], device: str, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(seed))


def _gate(
    shape: tuple[int, int, int, int], channels_last: bool, device: str, dtype: torch.dtype, **bars: float
) -> Case:
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        x = _random(shape, device, dtype, 0).to(memory_format=layout)
        return x.requires_grad_(), _random((*shape[:2], 1, 1), device, dtype, 1).requires_grad_()

    return Case(
        f"gate-{'x'.join(map(str, shape))}{'-channels_last' * channels_last}",
        inputs,
        lambda x, gate: F.scale_act(x, gate, "sigmoid"),
        lambda x, gate: x * gate.sigmoid(),
        lambda x, gate: 2 * x.numel() * x.element_size(),
        lambda x, gate: 3 * x.numel() * x.element_size(),
        device=device,
        dtype=dtype,
        **bars,
    )


def _layer_scale(rows: int, cols: int, device: str, dtype: torch.dtype, **bars: float) -> Case:
    """A branch in `dtype`, whose gamma and shortcut autocast leaves in float32."""

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        branch = _random((rows, cols), device, dtype, 0)
        gamma, shortcut = (_random(shape, device, torch.float32, 1) for shape in ((cols,), (rows, cols)))
        return tuple(tensor.requires_grad_() for tensor in (branch, gamma, shortcut))

    return Case(
        f"layer-scale-{rows}x{cols}",
        inputs,
        lambda branch, gamma, shortcut: F.scale_act(branch, gamma, residual=shortcut),
        lambda branch, gamma, shortcut: shortcut + branch * gamma,
        lambda branch, gamma, shortcut: branch.numel() * (branch.element_size() + 2 * shortcut.element_size()),
        lambda branch, gamma, shortcut: branch.numel() * (2 * branch.element_size() + shortcut.element_size()),
        device=device,
        dtype=dtype,
        **bars,
    )


_GATES = [(256, 32, 112, 112), (256, 144, 56, 56), (256, 480, 14, 14), (256, 1152, 7, 7)]

CASES = [
    *(_gate(shape, last, "cuda", torch.bfloat16) for shape in _GATES for last in (False, True)),
    *(_layer_scale(rows, cols, "cuda", torch.bfloat16) for rows, cols in ((401_408, 96), (100_352, 192), (6272, 768))),
    _gate((32, 96, 28, 28), False, "cpu", torch.float32),
    _layer_scale(6272, 96, "cpu", torch.float32),
]
