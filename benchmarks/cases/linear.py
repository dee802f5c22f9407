"""Products with an activation behind them, and the blocks of two and three, against torch's composition.

On a GPU the bytes are those of the operands and the result, which products of many numbers do not wait for: what counts
there is the time beside eager's, and beside the bare product's (`benchmarks/products.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, mish, relu, silu

import nnkernels.functional as F

from . import Case

Call = Callable[..., Tensor]
_SLACK = 4.0  # the hidden tensor is rounded, and products add up what it lost


def relu_squared(x: Tensor) -> Tensor:
    return relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "mish": mish,
    "relu_squared": relu_squared,
    "silu": silu,
}


def eager_linear(name: str) -> Call:
    return lambda x, w, b: ACTIVATIONS[name](linear(x, w, b))


def eager_mlp(name: str) -> Call:
    return lambda x, w1, b1, w2, b2: linear(ACTIVATIONS[name](linear(x, w1, b1)), w2, b2)


def eager_gated_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def eager_maxout(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return linear(x, w, b).unflatten(-1, (-1, 4)).amax(-1)


def operands(*shapes: tuple[int, ...]) -> Callable[[str, torch.dtype], tuple[Tensor, ...]]:
    """Inputs and weights of these shapes, whose products keep the size of their inputs."""

    def made(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        drawn = (torch.randn(shape, device=device, dtype=dtype) for shape in shapes)
        scaled = (one / one.shape[-1] ** 0.5 if at else one for at, one in enumerate(drawn))
        return tuple(one.requires_grad_() for one in scaled)

    return made


def linear_shapes(rows: int, depth: int, cols: int) -> tuple[tuple[int, ...], ...]:
    return (rows, depth), (cols, depth), (cols,)


def mlp_shapes(rows: int, width: int, hidden: int) -> tuple[tuple[int, ...], ...]:
    return (rows, width), (hidden, width), (hidden,), (width, hidden), (width,)


def gated_shapes(rows: int, width: int, hidden: int) -> tuple[tuple[int, ...], ...]:
    return (rows, width), (hidden, width), (hidden, width), (width, hidden)


def _bytes(*tensors: Tensor) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def _case(name: str, ours: Call, eager: Call, shapes: tuple[tuple[int, ...], ...], cols: int, **more: Any) -> Case:
    def forward_bytes(x: Tensor, *weights: Tensor) -> int:
        return _bytes(x, *weights) + len(x) * cols * x.element_size()

    def backward_bytes(x: Tensor, *weights: Tensor) -> int:
        return 2 * _bytes(x, *weights) + len(x) * cols * x.element_size()

    return Case(name, operands(*shapes), ours, eager, forward_bytes, backward_bytes, slack=_SLACK, **more)


CASES: list[Case] = []
for _name in ACTIVATIONS:
    for _sizes in ((65536, 256, 1024), (8192, 1024, 4096), (4096, 768, 3072), (8192, 4096, 16384)):
        _title = f"linear+{_name}-{'x'.join(map(str, _sizes))}"
        _ours = partial(F.linear_act, activation=_name)
        CASES.append(_case(_title, _ours, eager_linear(_name), linear_shapes(*_sizes), _sizes[2]))
for _name in ("gelu", "relu_squared"):
    _ours = partial(F.mlp, activation=_name)
    CASES.append(_case(f"mlp+{_name}-8192x1024x4096", _ours, eager_mlp(_name), mlp_shapes(8192, 1024, 4096), 1024))
CASES += [
    _case("gated_mlp-8192x4096x11008", F.gated_mlp, eager_gated_mlp, gated_shapes(8192, 4096, 11008), 4096),
    _case(
        "maxout_linear-8192x1024x4x4096",
        partial(F.maxout_linear, num_pieces=4),
        eager_maxout,
        linear_shapes(8192, 1024, 16384),
        4096,
        exact=False,  # of two pieces that differ by a rounding either may win
    ),
]
# Most of the time is the products'.
_ON_CPU: dict[str, Any] = {"device": "cpu", "dtype": torch.float32, "forward_bar": 1.0}
_linear_mish, _maxout = partial(F.linear_act, activation="mish"), partial(F.maxout_linear, num_pieces=4)
_wide = linear_shapes(256, 256, 1024)
CASES += [
    _case("linear+mish-256x256x1024", _linear_mish, eager_linear("mish"), _wide, 1024, **_ON_CPU),
    _case("mlp+gelu-256x256x1024", F.mlp, eager_mlp("gelu"), mlp_shapes(256, 256, 1024), 256, **_ON_CPU),
    _case("gated_mlp-256x256x1024", F.gated_mlp, eager_gated_mlp, gated_shapes(256, 256, 1024), 256, **_ON_CPU),
    _case("maxout_linear-256x256x4x256", _maxout, eager_maxout, _wide, 256, exact=False, **_ON_CPU),
]
