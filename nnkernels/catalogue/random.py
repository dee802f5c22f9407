"""The activations that draw random numbers in training."""

from ..registry import Example, Moment, Picture, Random, add

_LOWER, _UPPER = 1 / 8, 1 / 3  # PyTorch's defaults

add(
    Random(
        "rrelu",
        "RReLU",
        formula="x if x > 0 else a x, a drawn from [lower, upper) for each element; (lower + upper)/2 in evaluation",
        derivative="1 if x > 0 else a",
        range="(-inf, inf)",
        source="Xu, Wang, Chen & Li 2015",
        good_for="small data sets that overfit: the noise regularises",
        drawback="training is noisy, and values differ between training and evaluation",
        # As in evaluation: two backends need not draw the same numbers.
        example=Example(lambda F, x: F.rrelu(x), ((6, 7),)),
        picture=Picture(
            lambda F, x: F.rrelu(x, _LOWER, _UPPER, training=False),
            "line: evaluation; band: training, 1/8 to 1/3",
            band=(lambda F, x: F.leaky_relu(x, _LOWER), lambda F, x: F.leaky_relu(x, _UPPER)),
        ),
        moment=Moment(
            lambda mean, q, low, high: q * (1 + (low**2 + low * high + high**2) / 3) / 2,
            {"lower": _LOWER, "upper": _UPPER},
        ),
    )
)
