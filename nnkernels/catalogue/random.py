"""The activations that draw random numbers in training."""

from ..registry import Random, add

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
    )
)
