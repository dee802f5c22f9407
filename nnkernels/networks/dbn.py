"""The deep belief network (Hinton, Osindero & Teh 2006): RBMs, each of which learns what the one below it tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .estimating import Classifier
from .expecting import expect
from .rbm import RBM
from .readout import one_hot, ridge


class DBN(Classifier):
    """RBMs that learn without labels, one above the other, and a linear readout of all of them that learns with labels.

    Few labels are enough where there are many samples without: give those to `fit` as `unlabelled`. (The paper ties
    labels to the top RBM and tunes all layers afterwards; here the readout is solved for.)

    Args:
        hidden: units of each RBM, from below.
        visible: units of the lowest, "bernoulli" or "gaussian"; see `RBM`.
        epochs, lr, batch: of each RBM.
        penalty: of the readout's squared weights, at least 0.
        seed: of the RBMs.

    Shape: `(samples, features)` to scores `(samples, classes)`.

    Attributes:
        layers: the RBMs.
        weight: of the readout, `(features of all RBMs, classes)`.
        bias: of the readout, `(classes,)`.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from nnkernels.networks.dbn import DBN
        >>> x, y = load_digits(return_X_y=True)
        >>> DBN((64,), "bernoulli", lr=0.1).fit(x[:100] / 16, y[:100], unlabelled=x / 16).score(x / 16, y) > 0.8
        True
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        visible: str = "gaussian",
        epochs: int = 10,
        lr: float = 0.01,
        batch: int = 20,
        penalty: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.hidden, self.visible, self.epochs, self.lr = hidden, visible, epochs, lr
        self.batch, self.penalty, self.seed = batch, penalty, seed
        self.layers = torch.nn.ModuleList()

    def _layers(self) -> torch.nn.ModuleList:
        kinds = [self.visible, *["bernoulli"] * (len(self.hidden) - 1)]
        return torch.nn.ModuleList(
            RBM(units, kind, self.epochs, self.lr, batch=self.batch, seed=self.seed)
            for units, kind in zip(self.hidden, kinds, strict=True)
        )

    def fit(self, x: Any, y: Any = None, unlabelled: Any = None) -> DBN:
        """Learns anew, and returns itself.

        Args:
            x: `(samples, features)`.
            y: their classes, `(samples,)`.
            unlabelled: more samples, `(more, features)`, from which the RBMs learn as well.

        Raises:
            ValueError: the shapes do not fit, a number is not finite, or only one class is present.
        """
        self._more = None if unlabelled is None else self.checked(unlabelled)
        try:
            return super().fit(x, y)  # type: ignore[return-value]
        finally:
            del self._more

    def learn(self, x: Tensor, y: Tensor) -> None:
        told = x
        if self._more is not None:
            expect("unlabelled", self._more, "samples", x.shape[1])
            told = torch.cat([x, self._more.to(x)])
        self.layers = self._layers()
        for rbm in self.layers:
            told = rbm.fit(told)(told)  # type: ignore[operator]
        features = self.features(x)
        weight, bias = ridge(features, one_hot(y, x), self.penalty)
        self.keep("weight", weight)
        self.keep("bias", bias)

    def features(self, x: Tensor) -> Tensor:
        """What the hidden units of all RBMs say of `(samples, features)`, side by side: `(samples, sum of hidden)`."""
        told = []
        for rbm in self.layers:
            x = rbm(x)
            told.append(x)
        return torch.cat(told, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.features(x), self.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.layers = self._layers()
        super()._load_from_state_dict(state_dict, prefix, *rest)
