"""Whole networks with the family's activations against the same with torch's: time per training step, peak memory.

    python benchmarks/networks.py                          # the GPU where there is one, in bfloat16
    python benchmarks/networks.py --device cpu --small     # shapes that a CPU gets through

Both sides train with the trainer's step on one batch that lies on the device. They alternate in rounds, and each side's
time is its best round. Peak memory is what a step takes beside weights and the optimiser's state. Before anything is
timed, both give the same loss for the same weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import nnkernels
from nnkernels.networks.activating import constants
from nnkernels.train import Data, Problem, Settings, Trainer
from nnkernels.train.data import Tensors

CASES = [
    ("cnn", "mish", {"width": 64, "depth": 3, "batch_size": 512}),
    ("cnn", "relu", {"width": 64, "depth": 3, "batch_size": 512}),
    ("cnn", "gelu", {"width": 64, "depth": 3, "batch_size": 512}),
    ("transformer", "silu", {"width": 512, "depth": 6, "context": 256, "batch_size": 64}),
    ("transformer", "gelu", {"width": 512, "depth": 6, "context": 256, "batch_size": 64}),
]
SMALL = {
    "cnn": {"width": 16, "depth": 2, "batch_size": 64},
    "transformer": {"width": 64, "context": 64, "batch_size": 8},
}
CHARACTERS = tuple(map(chr, range(100)))
STEPS = 5


class Halves(torch.nn.Module):
    """The gate as one writes it with torch's activation."""

    def __init__(self, activation: torch.nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return self.activation(gate) * up


def with_torch(model: torch.nn.Module) -> None:
    """Puts torch's activation in the place of each of ours."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nnkernels.nn.Gated):
                row = nnkernels.activation(child.activation)
                setattr(module, name, Halves(getattr(torch.nn, row.module)(**constants(row.name))))
            elif type(child).__module__.startswith("nnkernels.nn"):
                setattr(module, name, getattr(torch.nn, type(child).__name__)())


def trainer(network: str, activation: str, device: str, precision: str, folder: Path, options: dict) -> Trainer:
    """A trainer whose data is one batch of random pictures or texts."""
    size, context = options["batch_size"], options.get("context", 0)
    generator = torch.Generator().manual_seed(0)
    if network == "cnn":
        problem = Problem("classes", (3, 32, 32), 10)
        inputs, targets = torch.randn(size, 3, 32, 32, generator=generator), torch.arange(size) % 10
    else:
        problem = Problem("characters", (context,), len(CHARACTERS), CHARACTERS)
        inputs = torch.randint(len(CHARACTERS), (size, context), generator=generator)
        targets = inputs.roll(-1, 1)
    batch = Tensors(inputs.to(device), targets.to(device))
    settings = Settings(
        network=network, activation=activation, out=folder, device=device, precision=precision, lr=1e-4, **options
    )
    return Trainer(settings, Data(batch, batch, problem))


def stretch(one: Trainer) -> float:
    """Milliseconds of one step."""
    batch = one.data.train
    assert isinstance(batch, Tensors)
    synchronize = torch.cuda.synchronize if one.device.type == "cuda" else lambda: None
    synchronize()
    began = time.perf_counter()
    for _ in range(STEPS):
        one.step(batch.inputs, batch.targets)
    synchronize()
    return (time.perf_counter() - began) / STEPS * 1e3


def peak(one: Trainer) -> float:
    """MiB that a step takes beside what stays; NaN where it cannot be asked."""
    if one.device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats()
    one.optimizer.zero_grad()
    held = torch.cuda.memory_allocated()
    stretch(one)
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def compare(network: str, activation: str, device: str, precision: str, rounds: int, options: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            side: trainer(network, activation, device, precision, Path(folder) / side, options)
            for side in ("ours", "torch")
        }
    with_torch(sides["torch"].model)
    losses = []
    for one in sides.values():
        one.model.train()
        losses.append(one.step(one.data.train.inputs, one.data.train.targets))  # type: ignore[attr-defined]
    if abs(losses[0] - losses[1]) > 1e-2 * abs(losses[1]):
        raise AssertionError(f"{network} with {activation}: the first losses are {losses[0]} and {losses[1]}")
    times = {side: float("inf") for side in sides}
    for _ in range(rounds):
        for side, one in sides.items():
            times[side] = min(times[side], stretch(one))
    memory = {side: peak(one) for side, one in sides.items()}
    return {"network": network, "activation": activation, "milliseconds": times, "mebibytes": memory}


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--precision", default="bf16" if cuda else "float32")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="shapes for a CPU")
    parser.add_argument("--json", type=Path, help="also write the results there")
    args = parser.parse_args()
    results = []
    print(f"{'network':12} {'activation':10} {'ours':>11} {'torch':>11} {'ratio':>6} {'ours':>10} {'torch':>10}")
    for network, activation, options in CASES:
        chosen = SMALL[network] if args.small else options
        one = compare(network, activation, args.device, args.precision, args.rounds, chosen)
        results.append(one)
        ours, theirs = one["milliseconds"].values()
        memory = " ".join(f"{value:>6.0f} MiB" for value in one["mebibytes"].values())
        print(
            f"{network:12} {activation:10} {ours:>8.2f} ms {theirs:>8.2f} ms {theirs / ours:>6.2f} {memory}", flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
