"""The activations with parameters of their own. Swish, whose beta may be a number or learned, stands in
`elementwise`."""

from ..registry import Learned, add

add(
    Learned(
        "prelu",
        "PReLU",
        formula="x if x > 0 else weight x",
        derivative="1 if x > 0 else weight; for the weight 0 if x > 0 else x",
        range="(-inf, inf) for weight > 0, [0, inf) for weight <= 0",
        source="He, Zhang, Ren & Sun 2015",
        good_for="a leaky ReLU that finds its own slope; super-resolution, face recognition",
        drawback="weight decay would pull the slope to ReLU's",
    )
)
add(
    Learned(
        "apl",
        "APL",
        formula="max(0, x) + sum over s of slope_s max(0, offset_s - x)",
        derivative="(1 if x > 0 else 0) - sum of slope_s where x < offset_s",
        range="(-inf, inf)",
        source="Agostinelli, Hoffman, Sadowski & Baldi 2015",
        good_for="a shape that is learned piece by piece, not necessarily convex or monotonic",
        drawback="the number of segments is one more choice; the authors needed a weight decay on slopes and offsets",
    )
)
