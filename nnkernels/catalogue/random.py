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
add(
    Random(
        "bernoulli_straight_through",
        "BernoulliStraightThrough",
        formula="1 with probability sigmoid(x), else 0; sigmoid(x) in evaluation",
        derivative="sigmoid'(x), straight through the draw",
        range="{0, 1}; (0, 1) in evaluation",
        source="Bengio, Leonard & Courville 2013",
        good_for="binary codes, hard gates and belief networks, trained by gradients",
        drawback="the gradient is that of the mean, not of the draw, and training is noisy",
        example=Example(lambda F, x: F.bernoulli_straight_through(x, training=False), ((6, 7),)),
        picture=Picture(
            lambda F, x: F.bernoulli_straight_through(x, training=False),
            "line: evaluation, and the probability of 1 in training; band: what training draws",
            band=(lambda F, x: 0 * x, lambda F, x: 0 * x + 1),
        ),
        # Of a unit that is its own square.
        moment=Moment(lambda mean, q: 0.5),
    )
)
