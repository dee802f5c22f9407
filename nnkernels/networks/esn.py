"""The echo state network (Jaeger 2001): a reservoir that stays random, and a readout solved for."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .. import functional as F
from .estimating import Regressor
from .readout import ridge


class ESN(Regressor):
    """Each value of a series from all before it, which the reservoir's state echoes.

    state' = (1 - leak) state + leak tanh(inward [1, x] + reservoir state); the readout sees [x, state].

    The samples of `fit`, `predict` and `score` are one series, in order of time; a network that has read one goes on
    without it: `generate` feeds it with what it says.

    Args:
        units: of the reservoir.
        radius: the spectral radius of the reservoir, about how long it remembers; mostly below 1.
        leak: of (0, 1], how fast it follows; 1 keeps nothing of the state itself.
        scale: of the weights of what comes in.
        penalty: of the readout's squared weights.
        washout: places at the beginning of a series that the readout does not learn from; at most half of the series.
        seed: of the reservoir.

    Shape: `(places, features)` to `(places, outputs)`, the state starting at 0.

    Example:
        >>> from nnkernels.networks.esn import ESN
        >>> from nnkernels.train.generated import mackey_glass
        >>> series = mackey_glass(1000)[:, None]
        >>> esn = ESN(units=100).fit(series[:-1], series[1:])
        >>> (esn.generate(series[:900], 1) - series[900]).abs().item() < 1e-3
        True
    """

    excused_checks: ClassVar[dict[str, str]] = dict.fromkeys(
        ("check_methods_sample_order_invariance", "check_methods_subset_invariance"), "the samples are one series"
    )

    inward: Tensor
    reservoir: Tensor
    readout: Tensor
    offset: Tensor

    def __init__(
        self,
        units: int = 200,
        radius: float = 0.9,
        leak: float = 1.0,
        scale: float = 0.5,
        penalty: float = 1e-8,
        washout: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.units, self.radius, self.leak, self.scale = units, radius, leak, scale
        self.penalty, self.washout, self.seed = penalty, washout, seed

    def learn(self, x: Tensor, y: Tensor) -> None:
        if not 0 < self.leak <= 1:
            raise ValueError(f"the leak of an echo state network has to be of (0, 1], got {self.leak}")
        generator = self.generator(x)
        drawn = torch.randn(self.units, self.units, generator=generator, dtype=torch.float64)
        reservoir = drawn * (self.radius / torch.linalg.eigvals(drawn).abs().max())
        inward = torch.rand(self.units, x.shape[1] + 1, generator=generator, dtype=torch.float64) * 2 - 1
        self.keep("reservoir", reservoir.to(x))
        self.keep("inward", (self.scale * inward).to(x))
        start = min(self.washout, len(x) // 2)
        readout, offset = ridge(self.features(x)[start:], y[start:], self.penalty)
        self.keep("readout", readout)
        self.keep("offset", offset)

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """The state `(units,)` after the reservoir has read `x`, `(features,)`."""
        return self._follow(self.inward[:, 0] + self.inward[:, 1:] @ x, state)

    def _follow(self, driven: Tensor, state: Tensor) -> Tensor:
        return torch.lerp(state, F.tanh(driven + self.reservoir @ state), self.leak)

    def states(self, x: Tensor) -> Tensor:
        """The reservoir's state at each place of a series `(places, features)`: `(places, units)`."""
        driven = torch.addmm(self.inward[:, 0], x, self.inward[:, 1:].T)
        state, found = driven.new_zeros(self.units), []
        for one in driven.unbind():
            state = self._follow(one, state)
            found.append(state)
        return torch.stack(found)

    def features(self, x: Tensor) -> Tensor:
        """What the readout sees of a series: `(places, features + units)`."""
        return torch.cat([x, self.states(x)], 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.offset, self.features(x), self.readout)

    @torch.no_grad()
    def generate(self, x: Tensor, length: int) -> Tensor:
        """Goes on with a series `(places, features)` by reading its own answers: `(length, features)`."""
        state, said = self.states(x)[-1], []
        now = x[-1]
        for _ in range(length):
            now = self.offset + torch.cat([now, state]) @ self.readout
            state = self.step(now, state)
            said.append(now)
        return torch.stack(said)
