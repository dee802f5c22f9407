"""Tiny runs that the trainer's tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from nnkernels.train import Evaluation, Settings, Trainer
from nnkernels.train.report import read_log


def settings(out: Path, **more) -> Settings:
    """A run of 12 steps on iris in three epochs, silent."""
    quiet = {"progress": False, "tensorboard": False, "picture": False, "log_every": 1}
    small = {"data": "iris", "width": 8, "dropout": 0.1, "batch_size": 32, "epochs": 3}
    return Settings(out=out, **{**quiet, **small, **more})


def history(folder: Path) -> list[tuple]:
    """All of the log that does not depend on time."""
    lines = read_log(folder / "log.csv")
    return [(line.step, line.epoch, line.loss, line.lr, line.held_loss, line.metric) for line in lines]


class Broken(Exception):
    pass


def broken_off(at: int):
    """Breaks a run off after its evaluation at step `at`."""

    def watch(evaluation: Evaluation) -> None:
        if evaluation.step == at:
            raise Broken

    return watch


LONG = {"epochs": 10, "batch_size": 10, "save_every": 3}
"""120 steps with 40 checkpoints and more."""


def train_long(folder: Path) -> None:
    """In a process of its own, which may be killed; goes on where an earlier one was."""
    torch.set_num_threads(1)
    result = Trainer(settings(folder, resume=True, **LONG)).run()
    (folder / "ended").write_text(str(result.stopped))


def train_until_killed_at(folder: Path, call: int) -> None:
    """Kills itself at the `call`-th of the system calls that make a checkpoint safe."""
    calls = 0

    def killing(inner):
        def wrapped(*args, **options):
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(*args, **options)

        return wrapped

    for name in ("fsync", "replace", "link", "unlink"):
        setattr(os, name, killing(getattr(os, name)))
    torch.set_num_threads(1)
    Trainer(settings(folder, resume=True)).run()
