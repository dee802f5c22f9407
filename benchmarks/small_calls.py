"""Every form beside eager's composition of the same, as small calls: what `overhead.py --forms` times.

A case is a pair of functions of the same tensors, all of which but masks want a gradient, and the greatest ratio of
ours to eager's that we allow ourselves: forward and backward, and forward alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from cases.spiking import eager as eager_lif
from cases.spiking import ours as our_lif
from torch import Tensor

import nnkernels.functional as ours

eager = torch.nn.functional
COMPOSED, SINGLE = (1.0, 1.0), (1.15, 1.2)
"""Bars where eager composes several operations, and where it has one."""


@dataclass(frozen=True)
class SmallCall:
    eager: Callable[..., Tensor]
    ours: Callable[..., Tensor]
    shapes: Callable[[int], tuple[tuple[int, ...], ...]]
    """Of the tensors, for an input of so many elements."""
    bars: tuple[float, float]
    autocast: bool = False

    def inputs(self, elements: int, device: str) -> tuple[Tensor, ...]:
        return tuple(torch.randn(shape, device=device, requires_grad=True) for shape in self.shapes(elements))


def _rows(elements: int) -> tuple[int, int]:
    return elements // 64, 64


def _alone(elements: int) -> tuple[tuple[int, ...], ...]:
    return (_rows(elements),)


def _per_column(elements: int) -> tuple[tuple[int, ...], ...]:
    return _rows(elements), (64,)


def _affine(elements: int) -> tuple[tuple[int, ...], ...]:
    return _rows(elements), (64,), (64,)


def _image(elements: int) -> tuple[tuple[int, ...], ...]:
    return (4, 8, elements // 128, 4), (8,), (8,)


def _swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return eager.silu(gate) * up


def _apl(x: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    y = eager.relu(x)
    for slope, offset in zip(slopes, offsets, strict=True):
        y = y + slope * eager.relu(offset - x)
    return y


def _apl_shapes(elements: int) -> tuple[tuple[int, ...], ...]:
    return _rows(elements), (2, 64), (2, 64)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return eager.silu(eager.batch_norm(x, None, None, weight, bias, training=True))


def _our_batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ours.batch_norm_act(x, None, None, weight, bias, training=True, activation="silu")


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return eager.gelu(eager.layer_norm(x, (64,), weight, bias))


def _our_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ours.layer_norm_act(x, 64, weight, bias, activation="gelu")


_BATCH_NORM = SmallCall(_batch_norm, _our_batch_norm, _image, COMPOSED)
_LAYER_NORM = SmallCall(_layer_norm, _our_layer_norm, _affine, COMPOSED)

SMALL_CALLS = {
    "swiglu packed": SmallCall(_swiglu, ours.swiglu, _alone, COMPOSED),
    "swiglu of two": SmallCall(lambda g, u: eager.silu(g) * u, ours.swiglu, lambda n: (_rows(n),) * 2, COMPOSED),
    "softmax": SmallCall(partial(eager.softmax, dim=-1), partial(ours.softmax, dim=-1), _alone, SINGLE),
    "log_softmax": SmallCall(partial(eager.log_softmax, dim=-1), partial(ours.log_softmax, dim=-1), _alone, SINGLE),
    "prelu": SmallCall(eager.prelu, ours.prelu, _per_column, COMPOSED),
    "swish, beta": SmallCall(
        lambda x, beta: x * torch.sigmoid(beta * x), ours.swish, lambda n: (_rows(n), (1,)), COMPOSED
    ),
    "apl": SmallCall(_apl, ours.apl, _apl_shapes, COMPOSED),
    "maxout": SmallCall(lambda x: x.unflatten(-1, (-1, 4)).amax(-1), lambda x: ours.maxout(x, 4), _alone, COMPOSED),
    "lif over 16 steps": SmallCall(eager_lif, our_lif, lambda n: ((16, n // 16),), COMPOSED),
    "dropout": SmallCall(eager.dropout, ours.dropout, _alone, SINGLE),
    "rrelu": SmallCall(partial(eager.rrelu, training=True), partial(ours.rrelu, training=True), _alone, SINGLE),
    "relu in place": SmallCall(lambda x: eager.relu_(x * 1), lambda x: ours.relu_(x * 1), _alone, SINGLE),
    "silu in place": SmallCall(
        lambda x: eager.silu(x * 1, inplace=True), lambda x: ours.silu(x * 1, inplace=True), _alone, SINGLE
    ),
    "bias + gelu": SmallCall(
        lambda x, b: eager.gelu(x + b), lambda x, b: ours.bias_act(x, b, "gelu"), _per_column, COMPOSED
    ),
    "bias + gelu + dropout + residual": SmallCall(
        lambda x, b, r: eager.dropout(eager.gelu(x + b), 0.1) + r,
        lambda x, b, r: ours.bias_act(x, b, "gelu", dropout_p=0.1, residual=r),
        lambda n: (_rows(n), (64,), _rows(n)),
        COMPOSED,
    ),
    "batch norm + silu": _BATCH_NORM,
    "batch norm + silu, autocast": SmallCall(_batch_norm, _our_batch_norm, _image, COMPOSED, autocast=True),
    "group norm + silu": SmallCall(
        lambda x, w, b: eager.silu(eager.group_norm(x, 4, w, b)),
        lambda x, w, b: ours.group_norm_act(x, 4, w, b, activation="silu"),
        _image,
        COMPOSED,
    ),
    "layer norm": SmallCall(
        lambda x, w, b: eager.layer_norm(x, (64,), w, b),
        lambda x, w, b: ours.layer_norm_act(x, 64, w, b),
        _affine,
        SINGLE,
    ),
    "layer norm + gelu": _LAYER_NORM,
    "layer norm + gelu, autocast": SmallCall(_layer_norm, _our_layer_norm, _affine, COMPOSED, autocast=True),
    "rms norm": SmallCall(
        lambda x, w: eager.rms_norm(x, (64,), w), lambda x, w: ours.rms_norm_act(x, 64, w), _per_column, SINGLE
    ),
}
