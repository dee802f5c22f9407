"""The activations that keep one of several channels."""

from ..registry import Reducing, add

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
    )
)
