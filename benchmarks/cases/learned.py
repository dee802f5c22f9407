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


def _xielu(x: Tensor, p: Tensor, n: Tensor) -> Tensor:
    """As transformers has it."""
    alpha_p = torch.nn.functional.softplus(_shaped(p, x))
    alpha_n = 0.5 + torch.nn.functional.softplus(_shaped(n, x))
    below = torch.expm1(torch.min(x, torch.full((), -1e-6, dtype=x.dtype, device=x.device))) - x
    return torch.where(x > 0, alpha_p * x * x + 0.5 * x, below * alpha_n + 0.5 * x)


def _snake_beta(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """As BigVGAN has it."""
    return x + (1.0 / (_shaped(beta, x) + 1e-9)) * torch.pow(torch.sin(x * _shaped(alpha, x)), 2)


def _starrelu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return _shaped(scale, x) * torch.relu(x) ** 2 + _shaped(bias, x)


def _dyt(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _shaped(weight, x) * torch.tanh(_shaped(alpha, x) * x) + _shaped(bias, x)


def _our_dyt(x: Tensor, *parameters: Tensor) -> Tensor:
    return F.dyt(x, *parameters, dim=1)


def _cases(size: str, shape: tuple[int, ...], channels: tuple[int, ...], device: str, dtype: torch.dtype, **bars):
    ways = (_streams(2), _streams(3))
    each = channels or (1,)
    one, two, four = _inputs(shape, each), _inputs(shape, each, each), _inputs(shape, (4, *channels), (4, *channels))
    bars |= {"device": device, "dtype": dtype}
    return [
        Case(f"prelu-{size}", one, F.prelu, torch.nn.functional.prelu, *ways, **bars),
        Case(f"swish-beta-{size}", one, F.swish, _swish, *ways, **bars),
        Case(f"apl-4-{size}", four, F.apl, _apl, *ways, **bars),
        Case(f"xielu-{size}", two, F.xielu, _xielu, *ways, **bars),
        Case(f"snake-beta-{size}", two, F.snake_beta, _snake_beta, *ways, slack=4.0, **bars),
        Case(f"starrelu-{size}", two, F.starrelu, _starrelu, *ways, **bars),
        Case(f"dyt-{size}", _inputs(shape, (1,), each, each), _our_dyt, _dyt, *ways, **bars),
    ]


_GPU = {"device": "cuda", "dtype": torch.bfloat16, "forward_bar": 0.97, "backward_bar": 0.90}
CASES = [
    *_cases("64x256x56x56", (64, 256, 56, 56), (256,), **_GPU),
    *_cases("16384x8192", (16384, 8192), (), **_GPU),
    *_cases("cpu-64x64x16x16", (64, 64, 16, 16), (64,), "cpu", torch.float32),
    *_cases("cpu-1024x1024", (1024, 1024), (), "cpu", torch.float32),
]
