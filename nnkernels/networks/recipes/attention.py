"""Networks that attend: to characters, to the text that they translate, to patches, to the samples of a bag."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from ...train.data import Data, Problem, Tensors
from ...train.datasets import named
from ...train.model import Scale
from ...train.settings import Settings
from ..alignment import Translator
from ..descending import descend_drawn
from ..drawing import table, tiles
from ..pooling import AttentionPooling
from ..recipe import ACCURACY, BITS, Baseline, Contrast, Metric, Recipe
from ..transformer import Reader
from ..trials import Fitted, Learned, Trained
from .sequences import TEXT, bigram

EXACT = Metric("exact", True, "{:.1%}")
SHORT = 32
REVERSED, EPOCHS = 20, 4


def directions(seed: int) -> Data:
    """Which way a text of Python's documentation runs: every other one is turned around."""
    texts = named("pydoc", SHORT)

    def turned(part: Any) -> Tensors:
        targets = torch.arange(len(part)) % 2
        return Tensors(torch.where(targets.unsqueeze(1) == 1, part.inputs.flip(1), part.inputs), targets)

    problem = Problem("classes", (SHORT,), 2, ("forwards", "backwards"))
    return Data(turned(texts.train), turned(texts.held), problem)


def alphabet() -> int:
    """How many characters Python's documentation has."""
    return named("pydoc", SHORT).problem.outputs


def reader(turning: bool) -> Trained:
    """Whether a network that reads a whole text can tell its direction, with positions or without."""
    settings = Settings(epochs=4 if turning else 1)
    return Trained(settings, directions, lambda problem: Reader(SHORT, alphabet(), 2, turning=turning))


def translator(attends: bool) -> Translator:
    return Translator(alphabet(), attends=attends)


