"""ANFIS (Jang 1993): fuzzy rules whose bells are trained by gradients, and whose conclusions are solved for."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .estimating import Regressor
from .readout import ridge

MOST_RULES = 4096


class ANFIS(Regressor):
    """Rules "if x1 is low and x2 is high, then y is this line", one for each choice of a bell for each feature.

    A bell is 1 / (1 + ((x - center) / width)^(2 slope)), which is a sigmoid of a logarithm; a rule holds as much as the
    product of its bells, and counts by its share in all rules, the softmax of sums of logarithms. In each round
    the lines are the least-squares fit, then the bells go down the gradient: Jang's hybrid rule.

    Args:
        memberships: bells of each feature, at least 2; there are `memberships ** features` rules.
        epochs: rounds over all samples.
        lr: of Adam for the bells, whose features lie between 0 and 1.
        penalty: of the lines' squared weights, at least 0.

    Shape: `(samples, features)` to `(samples, outputs)`.

    Attributes:
        center, width, slope: of the bells, `(features, memberships)`, in units of the feature's range.
        conclusion: `(rules * (features + 1), outputs)`, the line of each rule.

    Example:
        >>> import numpy as np
        >>> from nnkernels.networks.anfis import ANFIS
        >>> x = np.linspace(-3, 3, 60)[:, None]
        >>> ANFIS(memberships=4).fit(x, np.sin(x[:, 0])).score(x, np.sin(x[:, 0])) > 0.99
        True
    """

    low: Tensor
    span: Tensor
    center: Tensor
    width: Tensor
    slope: Tensor
    conclusion: Tensor
    offset: Tensor

    def __init__(self, memberships: int = 2, epochs: int = 10, lr: float = 0.01, penalty: float = 1e-6) -> None:
        super().__init__()
        self.memberships, self.epochs, self.lr, self.penalty = memberships, epochs, lr, penalty

    def bells(self, x: Tensor) -> Tensor:
        """The logarithm of how much each feature is what each of its bells says, `(samples, features, memberships)`."""
        far = ((((x - self.low) / self.span)[:, :, None] - self.center) / self.width).square()
        return F.logsigmoid(-self.slope * (far + 1e-9).log())

    def strengths(self, x: Tensor) -> Tensor:
        """The share of each rule, `(samples, rules)`; the last feature's bell changes first."""
        rules = x.new_zeros(len(x), 1)
        for bell in self.bells(x).unbind(1):
            rules = (rules[:, :, None] + bell[:, None, :]).flatten(1)
        return F.softmax(rules, 1)

    def premises(self, x: Tensor) -> Tensor:
        """Each rule's share, and that times each feature, `(samples, rules * (features + 1))`."""
        ones = torch.nn.functional.pad((x - self.low) / self.span, (0, 1), value=1.0)
        return (self.strengths(x)[:, :, None] * ones[:, None, :]).flatten(1)

    def learn(self, x: Tensor, y: Tensor) -> None:
        if self.memberships < 2:
            raise ValueError(f"ANFIS needs at least 2 memberships of each feature, got {self.memberships}")
        if (rules := self.memberships ** x.shape[1]) > MOST_RULES:
            raise ValueError(
                f"ANFIS has memberships ** features rules, here {self.memberships} ** {x.shape[1]} = {rules}, and more "
                f"than {MOST_RULES} are refused: choose features"
            )
        low, high = x.aminmax(dim=0)
        self.keep("low", low)
        self.keep("span", torch.where(high > low, high - low, torch.ones_like(low)))
        even = torch.linspace(0, 1, self.memberships).to(x).repeat(x.shape[1], 1)
        self.keep("center", even)
        self.keep("width", torch.full_like(even, 0.5 / (self.memberships - 1)))
        self.keep("slope", torch.full_like(even, 2.0))
        bells = [self.center, self.width, self.slope]
        optimizer = torch.optim.Adam(bells, self.lr)
        for _ in range(self.epochs):
            self.conclude(x, y)
            with torch.enable_grad():
                for one in bells:
                    one.requires_grad_()
                loss = (self(x) - y).square().mean()
                for one, grad in zip(bells, torch.autograd.grad(loss, bells), strict=True):
                    one.requires_grad_(False).grad = grad
            optimizer.step()
            self.width.clamp_(min=0.01)
            self.slope.clamp_(min=0.1)
        self.conclude(x, y)

    def conclude(self, x: Tensor, y: Tensor) -> None:
        """The lines that fit best behind the bells as they are."""
        conclusion, offset = ridge(self.premises(x), y, self.penalty)
        self.keep("conclusion", conclusion)
        self.keep("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.offset, self.premises(x), self.conclusion)
