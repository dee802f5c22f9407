"""Networks that learn what digits are like: to squeeze them, to tell them from what is none, and to draw them."""

from __future__ import annotations

from typing import Any

import torch

from ...train.datasets import named
from ..autoencoder import Autoencoder
from ..baselines import ClassGaussians, above
from ..dbn import DBN
from ..descending import descend
from ..drawing import mosaic, tiles
from ..gan import GAN
from ..rbm import RBM
from ..recipe import ACCURACY, AUROC, MSE, Baseline, Contrast, Recipe
from ..trials import Fitted, Learned, Split, sklearn

WHITE = {"digits": 16.0, "mnist5k": 1.0}
"""Of each data set the number of a white pixel."""


def inked(seed: int, name: str = "digits") -> Split:
    """Digits, flat, each pixel between 0 (black) and 1 (white)."""
    data = named(name)
    parts = [(part.inputs.flatten(1) / WHITE[name], part.targets) for part in (data.train, data.held)]  # type: ignore[attr-defined]
    x, y, held_x, held_y = (one.numpy() for part in parts for one in part)
    return Split(x, y, held_x, held_y, data.problem)


def squeeze(model: Autoencoder, data: Split) -> None:
    x = torch.from_numpy(data.x)
    descend(model.parameters(), lambda at: model.loss(x[at]), len(x), epochs=60)


def lost(through: Any, data: Split) -> float:
    """The mean square error of each pixel of what comes back."""
    return float(((through(data.held_x) - data.held_x) ** 2).mean())


@torch.no_grad()
def lost_by_code(model: Autoencoder, data: Split) -> float:
    return lost(lambda x: model(torch.from_numpy(x)).numpy(), data)


def lost_by_plane(model: Any, data: Split) -> float:
    return lost(lambda x: model.inverse_transform(model.transform(x)), data)


LOGISTIC = sklearn("linear_model.LogisticRegression", max_iter=5000)


@torch.no_grad()
def read_from_code(model: Autoencoder, data: Split) -> float:
    """The share of held-out digits that logistic regression tells from their code."""
    code, held = (model.encode(torch.from_numpy(x)).numpy() for x in (data.x, data.held_x))
    return LOGISTIC(0).fit(code, data.y).score(held, data.held_y)


@torch.no_grad()
def map_of_codes(learned: Learned, figure: Any) -> None:
    """Where held-out digits lie on the plane of the code, and what is drawn from each place of it."""
    left, right = figure.subfigures(1, 2)
    code = learned.model.encode(torch.from_numpy(learned.data.held_x))
    axes = left.subplots()
    axes.scatter(code[:, 0], code[:, 1], c=learned.data.held_y, cmap="tab10", s=8)
    for digit in range(10):
        axes.annotate(str(digit), code[learned.data.held_y == digit].median(0).values.tolist(), weight="bold")
    axes.set(title="held-out digits by their code", xlabel="first number", ylabel="second number")
    low, high = torch.quantile(code, torch.tensor([0.05, 0.95]), 0).tolist()
    first, second = (torch.linspace(*ends, 12) for ends in zip(low, high, strict=True))
    places = torch.cartesian_prod(second.flip(0), first).flip(1)
    mosaic(right, learned.model.decode(places).view(-1, 8, 8), 12, "what is drawn from each place")


def autoencoder(code: int) -> Any:
    return lambda seed: Autoencoder((64,), code)


def shuffled(pictures: torch.Tensor) -> torch.Tensor:
    """The same pixels, those of each picture in an order of its own."""
    order = torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0)).argsort(1)
    return pictures.gather(1, order)


def without_ones(seed: int) -> Split:
    """Digits, held out are all; trained on are those that are no 1."""
    data = inked(seed)
    kept = data.y != 1
    return data._replace(x=data.x[kept], y=data.y[kept])


def machine(seed: int) -> RBM:
    return RBM(128, "bernoulli", epochs=30, lr=0.1, seed=seed)


def told_from_shuffled(energy: Any) -> Any:
    """How often a shuffled digit has more energy than a real one."""

    def measure(model: Any, data: Split) -> float:
        real = torch.from_numpy(data.held_x)
        return above(energy(model, shuffled(real)), energy(model, real))

    return measure


def told_from_ones(model: RBM, data: Split) -> float:
    """How often a 1 has more energy than another digit."""
    energy, one = model.free_energy(torch.from_numpy(data.held_x)), torch.from_numpy(data.held_y == 1)
    return above(energy[one], energy[~one])


def fields_and_energies(learned: Learned, figure: Any) -> None:
    """What each hidden unit looks for, and the free energies of what is a digit and what is none."""
    model, real = learned.model, torch.from_numpy(learned.data.held_x)
    left, right = figure.subfigures(1, 2)
    mosaic(left, model.weight[:100].view(-1, 8, 8), 10, "what 100 of the hidden units look for")
    axes = right.subplots()
    for name, pictures in {"digits": real, "shuffled digits": shuffled(real)}.items():
        axes.hist(model.free_energy(pictures).numpy(), bins=30, density=True, alpha=0.6, label=name)
    axes.axvline(model.free_energy(torch.zeros(1, 64)).item(), color="black", label="all black")
    axes.set(title="free energy", yticks=[])
    axes.legend(frameon=False)


LABELS = 300


def few_labels(seed: int) -> Split:
    """MNIST's digits, in an order of the seed: the first 300 have labels."""
    data = inked(seed, "mnist5k")
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed)).numpy()
    return data._replace(x=data.x[order], y=data.y[order])


