"""`nnkernels demo`: the same small network trained twice on real digits, with torch's Mish and with ours; then the
family timed on this machine, and a picture of both."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import nn
from ..benchmark import Comparison
from ..cli import missing
from .bench import table

LEAST_ACCURACY = 0.97
SEED = 0


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, a fifth of them held out."""

    train_x: Tensor
    train_y: Tensor
    held_x: Tensor
    held_y: Tensor


@dataclass(frozen=True)
class Run:
    losses: list[float]
    accuracy: float


def load_digits() -> Digits:
    from sklearn.datasets import load_digits as load

    pixels, labels = load(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).div(16).view(-1, 1, 8, 8)
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))
    held, train = order[: len(x) // 5], order[len(x) // 5 :]
    return Digits(x[train], y[train], x[held], y[held])


def network(activation: type[torch.nn.Module]) -> torch.nn.Module:
    """Two convolutions and two linear layers, about 38,000 weights, the same for the same seed."""
    torch.manual_seed(SEED)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        activation(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        activation(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 64),
        activation(),
        torch.nn.Linear(64, 10),
    )


def train(digits: Digits, activation: type[torch.nn.Module], epochs: int, label: str) -> Run:
    from tqdm import tqdm

    model = network(activation)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(SEED)
    losses: list[float] = []
    with tqdm(total=epochs * -(-len(digits.train_x) // 64), desc=label, unit="step", file=sys.stderr) as bar:
        for _ in range(epochs):
            for batch in torch.randperm(len(digits.train_x), generator=generator).split(64):
                loss = torch.nn.functional.cross_entropy(model(digits.train_x[batch]), digits.train_y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
    with torch.no_grad():
        hits = (model(digits.held_x).argmax(1) == digits.held_y).float().mean().item()
    return Run(losses, hits)


def smooth(losses: list[float], window: int = 9) -> Tensor:
    """The running mean, which is what two loss curves are compared by."""
    return torch.tensor(losses, dtype=torch.float64).unfold(0, window, 1).mean(-1)


def draw(path: Path, theirs: Run, mine: Run, timed: list[Comparison]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 8), width_ratios=(1, 1.25), layout="constrained")
    figure.suptitle("nnkernels: the same network, and the family on this machine", fontsize=15)
    left.plot(
        smooth(theirs.losses), color="#c44e52", linewidth=5, alpha=0.45, label=f"torch.nn.Mish, {theirs.accuracy:.1%}"
    )
    left.plot(smooth(mine.losses), color="#1f3b73", linewidth=1.3, label=f"nnkernels.nn.Mish, {mine.accuracy:.1%}")
    left.set(
        yscale="log", xlabel="step", ylabel="training loss, mean of 9 steps", title="Digits: loss, held-out accuracy"
    )
    left.legend(frameon=False)

    names = [c.name for c in timed][::-1]
    at = torch.arange(len(names)).double()
    for offset, way, colour in ((0.2, "forward", "#4c72b0"), (-0.2, "backward", "#dd8452")):
        gains = [getattr(c, f"{way}_ratio") - 1 for c in timed][::-1]
        right.barh((at + offset).tolist(), gains, left=1, height=0.38, color=colour, label=way)
    right.axvline(1, color="black", linewidth=1)
    right.set(xscale="log", xlabel="times as fast as torch, float32, one thread, 2^17 elements", title="Speed")
    right.set_yticks(at.tolist(), names, fontsize=9)
    right.set_ylim(-0.7, len(names) - 0.3)
    ticks = [0.5, 1, 2, 4, 8, 16, 32]
    right.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    right.minorticks_off()
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(args: argparse.Namespace) -> int:
    if (name := missing("matplotlib", "sklearn", "tqdm")) is not None:
        print(f"nnkernels demo needs {name}; run: pip install scikit-learn matplotlib tqdm", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    theirs = train(digits, torch.nn.Mish, args.epochs, "torch.nn.Mish    ")
    mine = train(digits, nn.Mish, args.epochs, "nnkernels.nn.Mish")
    apart = ((smooth(theirs.losses) - smooth(mine.losses)).abs() / smooth(theirs.losses)).max().item()
    early = abs(theirs.losses[20] - mine.losses[20]) / theirs.losses[20] if len(mine.losses) > 20 else 0.0
    print(f"held-out accuracy: torch {theirs.accuracy:.2%}, nnkernels {mine.accuracy:.2%}")
    print(f"losses differ by {early:.1e} after 20 steps, smoothed by at most {apart:.1%} over all {len(mine.losses)}\n")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    timed = list(table(["float32"], 2**17, "cpu"))
    torch.set_num_threads(threads)
    picture = args.out / "demo.png"
    draw(picture, theirs, mine, timed)
    print(f"\npicture: {picture}")
    good = min(theirs.accuracy, mine.accuracy) >= LEAST_ACCURACY and all(c.accuracy.ok for c in timed)
    return int(not good)
