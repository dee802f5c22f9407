"""The same settings give the same losses however many processes share the work, and a run outlives any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")

from launching import together

from nnkernels.train import Settings, Trainer
from nnkernels.train.report import read_log

WAYS = {
    "ddp-2": (2, {}),
    "ddp-4": (4, {}),
    "fsdp-2": (2, {"shard": "fsdp"}),
    "split-2": (2, {"tensor_parallel": 2}),
    "ddp-split-4": (4, {"tensor_parallel": 2}),
    "fsdp-split-4": (4, {"tensor_parallel": 2, "shard": "fsdp"}),
}


def settings(out: Path, **more) -> Settings:
    quiet = {"progress": False, "tensorboard": False, "log_every": 1, "device": "cpu", "precision": "float64"}
    small = {"data": "wine", "width": 8, "activation": "swiglu", "batch_size": 47, "epochs": 2, "ema": 0.5, "clip": 0.5}
    plain = {"optimizer": "sgd", "lr": 0.05, "optimizer_arguments": {"momentum": 0.9}, "schedule": "constant"}
    return Settings(out=out, **{**quiet, **small, **plain, **more})


def train(told: Settings) -> None:
    trainer = Trainer(told)
    trainer.run()
    trainer.processes.close()


def losses(folder: Path) -> list[float]:
    return [
        value
        for line in read_log(folder / "log.csv")
        for value in (line.loss, line.held_loss, line.metric)
        if value is not None
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A run in one process. Its last batch has 2 samples of 143, so that of four processes two have none."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    Trainer(settings(folder)).run()
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_losses_do_not_depend_on_the_number_of_processes(tmp_path, alone, way):
    size, more = WAYS[way]
    together(size, train, settings(tmp_path / "run", **more))
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=1e-6)
