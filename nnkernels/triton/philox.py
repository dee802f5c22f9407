"""Philox4x32 (Salmon et al. 2011): four random 32-bit words for each counter and seed, as csrc/philox.h draws them.

Counter i serves the adjacent elements 4i to 4i + 3, or 8i to 8i + 7 of 16-bit tensors, so a kernel that knows the seed
and an element's number can draw for it again. The numbers of one thread's 16 bytes come from the same call and are
joined in registers: no shuffles, no shared memory.
"""

import triton
import triton.language as tl

from ..contracts.random import ROUNDS

_ROUNDS = tl.constexpr(ROUNDS)


@triton.jit
def _wide_product(a, B: tl.constexpr):
    """The upper and lower words of a B: one instruction for both."""
    product = a.to(tl.uint64) * B
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def philox(seed, low, high):
    """The four words of the counters high 2^32 + low, of type uint32; `seed` is a scalar of type int64."""
    k0, k1 = seed.to(tl.uint32), (seed.to(tl.uint64) >> 32).to(tl.uint32)
    # The first round, where the counter's upper half is 0.
    c2, c3 = _wide_product(low, 0xD2511F53)
    c0, c1, c2 = (high ^ k0) + tl.zeros_like(low), tl.zeros_like(low), c2 ^ k1
    for _ in tl.static_range(1, _ROUNDS):
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
        a_high, a_low = _wide_product(c0, 0xD2511F53)
        b_high, b_low = _wide_product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = b_high ^ c1 ^ k0, b_low, a_high ^ c3 ^ k1, a_low
    return c0, c1, c2, c3


@triton.jit
def _interleave(w0, w1, w2, w3):
    """w0[0], w1[0], w2[0], w3[0], w0[1] and so on, as trailing dimensions."""
    return tl.join(tl.join(w0, w2), tl.join(w1, w3))


@triton.jit
def _between(word, following):
    """The upper half of a word and, above it, the lower half of the next one."""
    return (word >> 16) | (following << 16)


@triton.jit
def words(seed, first, ROWS: tl.constexpr, COLS: tl.constexpr, EACH: tl.constexpr):
    """A random word for each of ROWS x COLS elements; row r starts with number `first[r]`, an int64.

    EACH is how many adjacent elements share a counter, 4 or 8; rows start with a multiple of it. Eight words overlap
    (`contracts.random`).
    """
    counter = first // EACH + tl.arange(0, COLS // EACH)[None, :]
    w0, w1, w2, w3 = philox(seed, counter.to(tl.uint32), (counter >> 32).to(tl.uint32))
    drawn = _interleave(w0, w1, w2, w3)
    if EACH == 8:
        between = _interleave(_between(w0, w1), _between(w1, w2), _between(w2, w3), _between(w3, w0))
        drawn = tl.join(drawn, between)
    return tl.reshape(drawn, [ROWS, COLS])


@triton.jit
def halves(seed, first, ROWS: tl.constexpr, COLS: tl.constexpr):
    """16 random bits, as uint32, for each of ROWS x COLS elements; row r starts with `first[r]`, a multiple of 8."""
    counter = first // 8 + tl.arange(0, COLS // 8)[None, :]
    w0, w1, w2, w3 = philox(seed, counter.to(tl.uint32), (counter >> 32).to(tl.uint32))
    both = _interleave(w0, w1, w2, w3)
    return tl.reshape(tl.join(both & 0xFFFF, both >> 16), [ROWS, COLS])
