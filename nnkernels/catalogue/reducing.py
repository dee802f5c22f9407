"""The activations whose elements depend on each other along a dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Example, Moment, Picture, Reducing, add

if TYPE_CHECKING:
    from torch import Tensor


def _among_three(x: Tensor) -> Tensor:
    """A dimension of three logits, the other two being 0 and 1."""
    return x.unsqueeze(0) * x.new_tensor([[1.0], [0.0], [0.0]]) + x.new_tensor([[0.0], [0.0], [1.0]])


_HELD, _AXES = "the other logits are 0 and 1", ("logit", "its output")
# What goes into these is a network's logits, for which no layer follows: they keep the size of the features.
_MOMENT = Moment(lambda mean, q: q)

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
        example=Example(lambda F, x: F.softmax(x, 1), ((3, 5, 4),), slack=3),
        picture=Picture(lambda F, x: F.softmax(_among_three(x), dim=0)[0], _HELD, *_AXES),
        moment=_MOMENT,
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
        example=Example(lambda F, x: F.log_softmax(x, 1), ((3, 5, 4),)),
        picture=Picture(lambda F, x: F.log_softmax(_among_three(x), dim=0)[0], _HELD, *_AXES),
        moment=_MOMENT,
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
        example=Example(lambda F, x: F.softmin(x, -1), ((3, 5, 4),), slack=3),
        picture=Picture(lambda F, x: F.softmin(_among_three(x), dim=0)[0], _HELD, *_AXES),
        moment=_MOMENT,
    )
)
add(
    Reducing(
        "sparsemax",
        "Sparsemax",
        formula="max(x_i - t, 0), t such that they sum to 1",
        derivative="[i = j] - 1/k for x_j where both outputs are positive, k of them, else 0",
        range="[0, 1], summing to 1 along the dimension",
        source="Martins & Astudillo 2016, From Softmax to Sparsemax",
        good_for="attention and choices that leave most out, exactly",
        drawback="no gradient for what is left out; its loss is not the negative log-likelihood",
        example=Example(lambda F, x: F.sparsemax(x, 1), ((3, 5, 4),)),
        picture=Picture(lambda F, x: F.sparsemax(_among_three(x), dim=0)[0], _HELD, *_AXES),
        moment=_MOMENT,
    )
)
