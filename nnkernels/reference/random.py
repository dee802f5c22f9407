"""Random activations, dropout and Bernoulli units in plain torch operations.

`rrelu`, `rrelu_backward`, `dropout` and `bernoulli` are the kernels in torch operations, the truth for the others. What
no kernel can follow is served by `times_slopes` and `times_kept`, which draw the same numbers, and, where a call
begins, by `composed_rrelu`, `composed_dropout` and `composed_bernoulli`: compilers, transforms and modes understand
torch's own random functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.random import BERNOULLI_STEPS, ROUNDS, threshold
from . import compute_dtype
from .saving import pack, unpack

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_BUMPS = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF


def philox(seed: Tensor, count: int) -> Tensor:
    """The words of the counters 0 to count - 1 in order, as int64: those of csrc/philox.h and triton/philox.py."""
    counter = torch.arange(count, dtype=torch.int64, device=seed.device)
    c0, c1, c2, c3 = counter & _WORD, counter >> 32, torch.zeros_like(counter), torch.zeros_like(counter)
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(ROUNDS):
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # which may wrap: only their 64 bits count
        c0, c2 = ((b >> 32) & _WORD) ^ c1 ^ k0, ((a >> 32) & _WORD) ^ c3 ^ k1
        c1, c3 = b & _WORD, a & _WORD
        k0, k1 = (k0 + _BUMPS[0]) & _WORD, (k1 + _BUMPS[1]) & _WORD
    return torch.stack([c0, c1, c2, c3], dim=-1).flatten()


def _halves(seed: Tensor, counters: int) -> Tensor:
    """16 random bits for each of a counter's eight elements."""
    drawn = philox(seed, counters)
    return torch.stack([drawn & 0xFFFF, drawn >> 16], dim=-1).view(counters, 8)


def words(seed: Tensor, count: int, size: int) -> Tensor:
    """A random word for each of `count` elements of `size` bytes, and for some more, so that no counter is divided."""
    if size > 2:
        return philox(seed, -(-count // 4))
    halves = _halves(seed, -(-count // 8))
    return (halves | halves.roll(-1, 1) << 16).flatten()


def _words(like: Tensor, seed: Tensor, strides: tuple[int, ...]) -> Tensor:
    """A random word for each element of a dense tensor with the shape of `like` and these strides."""
    return _shaped(words(seed, like.numel(), like.element_size()), like, strides)


def _shaped(drawn: Tensor, like: Tensor, strides: tuple[int, ...]) -> Tensor:
    return drawn.as_strided(like.shape, strides) if like.numel() else drawn.reshape(like.shape)


def _slopes(x: Tensor, seed: Tensor, strides: tuple[int, ...], lower: float, upper: float) -> Tensor:
    """The slope drawn for each element of `x`, in the type in which `x` is computed."""
    wide = compute_dtype(x)
    if x.dtype == torch.float64:
        fraction = (_words(x, seed, strides).to(wide) + 0.5) * 2.0**-32
    elif x.dtype == torch.float32:
        fraction = ((_words(x, seed, strides) >> 9).to(wide) + 0.5) * 2.0**-23
    else:
        halves = _shaped(_halves(seed, -(-x.numel() // 8)).flatten(), x, strides)
        fraction = (halves.to(wide) + 0.5) * 2.0**-16
    return lower + (upper - lower) * fraction


def times_slopes(grad: Tensor, x: Tensor, seed: Tensor, strides: tuple[int, ...], lower: float, upper: float) -> Tensor:
    """grad, times the slopes drawn for a dense output with these strides where x <= 0. `grad` may be batched."""
    slope = torch.where(x <= 0, _slopes(x, seed, strides, lower, upper), 1.0)
    return (grad.to(slope.dtype) * slope).to(x.dtype)


def times_kept(x: Tensor, seed: Tensor, strides: tuple[int, ...], p: float) -> Tensor:
    """x / (1 - p), or 0 where dropout chose so for a dense output with these strides. `x` may be batched."""
    wide = compute_dtype(x)
    kept = _words(x, seed, strides) >= threshold(p)
    return (x.to(wide) * (kept.to(wide) * (1 / (1 - p)))).to(x.dtype)


def rrelu(x: Tensor, seed: Tensor, lower: float, upper: float, out: Tensor | None = None) -> Tensor:
    y = torch.empty_like(x) if out is None else out
    return y.copy_(times_slopes(x, x, seed, y.stride(), lower, upper))


def rrelu_backward(
    grad: Tensor, x: Tensor, seed: Tensor, strides: tuple[int, ...], lower: float, upper: float
) -> Tensor:
    grad_x = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
    return grad_x.copy_(times_slopes(grad, x, seed, strides, lower, upper))


def rrelu_signs(x: Tensor, y: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    packed = pack(x <= 0, 1)
    y.copy_(times_slopes(x, x, seed, y.stride(), lower, upper))
    return packed


def rrelu_from_signs(grad: Tensor, packed: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    sign = torch.where(unpack(packed, 1, grad.numel()) == 1, -1.0, 1.0).to(grad.dtype)
    return times_slopes(grad, sign, seed, grad.stride(), lower, upper)


def dropout(
    x: Tensor, seed: Tensor, p: float, strides: tuple[int, ...] | None = None, out: Tensor | None = None
) -> Tensor:
    y = out
    if y is None:
        like = torch.empty_like(x)
        y = like if strides is None else torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
    return y.copy_(times_kept(x, seed, y.stride(), p))


def dropout_kept(x: Tensor, seed: Tensor, p: float) -> tuple[Tensor, ...]:
    return (dropout(x, seed, p),)


def dropout_again(grad: Tensor, p: float, strides: tuple[int, ...], seed: Tensor, *packed: Tensor) -> Tensor:
    return dropout(grad, seed, p, strides)


def composed_rrelu(x: Tensor, lower: float, upper: float) -> Tensor:
    """`rrelu` with torch's own random numbers."""
    wide = x.to(compute_dtype(x))
    slope = lower + (upper - lower) * torch.rand_like(wide)
    return torch.where(x <= 0, wide * slope, wide).to(x.dtype)


def composed_dropout(x: Tensor, p: float) -> Tensor:
    """`dropout` with torch's own random numbers, 0 <= p < 1."""
    wide = x.to(compute_dtype(x))
    kept = (torch.rand_like(wide) >= p).to(wide.dtype)
    return (wide * (kept * (1 / (1 - p)))).to(x.dtype)


def bernoulli(x: Tensor, seed: Tensor) -> Tensor:
    y = torch.empty_like(x)
    wide = compute_dtype(x)
    drawn = (_words(x, seed, y.stride()) >> 1).to(wide) + 0.5
    rare = drawn < BERNOULLI_STEPS * torch.sigmoid(-x.to(wide).abs())
    return y.copy_(torch.where(x.isnan(), x, torch.where(x > 0, ~rare, rare).to(x.dtype)))


def composed_bernoulli(x: Tensor) -> Tensor:
    """`bernoulli` with torch's own random numbers, and sigmoid's derivatives to any order and in any mode."""
    mean = torch.sigmoid(x.to(compute_dtype(x)))
    return ((torch.rand_like(mean) < mean).to(mean.dtype) + (mean - mean.detach())).to(x.dtype)
