"""Hopfield networks: patterns are minima of an energy, and a damaged one rolls down to the pattern that it was.

Hopfield 1982; the pseudo-inverse rule of Personnaz, Guyon & Dreyfus (1985); the modern one of Ramsauer et al. (2020).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import functional as F
from ..names import check
from .estimating import Estimator

RULES = ("hebbian", "pseudo_inverse", "modern")


class Hopfield(Estimator):
    """Stores the samples of `fit`, and `predict` recalls from damaged ones.

    Args:
        rule: "hebbian", each weight the mean product of two units: it holds about 0.14 patterns for each unit, and
            only such as are alike by chance alone; "pseudo_inverse", whose patterns are fixed points however alike; or
            "modern", softmax(beta x patterns^T) patterns, for real numbers, which holds very many.
        beta: of the modern rule, how sharply it decides between patterns.
        steps: at most so many rounds, each of which asks every unit once.
        seed: of the order in which units are asked.

    Shape: `(samples, features)` to the same. All but the modern rule take and give numbers -1 and 1.

    Attributes:
        weight: `(features, features)`, symmetric, or the patterns of the modern rule, `(patterns, features)`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.hopfield import Hopfield
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...
        >>> patterns = torch.randn(5, 100).sign()
        >>> damaged = patterns.clone()
        >>> damaged[:, :10] *= -1
        >>> Hopfield("hebbian").fit(patterns).score(damaged, patterns)
        1.0
    """

    excused_checks: ClassVar[dict[str, str]] = dict.fromkeys(
        ("check_fit_score_takes_y", "check_pipeline_consistency"), "score compares with patterns, not with labels"
    )

    weight: Tensor

    def __init__(self, rule: str = "modern", beta: float = 8.0, steps: int = 20, seed: int = 0) -> None:
        super().__init__()
        self.rule, self.beta, self.steps, self.seed = rule, beta, steps, seed

    def learn(self, x: Tensor, y: Any) -> None:
        check("rule", self.rule, RULES)
        if self.rule == "modern":
            self.keep("weight", x.clone())
            return
        self._check_signs(x)
        weight = x.T @ x / x.shape[1] if self.rule == "hebbian" else torch.linalg.pinv(x) @ x
        self.keep("weight", weight.fill_diagonal_(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.rule == "modern":
            for _ in range(self.steps):
                x, before = F.softmax(self.beta * x @ self.weight.T, 1) @ self.weight, x
                if not torch.compiler.is_compiling() and torch.equal(x, before):
                    break
            return x
        self._check_signs(x)
        columns, order = x.T.clone(), torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            before = columns.clone()
            for unit in torch.randperm(len(columns), generator=order).tolist():
                field = self.weight[unit] @ columns
                columns[unit] = torch.where(field == 0, columns[unit], field.sign())
            if torch.equal(columns, before):
                break
        return columns.T.contiguous()

    def energy(self, x: Tensor) -> Tensor:
        """The energy of states `(samples, features)`, `(samples,)`; recalling never raises it."""
        if self.rule == "modern":
            return x.square().sum(1) / 2 - torch.logsumexp(self.beta * x @ self.weight.T, 1) / self.beta
        return -((x @ self.weight) * x).sum(1) / 2

    def score(self, x: Any, y: Any = None) -> float:
        """The share of samples that are recalled as `y`, or keep as they are, within 0.05 at each place."""
        return float(np.isclose(self.predict(x), np.asarray(x if y is None else y), atol=0.05).all(1).mean())

    def _check_signs(self, x: Tensor) -> None:
        if not torch.compiler.is_compiling() and not bool((x.abs() == 1).all()):
            wrong = x[x.abs() != 1][0].item()
            raise ValueError(f"the rule {self.rule!r} of a Hopfield network takes -1 and 1 alone, got {wrong:g}")
