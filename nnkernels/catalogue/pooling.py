"""The activations that keep one of several channels."""

import math

from ..registry import Example, Moment, Picture, Reducing, add

_SLOPES, _OFFSETS = (-0.8, 0.2, 1.2), (-2.0, 0.0, -1.5)
_LINES = tuple(
    lambda x, slope=slope, offset=offset: slope * x + offset for slope, offset in zip(_SLOPES, _OFFSETS, strict=True)
)

add(
    Reducing(
        "maxout",
        "Maxout",
        formula="max(x_1, ..., x_k) over groups of k neighbouring channels",
        derivative="1 for the greatest of its group (the first, if several are), 0 for the others",
        range="(-inf, inf)",
        source="Goodfellow, Warde-Farley, Mirza, Courville & Bengio 2013, Maxout Networks",
        good_for="networks trained with dropout; it learns its own convex piecewise linear shape",
        drawback="the layer before it needs num_pieces times as many weights",
        example=Example(lambda F, x: F.maxout(x, 3), ((4, 6, 2),)),
        picture=Picture(
            lambda F, x: F.maxout(x.unsqueeze(1) * x.new_tensor(_SLOPES) + x.new_tensor(_OFFSETS), 3, dim=1).squeeze(1),
            "of three lines",
            helpers=_LINES,
        ),
        # The greatest of k normal numbers has the density k phi(x) Phi(x)^(k - 1).
        moment=Moment(
            lambda mean, q, pieces: mean(
                q, lambda x: x * x * pieces * (0.5 * (1 + (x / math.sqrt(2 * q)).erf())) ** (pieces - 1)
            ),
            {"num_pieces": 2},
        ),
    )
)
