"""Networks on sequences: texts, series, and tasks of memory."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...train import generated
from ...train.data import Data, Problem, Tensors
from ...train.datasets import named
from ...train.settings import Settings
from ..baselines import Bigram, squared_error
from ..drawing import curves
from ..esn import ESN
from ..recipe import ACCURACY, BITS, MSE, Baseline, Contrast, Metric, Recipe
from ..trials import Fitted, Learned, Trained, sklearn

NRMSE = Metric("error in deviations", False, "{:.2g}")
TEXT, ADDING = 64, 60


def adding(network: str, length: int, **more: Any) -> Trained:
    """The adding task, of which a network that remembers nothing says the mean: 1/6."""
    settings = dict(width=32, epochs=3, lr=1e-2, weight_decay=0.0, metric="mse")
    return Trained(Settings(network=network, data="adding", context=length, **{**settings, **more}))


def parity(seed: int) -> Data:
    """Whether 40 random bits have an even sum: no part of them says anything, so that there is no slope to go down."""
    bits = torch.randint(2, (11_000, 40, 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = bits.float(), bits.sum((1, 2)) % 2
    problem = Problem("classes", (40, 1), 2, ("even", "odd"), (0.5,), (0.5,))
    return Data(Tensors(inputs[1000:], targets[1000:]), Tensors(inputs[:1000], targets[:1000]), problem)


def features_in_turn(seed: int) -> Data:
    """breast_cancer, each of the 30 features a place of a sequence."""
    table = named("breast_cancer")
    mean, std = torch.tensor(table.problem.mean), torch.tensor(table.problem.std)

    def turned(part: Any) -> Tensors:
        return Tensors(((part.inputs - mean) / std).unsqueeze(2), part.targets)

    problem = Problem("classes", (30, 1), 2, table.problem.classes)
    return Data(turned(table.train), turned(table.held), problem)


def scattered(seed: int) -> Data:
    """MNIST-1D, the places of all of it in one other order: what is near is no longer alike."""
    data = named("mnist1d")
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))

    def mixed(part: Any) -> Tensors:
        return Tensors(part.inputs[:, order], part.targets)

    return Data(mixed(data.train), mixed(data.held), data.problem)


def bigram() -> Fitted:
    def texts(seed: int) -> tuple[Any, Any, int]:
        text = named("pydoc", TEXT)
        return text.train, text.held, text.problem.outputs

    return Fitted(
        texts,
        lambda seed: Bigram(len(named("pydoc", TEXT).problem.classes)),
        fit=lambda model, data: model.fit(data[0].inputs, data[0].targets),
        measure=lambda model, data: model.bits(data[1].inputs, data[1].targets),
    )


@torch.no_grad()
def bits_by_place(learned: Learned, figure: Any) -> None:
    """What a character costs after so many read."""
    held = learned.data.held
    lost = torch.nn.functional.cross_entropy(learned.model(held.inputs).transpose(1, 2), held.targets, reduction="none")
    bits = (lost.mean(0) / math.log(2)).tolist()
    places = range(1, len(bits) + 1)
    curves(figure, {"bits per character": (places, bits)}, xlabel="characters read", ylabel="bits")


@torch.no_grad()
def error_by_length(learned: Learned, figure: Any) -> None:
    """The error on sequences of lengths that the network has not seen, beside that of who says the mean."""
    lengths = [10, 20, 40, 60, 80, 100, 150, 200]
    errors = []
    for length in lengths:
        x, y = generated.adding(length, 500, seed=2)
        errors.append(torch.nn.functional.mse_loss(learned.model(x), y).item())
    lines = {"the network": (lengths, errors), "the mean": (lengths, [1 / 6] * len(lengths))}
    curves(figure, lines, xlabel=f"length (trained at {ADDING})", ylabel="mean square error", yscale="log")


@torch.no_grad()
def accuracy_by_place(learned: Learned, figure: Any) -> None:
    """How sure one can be after so many places."""
    held = learned.data.held
    places = range(1, held.inputs.shape[1] + 1)
    hits = [(learned.model(held.inputs[:, :at]).argmax(1) == held.targets).float().mean().item() for at in places]
    curves(figure, {"accuracy": (places, hits)}, xlabel="places read", ylabel="accuracy")


def series(seed: int) -> Tensor:
    return generated.mackey_glass(6_000).unsqueeze(1)


def apart(model: ESN, data: Tensor) -> float:
    """How far off 84 steps later the series is that the network dreams, from ten places, in standard deviations."""
    ends = range(3_200, 5_200, 200)
    dreamt = torch.stack([model.generate(data[at - 1_000 : at], 84)[-1] for at in ends])
    return ((dreamt - torch.stack([data[at + 83] for at in ends])).square().mean().sqrt() / data.std()).item()


def dreamt_by_line(model: Any, data: Tensor) -> float:
    """The same of a model of 18 values in a row."""
    ends = range(3_200, 5_200, 200)
    errors = []
    for at in ends:
        window = data[at - 18 : at, 0].tolist()
        for _ in range(84):
            window.append(float(model.predict([window[-18:]])[0]))
        errors.append(window[-1] - data[at + 83].item())
    return (torch.tensor(errors).square().mean().sqrt() / data.std()).item()


def fit_line(model: Any, data: Tensor) -> None:
    windows, following = generated.forecast(data[:3_001], 18)
    model.fit(windows[:, :, 0].numpy(), following[:, 0].numpy())


def one_step(model: ESN, data: Tensor) -> float:
    """How far off the next of 1,000 values is, in standard deviations."""
    said = torch.from_numpy(model.predict(data[3_000:4_000]))[100:]
    return ((said - data[3_101:4_001]).square().mean().sqrt() / data.std()).item()


def reservoir(seed: int) -> ESN:
    return ESN(400, radius=1.1, leak=0.3, scale=1.0, penalty=1e-12, seed=seed)


def follow(model: ESN, data: Tensor) -> None:
    model.fit(data[:3_000], data[1:3_001])


def noise(seed: int) -> Tensor:
    """The series in another order of time: nothing of what comes next is left in what was."""
    values = series(seed)
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]


def dream(learned: Learned, figure: Any) -> None:
    """The series, what the network dreams, and ten of its states."""
    data, model = learned.data, learned.model
    left, right = figure.subplots(2, 1)
    left.plot(data[3_200:3_600], label="Mackey-Glass")
    left.plot(model.generate(data[2_200:3_200], 400), "--", label="dreamt from step 0 on")
    left.legend(frameon=False, ncols=2)
    right.plot(model.states(data[3_000:3_600])[200:, :10], linewidth=0.8)
    right.set(xlabel="step", ylabel="ten of the states")


GRU = Settings(network="gru", data="mnist1d", width=64, epochs=20, lr=5e-3)
CNN_GRU = Settings(network="cnn_gru", data="mnist1d", epochs=12, lr=5e-3)

RECIPES = (
    Recipe(
        name="rnn",
        network="RNN",
        paper="Elman 1990",
        problem="Python's documentation, the next character",
        trial=Trained(Settings(network="rnn", data="pydoc", context=TEXT, width=160, epochs=5, lr=5e-3, metric="bits")),
        metric=BITS,
        threshold=2.45,
        contrast=Contrast(f"adding over {ADDING} places", adding("rnn", ADDING), bound=0.1, metric=MSE),
        baseline=Baseline("bigram counts", bigram()),
        slow=True,
        picture=bits_by_place,
    ),
    Recipe(
        name="lstm",
        network="LSTM",
        paper="Hochreiter & Schmidhuber 1997",
        problem=f"adding two of {ADDING} numbers",
        trial=adding("lstm", ADDING, epochs=4),
        metric=MSE,
        threshold=2e-3,
        contrast=Contrast(
            "parity of 40 bits",
            Trained(Settings(network="lstm", width=32, epochs=4, lr=1e-2), data=parity),
            bound=0.6,
            metric=ACCURACY,
        ),
        baseline=Baseline(
            "ridge regression",
            Fitted(lambda seed: named("adding", ADDING), sklearn("linear_model.Ridge"), measure=squared_error),
        ),
        slow=True,
        picture=error_by_length,
    ),
    Recipe(
        name="gru",
        network="GRU",
        paper="Cho et al. 2014",
        problem="MNIST-1D, place by place",
        trial=Trained(GRU),
        metric=ACCURACY,
        threshold=0.92,
        contrast=Contrast(
            "a table, feature by feature: no gain",
            Trained(Settings(network="gru", width=32, epochs=15, lr=5e-3), data=features_in_turn),
            bound=0.95,
        ),
        baseline=Baseline("MLP", Trained(Settings(network="mlp", data="mnist1d", epochs=20))),
        slow=True,
        picture=accuracy_by_place,
    ),
    Recipe(
        name="esn",
        network="Echo state",
        paper="Jaeger 2001",
        problem="Mackey-Glass, 84 steps of a dream",
        trial=Fitted(series, reservoir, fit=follow, measure=apart),
        metric=NRMSE,
        threshold=0.01,
        contrast=Contrast(
            "the same values in no order", Fitted(noise, reservoir, fit=follow, measure=one_step), bound=0.9
        ),
        baseline=Baseline(
            "linear, 18 values", Fitted(series, sklearn("linear_model.LinearRegression"), fit_line, dreamt_by_line)
        ),
        picture=dream,
    ),
    Recipe(
        name="cnn-gru",
        network="Hybrid",
        paper="Choi et al. 2017",
        problem="MNIST-1D, by convolutions and then place by place",
        trial=Trained(CNN_GRU),
        metric=ACCURACY,
        threshold=0.93,
        contrast=Contrast("places permuted: neighbours say nothing", Trained(CNN_GRU, data=scattered), bound=0.75),
        baseline=Baseline("GRU alone, as many epochs", Trained(dataclasses.replace(GRU, epochs=CNN_GRU.epochs))),
        slow=True,
        picture=accuracy_by_place,
    ),
)
