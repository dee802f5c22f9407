"""The activations with parameters of their own. Swish, whose beta may be a number or learned, stands in
`elementwise`."""

from ..registry import Example, Learned, Moment, Picture, add

_SLOPE = 0.25  # with which PyTorch's PReLU starts

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
        example=Example(lambda F, x, weight: F.prelu(x, weight), ((3, 4, 5), (4,))),
        picture=Picture(lambda F, x: F.prelu(x, x.new_tensor([_SLOPE])), f"weight = {_SLOPE}, where training starts"),
        moment=Moment(lambda mean, q, init: q * (1 + init**2) / 2, {"init": _SLOPE}),
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
        example=Example(lambda F, x, slopes, offsets: F.apl(x, slopes, offsets), ((3, 4, 5), (2, 4), (2, 4))),
        picture=Picture(
            lambda F, x: F.apl(x, x.new_tensor([0.6, -0.5]), x.new_tensor([-2.0, 2.0])),
            "slopes 0.6 and -0.5, offsets -2 and 2",
        ),
        # As it starts: slopes uniform in [-0.2, 0.2], offsets normal with standard deviation 0.5.
        moment=Moment(lambda mean, q, segments: q / 2 + segments * (0.4**2 / 12) * (q + 0.25) / 2, {"num_segments": 5}),
    )
)
