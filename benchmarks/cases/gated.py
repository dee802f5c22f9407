"""The gated activations: one packed tensor and two tensors, both GELUs, and gpt-oss's pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case

eager = torch.nn.functional
_gelu_tanh = partial(eager.gelu, approximate="tanh")


def _packed(rows: int, cols: int) -> Callable[[str, torch.dtype], tuple[Tensor, ...]]:
    return lambda device, dtype: (torch.randn(rows, cols, device=device, dtype=dtype).requires_grad_(),)


def _two(rows: int, cols: int) -> Callable[[str, torch.dtype], tuple[Tensor, ...]]:
    return lambda device, dtype: tuple(
        torch.randn(rows, cols, device=device, dtype=dtype).requires_grad_() for _ in range(2)
    )


def _bytes(inputs: tuple[Tensor, ...]) -> int:
    return sum(x.numel() * x.element_size() for x in inputs)


def _forward_bytes(*inputs: Tensor) -> int:
    """Gate and up are read; the result has half their size."""
    return 3 * _bytes(inputs) // 2


def _backward_bytes(*inputs: Tensor) -> int:
    """The incoming gradient, gate and up are read; the gradients of both are written."""
    return 5 * _bytes(inputs) // 2


def _of_halves(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def composed(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return activation(gate) * up

    return composed


def _of_two(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda gate, up: activation(gate) * up


def _gpt_oss(x: Tensor) -> Tensor:
    gate = x[..., ::2].clamp(max=7.0)
    up = x[..., 1::2].clamp(-7.0, 7.0)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


def _situ(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return 4 * torch.tanh(gate / 4) * torch.sigmoid(gate) * (25 * torch.tanh(up / 25))


_UNITS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "swiglu": (F.swiglu, eager.silu),
    "geglu": (F.geglu, eager.gelu),
    "geglu-tanh": (partial(F.geglu, approximate="tanh"), _gelu_tanh),
}
_ON_GPU = {
    "forward_bytes": _forward_bytes,
    "backward_bytes": _backward_bytes,
    "forward_bar": 0.98,
    "backward_bar": 0.98,
}
_ON_CPU = _ON_GPU | {"device": "cpu", "forward_bar": 1.0, "backward_bar": 1.5}

CASES: list[Case] = []
for _name, (_ours, _activation) in _UNITS.items():
    CASES += [
        Case(f"{_name}-packed-16384x16384", _packed(16384, 16384), _ours, _of_halves(_activation), **_ON_GPU),
        Case(f"{_name}-two-16384x8192", _two(16384, 8192), _ours, _of_two(_activation), **_ON_GPU),
    ]
CASES += [
    Case("reglu-packed-16384x16384", _packed(16384, 16384), F.reglu, _of_halves(eager.relu), **_ON_GPU),
    Case("situ_glu-packed-16384x16384", _packed(16384, 16384), F.situ_glu, _situ, _forward_bytes, _backward_bytes),
    Case("glu-packed-16384x16384", _packed(16384, 16384), F.glu, eager.glu, **_ON_GPU),
    Case(
        "swiglu-pairs-16384x16384",
        _packed(16384, 16384),
        partial(F.swiglu, beta=1.702, interleaved=True, limit=7.0, offset=1.0),
        _gpt_oss,
        **_ON_GPU,
    ),
    # A feed-forward width that is no multiple of the tile.
    Case("swiglu-packed-16384x22016", _packed(16384, 22016), F.swiglu, _of_halves(eager.silu), **_ON_GPU),
]
for _dtype in (torch.float32, torch.bfloat16):
    CASES += [
        Case("swiglu-packed-64x4096", _packed(64, 4096), F.swiglu, _of_halves(eager.silu), dtype=_dtype, **_ON_CPU),
        Case("swiglu-two-64x2048", _two(64, 2048), F.swiglu, _of_two(eager.silu), dtype=_dtype, **_ON_CPU),
    ]
