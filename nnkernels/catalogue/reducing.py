"""The activations whose elements depend on each other along a dimension."""

from ..registry import Reducing, add

add(
    Reducing(
        "softmax",
        "Softmax",
        formula="exp(x_i) / sum_j exp(x_j)",
        derivative="y_i ([i = j] - y_j) for x_j, y the output",
        range="[0, 1], summing to 1 along the dimension",
        source="Boltzmann 1868; Gibbs 1902; in networks Bridle 1990",
        good_for="probabilities of classes, weights of attention",
        drawback="never exactly sparse, and saturates where one input leads by far",
    )
)
add(
    Reducing(
        "log_softmax",
        "LogSoftmax",
        formula="x_i - log(sum_j exp(x_j))",
        derivative="[i = j] - exp(y_j) for x_j, y the output",
        range="[-inf, 0]",
        source="Boltzmann 1868; Gibbs 1902; in networks Bridle 1990",
        good_for="the negative log-likelihood, without the overflow of a logarithm of a softmax",
        drawback="not bounded below, so that a sum of many may overflow in float16",
    )
)
add(
    Reducing(
        "softmin",
        "Softmin",
        formula="exp(-x_i) / sum_j exp(-x_j)",
        derivative="y_i (y_j - [i = j]) for x_j, y the output",
        range="[0, 1], summing to 1 along the dimension",
        source="Boltzmann 1868; Gibbs 1902 (energies have this sign); in networks Bridle 1990",
        good_for="energies, costs and distances, of which the smallest counts most",
        drawback="as softmax's",
    )
)
