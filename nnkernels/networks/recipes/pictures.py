"""Networks on pictures."""

from __future__ import annotations

from typing import Any

import torch

from ...train.data import Data, Tensors
from ...train.datasets import named
from ...train.generated import forecast, mackey_glass
from ...train.settings import Settings
from ..drawing import mosaic, tiles
from ..hopfield import Hopfield
from ..readout import one_hot, ridge
from ..recipe import ACCURACY, Baseline, Contrast, Metric, Recipe
from ..som import SOM
from ..trials import Fitted, Learned, Split, Trained, sklearn

RECALL = Metric("recalled", True, "{:.1%}")


def permuted(seed: int) -> Data:
    """MNIST's digits, the pixels of all of them in one other order: what is near is no longer alike."""
    data = named("mnist5k")
    order = torch.randperm(28 * 28, generator=torch.Generator().manual_seed(seed))

    def mixed(part: Any) -> Tensors:
        return Tensors(part.inputs.flatten(1)[:, order].view(part.inputs.shape), part.targets)

    return Data(mixed(data.train), mixed(data.held), data.problem)


def filters_and_saliency(learned: Learned, figure: Any) -> None:
    """The first layer's filters, five digits, and how much each of their pixels moves the winning score."""
    first = next(one for one in learned.model.modules() if isinstance(one, torch.nn.Conv2d))
    digits = learned.data.held.inputs[:8].clone().requires_grad_()
    learned.model(digits).amax(1).sum().backward()
    assert digits.grad is not None
    rows = {"filters": first.weight[:8, 0], "digits": digits[:, 0], "what moves the answer": digits.grad[:, 0].abs()}
    tiles(figure, rows)


CNN = Settings(network="cnn", data="mnist5k", activation="mish", width=12, epochs=8, lr=5e-3)


def vote(model: SOM, data: Split) -> float:
    """The share of held-out samples whose nearest unit stands, by majority, for their class."""
    classes = int(data.y.max()) + 1
    pairs = torch.from_numpy(model.predict(data.x) * classes + data.y)
    winners = torch.bincount(pairs, minlength=len(model.weight) * classes).view(-1, classes).argmax(1)
    return (winners.numpy()[model.predict(data.held_x)] == data.held_y).mean()


def k_means_vote(model: Any, data: Split) -> float:
    """The same of scikit-learn's k-means with as many centres."""
    map_of = SOM()
    map_of.fit(data.x)
    map_of.weight = torch.from_numpy(model.cluster_centers_).to(map_of.weight)
    return vote(map_of, data)


def directions(seed: int) -> Split:
    """Windows of Mackey-Glass, of which every other one runs backwards."""
    windows, _ = forecast(mackey_glass(4_000), 20)
    x = windows[::4, :, 0].clone()
    x[::2] = x[::2].flip(1)
    y = torch.arange(len(x)) % 2
    at = len(x) * 4 // 5
    return Split(x[:at].numpy(), y[:at].numpy(), x[at:].numpy(), y[at:].numpy(), named("digits").problem)


def each_value(model: SOM, data: Split) -> None:
    model.fit(data.x.reshape(-1, 1))


def by_winners(model: SOM, data: Split) -> float:
    """Which way a window runs, told by how often each unit wins in it, as well as a line can."""

    def counts(windows: Any) -> torch.Tensor:
        won = torch.from_numpy(model.predict(windows.reshape(-1, 1))).view(len(windows), -1)
        return torch.nn.functional.one_hot(won, len(model.weight)).sum(1).double()

    weight, bias = ridge(counts(data.x), one_hot(torch.from_numpy(data.y), torch.zeros((), dtype=torch.float64)), 1.0)
    said = (counts(data.held_x) @ weight + bias).argmax(1).numpy()
    return (said == data.held_y).mean()


