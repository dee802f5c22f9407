"""Layer and rms norm, alone and with an activation, over rows of a transformer's width.

Shares refer to a copy of 2^27 elements. At 16384 x 1024 launching and draining a kernel shows: on an H100 a copy of
that very size reaches 0.86 of that bandwidth, an addition of two tensors, which moves as much as backward, 0.91.
"""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case

_ACTIVATIONS = {"gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu, "mish": torch.nn.functional.mish}


def _inputs(norm: str, rows: int, cols: int):
    def make(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(rows, cols, device=device, dtype=dtype, generator=generator)
        parameters = [torch.ones(cols, device=device, dtype=dtype)]
        parameters += [torch.zeros(cols, device=device, dtype=dtype)] if norm == "layer_norm" else []
        return tuple(tensor.requires_grad_() for tensor in (x, *parameters))

    return make


def _ours(norm: str, activation: str):
    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm_act(x, x.shape[-1], weight, bias, activation=activation)

    def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm_act(x, x.shape[-1], weight, activation=activation)

    return layer_norm if norm == "layer_norm" else rms_norm


def _eager(norm: str, activation: str):
    function = getattr(torch.nn.functional, norm)

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        y = function(x, x.shape[-1:], *parameters)
        return y if activation == "identity" else _ACTIVATIONS[activation](y)

    return call


def _case(norm: str, activation: str, rows: int, cols: int, device: str, dtype: torch.dtype, **bars: float) -> Case:
    parts = [norm, *([] if activation == "identity" else [activation])]
    return Case(
        f"{'-'.join(parts)}-{rows}x{cols}",
        _inputs(norm, rows, cols),
        _ours(norm, activation),
        _eager(norm, activation),
        lambda x, *parameters: 2 * x.numel() * x.element_size(),
        lambda x, *parameters: 3 * x.numel() * x.element_size(),
        device=device,
        dtype=dtype,
        **bars,
    )


CASES = [
    *(
        _case(norm, "identity", 16384, cols, "cuda", torch.bfloat16, forward_bar=0.95, backward_bar=0.85)
        for norm in ("layer_norm", "rms_norm")
        for cols in (4096, 1024)
    ),
    *(_case("layer_norm", "gelu", 16384, cols, "cuda", torch.bfloat16) for cols in (4096, 1024)),
    _case("layer_norm", "identity", 65536, 256, "cuda", torch.bfloat16, forward_bar=0.92, backward_bar=0.88),
    _case("rms_norm", "identity", 65536, 256, "cuda", torch.bfloat16, forward_bar=0.94, backward_bar=0.88),
    _case("layer_norm", "gelu", 8192, 8192, "cuda", torch.float32, forward_bar=0.95, backward_bar=0.93),
    _case("layer_norm", "identity", 128, 2**20, "cuda", torch.bfloat16, forward_bar=0.85, backward_bar=0.80),
    _case("layer_norm", "identity", 16, 2**22, "cuda", torch.float32, forward_bar=0.85, backward_bar=0.80),
    _case("rms_norm", "silu", 16384, 4096, "cuda", torch.bfloat16),
    *(
        _case("layer_norm", activation, 1024, 1024, "cpu", torch.float32, forward_bar=1.5, backward_bar=1.5)
        for activation in ("gelu", "silu", "mish")
    ),
    _case("layer_norm", "gelu", 1024, 1024, "cpu", torch.bfloat16, forward_bar=1.5, backward_bar=1.5),
    _case("rms_norm", "silu", 1024, 1024, "cpu", torch.float32, forward_bar=1.5, backward_bar=1.5),
]
