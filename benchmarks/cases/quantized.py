"""Activation and cast to 8 bits, as before a matrix product in 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case

_LARGEST = 448.0
_BLOCK = 128


def _inputs(rows: int, cols: int):
    def make(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(0)
        return (torch.randn(rows, cols, device=device, dtype=dtype, generator=generator),)

    return make


def _ours(activation: str, granularity: str, gated: bool):
    call = F.gated_quantize if gated else F.act_quantize
    scale = 0.01 if granularity == "given" else None

    def ours(x: Tensor) -> Tensor:
        return call(x, activation, scale=scale, granularity="tensor" if scale else granularity)[0]

    return ours


def _eager(activation: str, granularity: str, gated: bool):
    function = {"identity": torch.clone, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}[activation]

    def eager(x: Tensor) -> Tensor:
        gate, *up = x.chunk(2, -1) if gated else (x,)
        y = function(gate) * up[0] if up else function(gate)
        y = y if y.dtype == torch.float64 else y.float()
        groups = y.unflatten(-1, (-1, _BLOCK)) if granularity == "block" else y
        amax = groups.abs().amax() if granularity == "given" else groups.abs().amax(-1, keepdim=True)
        v = groups / (0.01 if granularity == "given" else amax / _LARGEST)
        v = v.clamp(-_LARGEST, _LARGEST).view(y.shape)
        return v if x.dtype == torch.float64 else v.to(torch.float8_e4m3fn)

    return eager


def _case(activation: str, granularity: str, rows: int, cols: int, gated: bool = False):
    def moved(x: Tensor) -> int:
        numbers = x.numel() // 2 if gated else x.numel()
        scales = {"given": 0, "row": rows, "block": numbers // _BLOCK}[granularity]
        return x.numel() * x.element_size() + numbers + 4 * scales

    return Case(
        f"{'gated' if gated else 'act'}-quantize-{activation}-{granularity}-{rows}x{cols}",
        _inputs(rows, cols),
        _ours(activation, granularity, gated),
        _eager(activation, granularity, gated),
        moved,
        lambda x: 0,
        forward_bar=0.95,
    )


CASES = [
    _case("identity", "given", 16384, 8192),
    _case("gelu", "given", 16384, 8192),
    _case("silu", "row", 16384, 4096),
    _case("gelu", "row", 16384, 8192),
    _case("gelu", "block", 16384, 8192),
    _case("silu", "row", 16384, 8192, gated=True),
    _case("silu", "block", 16384, 8192, gated=True),
]
