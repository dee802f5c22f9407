"""Widths of tiles."""

from __future__ import annotations

_LEAST_COLS = 64


def power_of_two(n: int) -> int:
    """The least that is not less than n."""
    return 1 << max(n - 1, 0).bit_length()


def tile_width(cols: int, most: int) -> int:
    """The greatest width of a tile, at most `most`, of which few columns lie beyond the end."""
    sizes = [size for size in (most, most // 2, most // 4, most // 8, most // 16) if size >= _LEAST_COLS]
    sizes = [size for size in sizes if size < 2 * cols] or [power_of_two(cols)]
    return next(
        (size for size in sizes if -(-cols // size) * size <= 1.1 * cols), min(sizes, key=lambda s: -(-cols // s) * s)
    )