@functools.cache
def taught(attends: bool, seed: int) -> Translator:
    """Who has learned to write texts from their end; once for each seed, as recipe and contrast ask the same one."""
    torch.manual_seed(seed)
    model, batch = translator(attends), 128
    train = named("pydoc", REVERSED).train.inputs  # type: ignore[attr-defined]
    order = torch.cat([torch.randperm(len(train)) for _ in range(EPOCHS)])

    def loss(step: int) -> Tensor:
        text = train[order[step * batch : (step + 1) * batch]]
        return torch.nn.functional.cross_entropy(model(text, text.flip(1)).transpose(1, 2), text.flip(1))

    descend_drawn(model, loss, len(order) // batch, 1e-2)
    return model


def reversing(attends: bool, length: int = REVERSED) -> Fitted:
    """Learns on texts of 20 characters; the number is the share of texts of `length` that are wholly right."""

    def exact(model: Translator, data: tuple[int, Tensor]) -> float:
        text = data[1]
        return (model.write(text, length) == text.flip(1)).all(1).double().mean().item()

    return Fitted(
        lambda seed: (seed, named("pydoc", length).held.inputs[:1000]),  # type: ignore[attr-defined]
        lambda seed: translator(attends),
        lambda model, data: model.load_state_dict(taught(attends, data[0]).state_dict()),
        exact,
    )


def sorted_bags(seed: int) -> Data:
    """Bags of ten digits, half of them sorted: what is in a bag says nothing of its order."""
    bags, digits = named("bags"), named("digits")

    def ordered(part: Any, many: int) -> Tensors:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(len(part), (many, 10), generator=generator)
        rising = chosen.gather(1, part.targets[chosen].argsort(1))
        targets = torch.arange(many) % 2
        chosen = torch.where(targets.unsqueeze(1) == 1, rising, chosen)
        return Tensors(part.inputs.flatten(1)[chosen], targets)

    problem = Problem("classes", bags.problem.shape, 2, ("mixed", "sorted"), bags.problem.mean, bags.problem.std)
    return Data(ordered(digits.train, 4_000), ordered(digits.held, 1_000), problem)


def few(count: int) -> Data:
    """The first digits only to be trained on."""
    digits = named("digits")
    train = Tensors(digits.train.inputs[:count], digits.train.targets[:count])  # type: ignore[attr-defined]
    return Data(train, digits.held, digits.problem)


def mean_pooling(problem: Problem) -> torch.nn.Module:
    pools = AttentionPooling(problem.shape, problem.outputs, weighs=False)
    return torch.nn.Sequential(OrderedDict(scale=Scale(problem.mean, problem.std), network=pools))


@torch.no_grad()
def who_hears_whom(learned: Learned, figure: Any) -> None:
    """The last block's heads on a text that the network has not seen."""
    model, problem = learned.model, learned.data.problem
    text = learned.data.held.inputs[:1, :24]
    letters = [repr(problem.classes[at])[1:-1] for at in text[0].tolist()]
    shares = model.shares(model.embedding(text))[0]
    grid = figure.subplots(1, len(shares), squeeze=False)[0]
    for number, (axes, share) in enumerate(zip(grid, shares, strict=True)):
        table(axes, share, letters, letters, title=f"head {number + 1}")


@torch.no_grad()
def where_it_looked(learned: Learned, figure: Any) -> None:
    """Each written character, and what the writer looked at."""
    classes, text = named("pydoc").problem.classes, learned.data[1][7:8]
    model = learned.model
    length = text.shape[1]
    read, written = ([repr(classes[at])[1:-1] for at in one[0].tolist()] for one in (text, model.write(text, length)))
    table(figure.subplots(), model.looked(text, length)[0], written, read, title="written downwards, read along")


@torch.no_grad()
def what_counted(learned: Learned, figure: Any) -> None:
    """Bags with a 9, and how much each digit counted."""
    held = learned.data.held
    bags = held.inputs[held.targets == 1][:4]
    scale, network = learned.model
    shares = network.pool.shares(network.hidden(scale(bags)))
    grid = figure.subplots(*bags.shape[:2])
    for line, bag, share in zip(grid, bags, shares, strict=True):
        for axes, digit, counted in zip(line, bag, share, strict=True):
            axes.imshow(digit.view(8, 8), cmap="gray")
            axes.set_title(f"{counted:.0%}", fontsize=10, color="C3" if counted > 0.5 else "0.4")
            axes.axis("off")


@torch.no_grad()
def what_patches_ask(learned: Learned, figure: Any) -> None:
    """Digits, and of which patches the others hear most, in the mean over heads."""
    digits = learned.data.held.inputs[:8]
    scale, network = learned.model
    shares = network.shares(network.embedded(scale(digits))).mean((1, 2))
    side = round(shares.shape[1] ** 0.5)
    tiles(figure, {"digits": digits[:, 0], "what is heard of each patch": shares.view(-1, side, side)})


RECIPES = (
    Recipe(
        name="transformer",
        network="Transformer",
        paper="Vaswani et al. 2017",
        problem="Python's documentation, the next character",
        trial=Trained(
            Settings(network="transformer", data="pydoc", context=TEXT, width=96, epochs=3, lr=5e-3, metric="bits")
        ),
        metric=BITS,
        threshold=2.45,
        contrast=Contrast(
            "without positions, which way a text runs", reader(turning=False), bound=0.55, metric=ACCURACY
        ),
        baseline=Baseline("bigram counts", bigram()),
        slow=True,
        picture=who_hears_whom,
    ),
    Recipe(
        name="attention",
        network="Attention",
        paper="Bahdanau, Cho & Bengio 2014",
        problem=f"{REVERSED} characters of a text, written from the end",
        trial=reversing(attends=True),
        metric=EXACT,
        threshold=0.84,
        contrast=Contrast("texts of twice that length", reversing(attends=True, length=2 * REVERSED), bound=0.1),
        baseline=Baseline("the same, without attention", reversing(attends=False)),
        slow=True,
        picture=where_it_looked,
    ),
    Recipe(
        name="attention-pooling",
        network="Attention-based",
        paper="Ilse, Tomczak & Welling 2018",
        problem="whether one of ten digits is a 9",
        trial=Trained(Settings(network="attention_pooling", data="bags", epochs=20)),
        metric=ACCURACY,
        threshold=0.92,
        contrast=Contrast(
            "whether they are sorted: a bag has no order",
            Trained(Settings(network="attention_pooling", epochs=5), data=sorted_bags),
            bound=0.6,
        ),
        baseline=Baseline("mean pooling", Trained(Settings(data="bags", epochs=20), model=mean_pooling)),
        picture=what_counted,
    ),
    Recipe(
        name="vit",
        network="Attention-based",
        paper="Dosovitskiy et al. 2020",
        problem="handwritten digits, 8 x 8 pixels",
        trial=Trained(Settings(network="vit", data="digits", epochs=25)),
        metric=ACCURACY,
        threshold=0.92,
        contrast=Contrast(
            "300 digits to learn from: it knows nothing of pictures",
            Trained(Settings(network="vit", epochs=40), data=lambda seed: few(300)),
            bound=0.88,
        ),
        baseline=Baseline("MLP", Trained(Settings(network="mlp", data="digits", activation="mish", epochs=30))),
        slow=True,
        picture=what_patches_ask,
    ),
)
