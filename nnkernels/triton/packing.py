"""Small numbers side by side in the bits of integers, the first in the lowest bits."""

import triton
import triton.language as tl


@triton.jit
def pack(codes, BITS: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK numbers below 2^BITS, of type int32, in BLOCK * BITS / UNIT integers of UNIT bits."""
    PER: tl.constexpr = UNIT // BITS
    if UNIT == 64:
        codes = tl.reshape(codes, [BLOCK // PER, PER]).to(tl.int64)
    else:
        codes = tl.reshape(codes, [BLOCK // PER, PER])
    return tl.sum(codes << (tl.arange(0, PER) * BITS)[None, :].to(codes.dtype), axis=1)


@triton.jit
def unpack(packed, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """The BLOCK numbers, as int32, that bytes hold."""
    codes = packed.to(tl.int32)
    if BITS != 8:
        PER: tl.constexpr = 8 // BITS
        codes = (codes[:, None] >> (tl.arange(0, PER) * BITS)[None, :]) & ((1 << BITS) - 1)
        codes = tl.reshape(codes, [BLOCK])
    return codes
