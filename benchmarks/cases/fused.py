"""bias + activation + dropout + residual, as at the end of a transformer's feed-forward layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def _inputs(rows: int, cols: int, residual: bool):
    def make(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(0)

        def one(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=dtype, generator=generator).requires_grad_()

        return (one(rows, cols), one(cols), *((one(rows, cols),) if residual else ()))

    return make


def _moved(streams: int):
    return lambda x, bias, *residual: (streams + len(residual)) * x.numel() * x.element_size()


def _ours(activation: str, p: float):
    def call(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
        return F.bias_act(x, bias, activation, dropout_p=p, residual=residual)

    return call


def _eager(activation: str, p: float):
    function = getattr(torch.nn.functional, activation)

    def call(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
        y = function(x + bias)
        y = torch.nn.functional.dropout(y, p) if p else y
        return y if residual is None else y + residual

    return call


def _case(activation: str, p: float, residual: bool, rows: int, cols: int, device: str, dtype: torch.dtype, **bars):
    parts = ["bias", activation, *(["dropout"] if p else []), *(["residual"] if residual else [])]
    return Case(
        f"{'-'.join(parts)}-{rows}x{cols}",
        _inputs(rows, cols, residual),
        _ours(activation, p),
        _eager(activation, p),
        _moved(2),
        lambda x, bias, *residual: 3 * x.numel() * x.element_size(),
        random=p > 0,
        device=device,
        dtype=dtype,
        **bars,
    )


_with_dropout = _case("gelu", 0.1, True, 16384, 8192, "cuda", torch.bfloat16, forward_bar=0.90, backward_bar=0.90)

CASES = [
    _with_dropout,
    replace(_with_dropout, name=f"compiled-{_with_dropout.name}", compiled=True),
    _case("gelu", 0.0, False, 16384, 8192, "cuda", torch.bfloat16, forward_bar=0.90, backward_bar=0.90),
    _case("relu", 0.0, True, 16384, 4096, "cuda", torch.bfloat16),
    _case("gelu", 0.1, True, 1024, 1024, "cpu", torch.float32, forward_bar=1.5, backward_bar=1.5),
    _case("silu", 0.0, False, 1024, 1024, "cpu", torch.float32, forward_bar=1.5, backward_bar=1.5),
    _case("gelu", 0.0, False, 1024, 1024, "cpu", torch.bfloat16, forward_bar=1.5, backward_bar=1.5),
]
