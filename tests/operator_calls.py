"""A legal call of each of torch.ops.nnkernels, on the CPU, as the operators' tests and the fuzz vary it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import nnkernels.autograd.fused_ops
import nnkernels.autograd.quantized_ops  # noqa: F401
from nnkernels import native

NOTHING = torch.empty(0)
FRAME = [1, 2, 4, 3, 1]


def _numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.linspace(-2, 2, torch.Size(shape).numel()).to(dtype).view(shape)


def _silu() -> int:
    return native.index_of("silu") or 0


def _statistics() -> Tensor:
    return torch.tensor([[6.0] * 4, [0.1] * 4, [0.0] * 4, [2.0] * 4])


def _x() -> Tensor:
    return _numbers(2, 4, 3)


def _vector(count: int = 37) -> Tensor:
    return _numbers(count)


def _bytes(count: int, bits: int = 1) -> Tensor:
    return torch.arange((count * bits + 7) // 8, dtype=torch.uint8)


def _addressing() -> list[Tensor]:
    """Operands: 2 memories of 5 slots of 4 numbers, 3 heads, 3 shares of the shift."""
    return [_numbers(*shape) for shape in ((2, 5, 4), (2, 3, 4), (2, 3), (2, 3), (2, 3, 5), (2, 3, 3), (2, 3))]


_SEED = torch.tensor(2**40 + 7)
_BIAS_ACT = ("silu", 0.0, 0.0, 1, 0.5)

CALLS: dict[str, Callable[[], list[Any]]] = {
    "forward": lambda: [_x(), _silu(), 0.0, 0.0],
    "forward_": lambda: [_x(), _silu(), 0.0, 0.0],
    "backward": lambda: [_x(), _x(), _silu(), 0.0, 0.0],
    "double_backward": lambda: [_x(), _x(), _x(), _silu(), 0.0, 0.0],
    "gated": lambda: [_x(), _x(), _x(), _silu(), 0.0, 0.0, 7.0, 1.0, False, 4.0, 2.0],
    "gated_backward": lambda: [_x(), _x(), _x(), _x(), _x(), _silu(), 0.0, 0.0, 7.0, 1.0, True, 4.0, 2.0],
    "learned_forward": lambda: [_x(), 0, [_numbers(4)], []],
    "learned_backward": lambda: [_x(), _x(), 2, [_numbers(3, 4), _numbers(3, 4)], [], True],
    "rrelu_into": lambda: [_x(), _x(), _SEED, 0.25, 0.0],
    "rrelu_kept_into": lambda: [_x(), _x(), _x(), _SEED, 0.25, 0.0],
    "rrelu_backward_into": lambda: [_x(), _x(), _x(), _SEED, 0.25, 0.0],
    "dropout_into": lambda: [_x(), _x(), _SEED, 2**31, 2.0, _bytes(24)],
    "dropout_again_into": lambda: [_x(), _x(), _bytes(24), 2.0],
    "bernoulli_into": lambda: [_x(), _x(), _SEED],
    "maxout": lambda: [_numbers(2, 6, 3), _numbers(2, 2, 3), _bytes(12, 2), 3, 3],
    "maxout_backward": lambda: [_numbers(2, 2, 1), _bytes(4, 4), _numbers(2, 10, 1), 5, 1],
    "lif": lambda: [_numbers(5, 2, 3), _numbers(2, 3), _numbers(5, 2, 3), _numbers(2, 3), 0.9, 0.5, True],
    "lif_backward": lambda: [
        _numbers(5, 2, 3), _numbers(2, 3), _numbers(5, 2, 3), _numbers(2, 3), _numbers(5, 2, 3), _numbers(2, 3),
        0.9, 0.5, 1, 5.0, False, False,
    ],
    "content_addressing": lambda: [*_addressing(), _numbers(2, 3, 5), 1e-4],
    "content_addressing_backward": lambda: [_numbers(2, 3, 5), *_addressing(), *_addressing(), 1e-4],
    "sparsemax": lambda: [_numbers(4, 3, 2), _numbers(4, 3, 2), 3, 2],
    "sparsemax_backward": lambda: [_numbers(4, 6), _numbers(4, 6), _numbers(4, 6), 6, 1],
    "squash": lambda: [_numbers(4, 3, 2), _numbers(4, 3, 2), 3, 2],
    "squash_backward": lambda: [_numbers(4, 6), _numbers(4, 6), _numbers(4, 6), 6, 1],
    "route": lambda: [_numbers(2, 5, 3, 4), _numbers(2, 3, 4), _numbers(2, 5, 3), _numbers(2, 3, 4), 2],
    "route_backward": lambda: [_numbers(2, 3, 4), _numbers(2, 5, 3), _numbers(2, 3, 4), _numbers(2, 5, 3, 4)],
    "gru_gates": lambda: [_numbers(2, 9), _numbers(2, 9), _numbers(2, 3), _numbers(2, 3)],
    "gru_gates_backward": lambda: [
        _numbers(2, 3), _numbers(2, 9), _numbers(2, 9), _numbers(2, 3), _numbers(2, 9), _numbers(2, 9), _numbers(2, 3),
    ],
    "gaussians": lambda: [_numbers(5, 4), _numbers(5, 3), _numbers(4, 3), _numbers(4), 0.0],
    "gaussians_backward": lambda: [
        _numbers(5, 4), _numbers(5, 3), _numbers(4, 3), _numbers(1), 0.0, _numbers(5, 3), _numbers(4, 3), _numbers(1),
    ],
    "fused_forward": lambda: [
        _numbers(8, 5), _numbers(4), _numbers(8, 5), _SEED, _silu(), 0.0, 0.0, 2, 4, 2**31, 2.0,
    ],
    "fused_backward": lambda: [
        _numbers(40, 5), _numbers(40, 5), _numbers(5), None, _silu(), 0.0, 0.0, 1, 5, 0, 1.0, True,
    ],
    "norm_forward": lambda: [
        *(_numbers(6, 5) for _ in range(3)), _numbers(5), _numbers(5), _silu(), False, 2, 0.0, 0.0, 1.0, 1e-5, True,
    ],
    "norm_backward": lambda: [
        *(_numbers(6, 5) for _ in range(4)), _numbers(5), _numbers(5), torch.ones(2, 6, dtype=torch.float64),
        _numbers(6, 5).bfloat16(), _silu(), False, 1, 0.0, 0.0, 1.0, True, True,
    ],
    "norm_statistics": lambda: [_x(), torch.zeros(4), torch.ones(4), 0.1, 1e-5, False, FRAME],
    "norm_apply": lambda: [_x(), _x(), _numbers(4), _numbers(4), _statistics(), _silu(), 0.0, 0.0, FRAME],
    "norm_sums": lambda: [
        _x(), _x(), _x(), _numbers(4), _numbers(4), _statistics(), _vector(24), _x(), _x(), _silu(), 0.0, 0.0, FRAME,
    ],
    "norm_spread": lambda: [
        _vector(24), None, _x(), _x(), _numbers(4), _numbers(4), _statistics(), torch.ones(2, 4), _x(),
        _silu(), 0.0, 0.0, FRAME,
    ],
    "quantised_forward": lambda: [_vector(), _vector(), _silu(), 0.0, 0.0, 4, -0.1, 1.1],
    "quantised_backward": lambda: [_vector(), _bytes(37, 4), 4, -0.1, 1.1, False],
    "prelu_signs": lambda: [_vector(24), _vector(24), _numbers(4), 3],
    "prelu_from_signs": lambda: [_vector(24), _bytes(24), _numbers(4), 3],
    "rrelu_signs": lambda: [_vector(), _vector(), _SEED, 0.25, 0.0],
    "rrelu_from_signs": lambda: [_vector(), _bytes(37), _SEED, 0.25, 0.0],
    "bias_act_drawn": lambda: [_numbers(8, 5), _numbers(5), _numbers(8, 5), _SEED, *_BIAS_ACT],
    "bias_act_drawn_backward": lambda: [
        _numbers(8, 5), _numbers(8, 5), _numbers(5), _SEED, [5, 1], *_BIAS_ACT, True,
    ],
    "quantize": lambda: [
        _numbers(4, 6), None, None, True, "silu", 0.0, 0.0, -1, False, True, None, 0.0, torch.int8, "row", False,
    ],
}  # fmt: skip


def run(name: str, arguments: list[Any]) -> Any:
    return getattr(torch.ops.nnkernels, name)(*arguments)
