"""Neural ordinary differential equations (Chen et al. 2018): a network says how fast a state changes.

The flow of a differential equation cannot cross itself; more dimensions, at first 0, let it pass (Dupont et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from .activating import features_in, initialise, layer
from .expecting import expect


def runge_kutta(slope: Callable[[Tensor, Tensor], Tensor], start: Tensor, times: Tensor, steps: int = 1) -> Tensor:
    """The states at each time of y' = slope(t, y), by Runge & Kutta's rule of the fourth order (Kutta 1901).

    Args:
        slope: of the time `()` and the state, gives a tensor like the state; torchdiffeq's `odeint` takes the same.
        start: the state at `times[0]`, any shape.
        times: `(times,)`, in any order and direction.
        steps: of the rule between two times.

    Returns:
        `(times, *start.shape)`, of which the first is `start`.

    Raises:
        ValueError: the times are no list of at least one, or the steps are fewer than 1.

    Example:
        >>> import torch
        >>> from nnkernels.networks.ode import runge_kutta
        >>> runge_kutta(lambda t, y: -y, torch.ones(()), torch.tensor([0.0, 1.0]), steps=10)
        tensor([1.0000, 0.3679])
    """
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f"runge_kutta takes times of the shape (times,), one at least, got {tuple(times.shape)}")
    if steps < 1:
        raise ValueError(f"runge_kutta takes at least 1 step between two times, got {steps}")
    state, states = start, [start]
    for begin, end in pairwise(times):
        step = (end - begin) / steps
        for at in range(steps):
            time = begin + at * step
            first = slope(time, state)
            second = slope(time + step / 2, state + step / 2 * first)
            third = slope(time + step / 2, state + step / 2 * second)
            fourth = slope(time + step, state + step * third)
            state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
        states.append(state)
    return torch.stack(states)


class Slope(torch.nn.Module):
    """How fast a state changes: two layers, the same at all times; for `runge_kutta` and torchdiffeq's `odeint`.

    Args:
        features: of a state.
        activation: any name of the catalogue.
        width: of the hidden layer.

    Shape: a time `()` and a state `(..., features)` to `(..., features)`.
    """

    def __init__(self, features: int, *, activation: str = "tanh", width: int = 64) -> None:
        super().__init__()
        self.features = features
        self.hidden = torch.nn.Linear(features, width * features_in(activation))
        self.activation = layer(activation, dim=-1)
        self.out = torch.nn.Linear(width, features)
        initialise(self.hidden, "linear")
        initialise(self.out, activation, 0.1)

    def forward(self, time: Tensor, state: Tensor) -> Tensor:
        return self.out(self.activation(self.hidden(state)))


class NeuralODE(torch.nn.Module):
    """The flow of a learned differential equation.

    Args:
        features: of a state.
        augment: more dimensions, in which each state begins at 0.
        activation: any name of the catalogue.
        width: of the slope's hidden layer.
        steps: of Runge & Kutta's rule between two times.

    Shape: states at time 0, `(batch, features)`, to those at time 1, alike.

    Example:
        >>> import torch
        >>> from nnkernels.networks.ode import NeuralODE
        >>> model = NeuralODE(2)
        >>> model(torch.zeros(5, 2)).shape, model.trajectory(torch.zeros(5, 2), torch.linspace(0, 3, 7)).shape
        (torch.Size([5, 2]), torch.Size([7, 5, 2]))
    """

    def __init__(
        self, features: int, *, augment: int = 0, activation: str = "tanh", width: int = 64, steps: int = 8
    ) -> None:
        super().__init__()
        self.features, self.augment, self.steps = features, augment, steps
        self.slope = Slope(features + augment, activation=activation, width=width)

    def trajectory(self, start: Tensor, times: Tensor) -> Tensor:
        """The states that follow from `start` `(batch, features)` at `times` `(times,)`: `(times, batch, features)`.

        Raises:
            ValueError: a shape is another.
        """
        expect(self, start, "batch", self.features)
        padded = torch.nn.functional.pad(start, (0, self.augment))
        return runge_kutta(self.slope, padded, times, self.steps)[..., : self.features]

    def forward(self, x: Tensor) -> Tensor:
        return self.trajectory(x, torch.arange(2, device=x.device, dtype=x.dtype))[-1]
