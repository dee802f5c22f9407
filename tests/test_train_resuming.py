"""A run that was broken off goes on bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")

from nnkernels.train import Evaluation, Settings, Trainer
from nnkernels.train.report import read_log


def settings(out: Path, **more) -> Settings:
    quiet = {"progress": False, "tensorboard": False, "log_every": 1}
    small = {"data": "iris", "width": 8, "dropout": 0.1, "batch_size": 32, "epochs": 3, "schedule": "one_cycle"}
    return Settings(out=out, **{**quiet, **small, **more})


def history(folder: Path) -> list[tuple]:
    """All of the log that does not depend on time."""
    return [
        (line.step, line.epoch, line.loss, line.lr, line.held_loss, line.metric)
        for line in read_log(folder / "log.csv")
    ]


class Broken(Exception):
    pass


def broken_off(at: int):
    """Breaks a run off after its evaluation at step `at`."""

    def watch(evaluation: Evaluation) -> None:
        if evaluation.step == at:
            raise Broken

    return watch


@pytest.mark.parametrize("ema, schedule", [(None, "cosine"), (0.9, "plateau"), (0.9, "one_cycle")])
def test_a_run_goes_on_in_the_middle_of_an_epoch_bit_for_bit(tmp_path, ema, schedule):
    told = {"ema": ema, "schedule": schedule, "evaluate_every": 3}
    whole = Trainer(settings(tmp_path / "whole", **told))
    whole.run()
    with pytest.raises(Broken):
        Trainer(settings(tmp_path / "broken", **told), watch=broken_off(6)).run()
    assert history(tmp_path / "broken") == history(tmp_path / "whole")[: len(history(tmp_path / "broken"))]
    again = Trainer(settings(tmp_path / "broken", resume=True, **told))
    assert again.run().steps == whole.progress.step
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert dataclasses.asdict(again.progress) == dataclasses.asdict(whole.progress)
