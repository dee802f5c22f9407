"""What the trainer costs beside a bare loop: time per step, side by side.

    python benchmarks/trainer.py
    python benchmarks/trainer.py --network transformer --rounds 20 --json trainer.json

The bare loop is the least that trains the same network with the same optimiser: it takes batches out of tensors in
memory, computes the loss and its gradient, clips, and steps optimiser and learning rate. The trainer does what it
always does: loads through a DataLoader, looks at each loss, shows a progress bar and writes a line of its log every ten
steps. Both alternate in rounds; each side's time is that of its best ten steps. Evaluations and checkpoints are left
out: they are not part of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nnkernels.train import Data, Settings, Trainer
from nnkernels.train.data import Tensors
from nnkernels.train.datasets import named

Clock = Callable[[], float]
TOGETHER = 10
DATA = {"mlp": "digits", "cnn": "digits", "transformer": "pydoc"}


def first_samples(name: str, count: int) -> Data:
    """So many samples of a data set, in another order each time round where there are too few."""
    whole = named(name)
    assert isinstance(whole.train, Tensors) and isinstance(whole.held, Tensors)
    chosen = torch.arange(count) % len(whole.train)
    few = Tensors(whole.held.inputs[:8], whole.held.targets[:8])
    return Data(Tensors(whole.train.inputs[chosen], whole.train.targets[chosen]), few, whole.problem)


def bare(trainer: Trainer, clock: Clock) -> list[float]:
    """When each step ended of a bare loop over the trainer's data, with its network and optimiser."""
    model, optimizer, criterion = trainer.model.train(), trainer.optimizer, trainer.criterion
    data, batch_size = trainer.data.train, trainer.settings.batch_size
    assert isinstance(data, Tensors)
    batches = torch.randperm(len(data)).split(batch_size)
    times = []
    for chosen in batches:
        inputs, targets = data.inputs[chosen].to(trainer.device), data.targets[chosen].to(trainer.device)
        loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.settings.clip or 1.0)
        optimizer.step()
        trainer.schedule.step()
        if len(times) % TOGETHER == 0:
            loss.item()
        times.append(clock())
    return times


def whole(trainer: Trainer, clock: Clock) -> list[float]:
    """When each step ended of the trainer's own loop."""
    times: list[float] = []
    advance = trainer.advance

    def noting() -> bool:
        times.append(clock())
        return advance()

    trainer.advance = noting  # type: ignore[method-assign]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        trainer.run()
    return times


def best_step(times: list[float]) -> float:
    """Seconds of one step, in the fastest stretch of ten."""
    return min(later - earlier for earlier, later in zip(times, times[TOGETHER:], strict=False)) / TOGETHER


def compare(network: str, batch_size: int, steps: int, rounds: int, device: str, clock: Clock) -> dict:
    data = first_samples(DATA[network], steps * batch_size)
    best = {"bare": float("inf"), "trainer": float("inf")}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for side, timed in (("bare", bare), ("trainer", whole)):
                settings = Settings(
                    network=network, batch_size=batch_size, epochs=1, tensorboard=False, picture=False, device=device,
                    out=Path(folder) / f"{side}-{turn}",
                )  # fmt: skip
                best[side] = min(best[side], best_step(timed(Trainer(settings, data), clock)))
    return {"network": network, "batch_size": batch_size, **best, "overhead": best["trainer"] / best["bare"] - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=DATA, default=["cnn", "transformer"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40, help="of each round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true", help="count this process's alone, on a busy machine")
    parser.add_argument("--json", type=Path, help="also write the results there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.processor_time else time.perf_counter
    results = []
    print(f"{'network':12} {'batch':>5} {'bare':>10} {'trainer':>10} {'overhead':>9}")
    for network in args.network:
        one = compare(network, args.batch_size, args.steps, args.rounds, args.device, clock)
        results.append(one)
        times = " ".join(f"{one[side] * 1e3:>7.3f} ms" for side in ("bare", "trainer"))
        print(f"{network:12} {args.batch_size:>5} {times} {one['overhead']:>9.2%}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