def from_few_and_many(model: DBN, data: Split) -> None:
    model.fit(data.x[:LABELS], data.y[:LABELS], unlabelled=data.x[LABELS:])


def from_few(model: Any, data: Split) -> None:
    model.fit(data.x[:LABELS], data.y[:LABELS])


def fields_by_layer(learned: Learned, figure: Any) -> None:
    """What units of both layers look for, those of the second through the first."""
    first, second = (one.weight for one in learned.model.layers)
    for part, title, seen in zip(figure.subfigures(1, 2), ("first", "second"), (first, second @ first), strict=True):
        mosaic(part, seen[:64].view(-1, 28, 28), 8, f"what units of the {title} layer look for")


def play(model: GAN, data: Split) -> None:
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    descend(model.parameters(), lambda at: model.loss(x[at], y[at]), len(x), epochs=100, lr=2e-3, betas=(0.5, 0.999))


@torch.no_grad()
def taught_by_drawn(model: Any, data: Split) -> float:
    """The share of real digits that logistic regression tells, which has seen 3,000 drawn ones alone."""
    classes = torch.arange(3_000) % 10
    return LOGISTIC(0).fit(model.draw(classes).numpy(), classes.numpy()).score(data.held_x, data.held_y)


@torch.no_grad()
def told_by_discriminator(model: GAN, data: Split) -> float:
    """The share of real digits that the discriminator takes for real under the right name rather than any other."""
    x = torch.from_numpy(data.held_x)
    judged = torch.stack([model.judge(x, torch.full((len(x),), digit)) for digit in range(10)], 1)
    return float((judged.argmax(1).numpy() == data.held_y).mean())


@torch.no_grad()
def drawn_digits(learned: Learned, figure: Any) -> None:
    """Real digits, drawn ones, and what lies between two draws of each."""
    model, data, classes = learned.model, learned.data, torch.arange(10)
    real = [torch.from_numpy(data.held_x[data.held_y == digit][0]) for digit in range(10)]
    one, other = torch.randn(2, 10, model.noise, generator=torch.Generator().manual_seed(0))
    between = {f"drawn, {share:.0%} of the way": share for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    drawn = {title: model(torch.lerp(one, other, share), classes).view(-1, 8, 8) for title, share in between.items()}
    tiles(figure, {"real": torch.stack(real).view(-1, 8, 8), **drawn})


def belief(visible: str, lr: float) -> Any:
    return lambda seed: DBN((256, 256), visible, lr=lr, batch=50, seed=seed)


RECIPES = (
    Recipe(
        name="autoencoder",
        network="Autoencoder",
        paper="Hinton & Salakhutdinov 2006",
        problem="digits through 2 numbers and back",
        trial=Fitted(inked, autoencoder(2), squeeze, lost_by_code),
        metric=MSE,
        threshold=0.05,
        contrast=Contrast(
            "classes from a code of 8: raw pixels tell more",
            Fitted(inked, autoencoder(8), squeeze, read_from_code),
            bound=0.955,
            metric=ACCURACY,
        ),
        baseline=Baseline("PCA", Fitted(inked, sklearn("decomposition.PCA", n_components=2), measure=lost_by_plane)),
        picture=map_of_codes,
    ),
    Recipe(
        name="rbm",
        network="RBM",
        paper="Hinton 2002",
        problem="digits told from their shuffled pixels by free energy",
        trial=Fitted(inked, machine, measure=told_from_shuffled(lambda model, x: model.free_energy(x)), scaled=False),
        metric=AUROC,
        threshold=0.97,
        contrast=Contrast(
            "ones, which it never saw: what is simple passes for likely",
            Fitted(without_ones, machine, measure=told_from_ones),
            bound=0.6,
        ),
        baseline=Baseline(
            "Gaussian of full covariance",
            Fitted(
                inked,
                sklearn("mixture.GaussianMixture", reg_covar=1e-3),
                measure=told_from_shuffled(lambda model, x: -model.score_samples(x)),
            ),
        ),
        picture=fields_and_energies,
    ),
    Recipe(
        name="dbn",
        network="DBN",
        paper="Hinton, Osindero & Teh 2006",
        problem=f"MNIST's digits, {LABELS} of 4,000 with labels",
        trial=Fitted(few_labels, belief("bernoulli", 0.1), from_few_and_many, scaled=False),
        metric=ACCURACY,
        threshold=0.84,
        contrast=Contrast(
            "MNIST-1D, all labels: what is shifted looks new", Fitted("mnist1d", belief("gaussian", 0.01)), bound=0.5
        ),
        baseline=Baseline("logistic regression on pixels", Fitted(few_labels, LOGISTIC, from_few)),
        picture=fields_by_layer,
    ),
    Recipe(
        name="gan",
        network="GAN",
        paper="Goodfellow et al. 2014",
        problem="digits to order: real ones told by what saw drawn ones alone",
        trial=Fitted(inked, lambda seed: GAN((64,), 10), play, taught_by_drawn),
        metric=ACCURACY,
        threshold=0.9,
        contrast=Contrast(
            "its discriminator asked for the class",
            Fitted(inked, lambda seed: GAN((64,), 10), play, told_by_discriminator),
            bound=0.7,
        ),
        baseline=Baseline(
            "a Gaussian for each pixel and class", Fitted(inked, ClassGaussians, measure=taught_by_drawn)
        ),
        slow=True,
        picture=drawn_digits,
    ),
)
