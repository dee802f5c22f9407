"""Random activations, dropout and Bernoulli units as modules; `train()` and `eval()` decide whether they draw."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import policies
from ..arguments import number
from ..functional import random as functional
from .elementwise import with_saving

__all__ = ["BernoulliStraightThrough", "Dropout", "RReLU"]


class RReLU(torch.nn.RReLU):
    """The randomized leaky ReLU: x if x > 0 else a x, `a` drawn for each element in training.

    Args:
        lower: the least slope.
        upper: the greatest slope; in evaluation all are (lower + upper) / 2.
        inplace: whether to write the result into the input.
        saving: what backward keeps, as in `nnkernels.saving`; None follows that.

    Raises:
        ValueError: `saving` cannot serve.

    Shape: input and output alike, any shape.
    Source: Xu, Wang, Chen & Li 2015, Empirical Evaluation of Rectified Activations in Convolutional Network.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.RReLU(0.0, 0.5).eval()(torch.tensor([-8.0, 3.0]))
        tensor([-2.,  3.])
    """

    saving: str | None = None

    def __init__(
        self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False, *, saving: str | None = None
    ) -> None:
        super().__init__(number("RReLU", "lower", lower), number("RReLU", "upper", upper), inplace)
        policies.refuse_recompute(saving)
        if saving is not None:
            policies.check_rrelu(saving, lower, upper)
        self.saving = saving

    def forward(self, input: Tensor) -> Tensor:
        if self.saving is None:
            return functional.rrelu(input, self.lower, self.upper, self.training, self.inplace)
        return functional.rrelu_keeping(
            self.saving, functional.rrelu, input, self.lower, self.upper, self.training, self.inplace
        )

    def extra_repr(self) -> str:
        return with_saving(super().extra_repr(), self.saving)


class Dropout(torch.nn.Dropout):
    """Sets elements to 0 with probability `p` in training and divides the others by 1 - p; backward keeps only a seed.

    Args:
        p: the probability, from 0 to 1.
        inplace: whether to write the result into the input.

    Shape: input and output alike, any shape.
    Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, Dropout.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Dropout(0.75)(torch.ones(1000)).unique()
        tensor([0., 4.])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.dropout(input, self.p, self.training, self.inplace)


class BernoulliStraightThrough(torch.nn.Module):
    """Stochastic binary units: 1 with probability sigmoid(x), else 0; in evaluation their mean, sigmoid(x).

    The gradient is that of sigmoid(x) in both; see `nnkernels.functional.bernoulli_straight_through`.

    Shape: input and output alike, any shape.
    Source: Bengio, Leonard & Courville 2013, Estimating or Propagating Gradients Through Stochastic Neurons.

    Example:
        >>> import torch, nnkernels
        >>> units = torch.nn.Sequential(torch.nn.Linear(8, 100), nnkernels.nn.BernoulliStraightThrough())
        >>> units(torch.zeros(20, 8)).unique()
        tensor([0., 1.], grad_fn=<Unique2Backward0>)
        >>> float(nnkernels.nn.BernoulliStraightThrough().eval()(torch.tensor(0.0)))
        0.5
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.bernoulli_straight_through(input, self.training)