def unit(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures as flat vectors of mean 0 and length 1."""
    flat = pictures.flatten(1) - pictures.flatten(1).mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True)


def halves(seed: int) -> Split:
    """1,000 of MNIST's digits, and the same with their upper half black."""
    digits = named("mnist5k")
    start = 1000 * (seed % 4)
    whole = digits.train.inputs[start : start + 1000]  # type: ignore[attr-defined]
    half = whole.clone()
    half[:, :, :14] = 0
    x, given = unit(whole).numpy(), unit(half).numpy()
    return Split(x, x, given, x, digits.problem)


def signs(load: float, seed: int) -> Split:
    """Patterns of 200 random signs, `load` for each unit, and the same with a tenth of the signs flipped."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(int(200 * load), 200, generator=generator).sign()
    flipped = torch.where(torch.rand(patterns.shape, generator=generator) < 0.1, -patterns, patterns)
    x = patterns.numpy()
    return Split(x, x, flipped.numpy(), x, named("digits").problem)


def black_and_white(seed: int) -> Split:
    """Fifty of MNIST's digits as signs; nothing is flipped."""
    digits = named("mnist5k")
    x = torch.where(digits.train.inputs[:50] > 0.5, 1.0, -1.0).flatten(1).numpy()  # type: ignore[attr-defined]
    return Split(x, x, x, x, digits.problem)


def nearest(model: Any, data: Split) -> float:
    """The share of damaged patterns to which the right whole one is nearest."""
    return float((model.kneighbors(data.held_x, return_distance=False)[:, 0] == range(len(data.x))).mean())


def recalled(learned: Learned, figure: Any) -> None:
    """Damaged digits, and what the network makes of them."""
    data = learned.data
    pictures = [torch.from_numpy(one[:8]).view(-1, 28, 28) for one in (data.held_x, learned.model.predict(data.held_x))]
    tiles(figure, {"given": pictures[0], "recalled": pictures[1]})


def hebbian(seed: int) -> Hopfield:
    return Hopfield("hebbian", seed=seed)


RECIPES = (
    Recipe(
        name="cnn",
        network="CNN",
        paper="LeCun et al. 1998",
        problem="5,000 of MNIST's digits",
        trial=Trained(CNN),
        metric=ACCURACY,
        threshold=0.95,
        contrast=Contrast("pixels permuted: neighbours say nothing", Trained(CNN, data=permuted), bound=0.945),
        baseline=Baseline("MLP", Trained(Settings(network="mlp", data="mnist5k", epochs=8))),
        slow=True,
        picture=filters_and_saliency,
    ),
    Recipe(
        name="hopfield",
        network="Hopfield",
        paper="Hopfield 1982",
        problem="10 of 200 signs each, a tenth of them flipped",
        trial=Fitted(lambda seed: signs(0.05, seed), hebbian),
        metric=RECALL,
        threshold=0.97,
        contrast=Contrast("40 patterns: more than it holds", Fitted(lambda seed: signs(0.2, seed), hebbian), bound=0.3),
        baseline=Baseline(
            "nearest neighbour",
            Fitted(
                lambda seed: signs(0.05, seed), sklearn("neighbors.NearestNeighbors", n_neighbors=1), measure=nearest
            ),
        ),
    ),
    Recipe(
        name="hopfield-modern",
        network="Hopfield",
        paper="Ramsauer et al. 2020",
        problem="1,000 digits from their lower halves",
        trial=Fitted(halves, lambda seed: Hopfield("modern", beta=100.0, steps=5)),
        metric=RECALL,
        threshold=0.94,
        contrast=Contrast("the classical rule on 50 digits", Fitted(black_and_white, hebbian), bound=0.1),
        baseline=Baseline(
            "nearest neighbour", Fitted(halves, sklearn("neighbors.NearestNeighbors", n_neighbors=1), measure=nearest)
        ),
        picture=recalled,
    ),
    Recipe(
        name="som",
        network="SOM",
        paper="Kohonen 1982",
        problem="digits by the nearest of 12 x 12 units",
        trial=Fitted("digits", lambda seed: SOM(), measure=vote),
        metric=ACCURACY,
        threshold=0.93,
        contrast=Contrast(
            "which way a series runs: it knows no order",
            Fitted(directions, lambda seed: SOM(5, 5), fit=each_value, measure=by_winners),
            bound=0.6,
        ),
        baseline=Baseline(
            "k-means, 144 centres",
            Fitted("digits", sklearn("cluster.KMeans", n_clusters=144, n_init=1), measure=k_means_vote),
        ),
        picture=lambda learned, figure: mosaic(
            figure, learned.model.weight.view(-1, 8, 8), 12, "what each unit stands for"
        ),
    ),
)
