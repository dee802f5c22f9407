"""A run that was broken off, in whatever way, goes on bit for bit."""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training
from training import Broken, broken_off, history, settings

from nnkernels.train import Trainer

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that start in no time: forked from one that has imported all and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training", "torchmetrics.classification", "sklearn.datasets", "torch._dynamo"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server knows nothing of ours
        forkserver.ensure_running()
    return context


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, processes) -> Path:
    """The folder of a long run that nothing broke off."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    process = processes.Process(target=training.train_long, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return folder


@pytest.mark.parametrize(
    "ema, schedule, workers", [(None, "cosine", 0), (0.9, "plateau", 0), (0.9, "one_cycle", 2)], ids=str
)
def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path, ema, schedule, workers):
    told = {"ema": ema, "schedule": schedule, "evaluate_every": 3}
    whole = Trainer(settings(tmp_path / "whole", **told))
    whole.run()
    with pytest.raises(Broken):
        Trainer(settings(tmp_path / "broken", **told), watch=broken_off(6)).run()
    before = history(tmp_path / "broken")
    assert before == history(tmp_path / "whole")[: len(before)]
    again = Trainer(settings(tmp_path / "broken", resume=True, workers=workers, **told))
    assert again.run().steps == whole.progress.step
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert dataclasses.asdict(again.progress) == dataclasses.asdict(whole.progress)


def test_ten_kills_at_random_moments_lose_nothing(tmp_path, processes, unbroken):
    moments = random.Random(0)
    kills = runs = 0
    while kills < 10:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        while not (folder / "ended").exists():
            process = processes.Process(target=training.train_long, args=(folder,))
            process.start()
            while process.is_alive() and not (folder / "log.csv").exists():
                time.sleep(0.005)
            process.join(moments.uniform(0, 0.4) if kills < 10 else None)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
            else:
                assert process.exitcode == 0
        assert history(folder) == history(unbroken)


@pytest.mark.parametrize("call", range(1, 16, 2))
def test_a_kill_at_any_moment_of_a_checkpoint_leaves_whole_ones(tmp_path, processes, call):
    Trainer(settings(tmp_path / "whole")).run()
    process = processes.Process(target=training.train_until_killed_at, args=(tmp_path / "killed", call))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    Trainer(settings(tmp_path / "killed", resume=True)).run()
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(tmp_path, processes, unbroken, number):
    process = processes.Process(target=training.train_long, args=(tmp_path / "run",))
    process.start()
    while not (tmp_path / "run" / "checkpoints").exists():
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 0 and (tmp_path / "run" / "ended").read_text() == number.name
    assert len(history(tmp_path / "run")) < len(history(unbroken))
    resumed = Trainer(settings(tmp_path / "run", resume=True, **training.LONG))
    assert resumed.run().stopped is None
    assert history(tmp_path / "run") == history(unbroken)


def test_a_truncated_checkpoint_is_passed_over(tmp_path, capsys):
    Trainer(settings(tmp_path / "whole")).run()
    with pytest.raises(Broken):
        Trainer(settings(tmp_path / "run"), watch=broken_off(8)).run()
    newest, before, *_ = Trainer(settings(tmp_path / "run")).checkpoints.found()
    os.truncate(newest, newest.stat().st_size // 2)
    Trainer(settings(tmp_path / "run", resume=True)).run()
    told = capsys.readouterr().err
    assert newest.name in told and "damaged" in told and before.name not in told
    assert history(tmp_path / "run") == history(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_whole_checkpoints(tmp_path, small_disk):
    Trainer(settings(tmp_path / "whole")).run()
    told: dict = {"out": small_disk / "run"}
    filler = small_disk / "filler"

    def fill(evaluation) -> None:
        if evaluation.step == 4:
            with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))

    with pytest.raises(OSError):
        Trainer(settings(**told), watch=fill).run()
    assert not list((small_disk / "run" / "checkpoints").glob(".*"))
    filler.unlink()
    Trainer(settings(resume=True, **told)).run()
    assert history(small_disk / "run") == history(tmp_path / "whole")


def test_a_file_that_may_not_grow_leaves_whole_checkpoints(tmp_path):
    Trainer(settings(tmp_path / "whole")).run()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def forbid(evaluation) -> None:
        if evaluation.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))

    try:
        with pytest.raises(OSError, match="resume"):
            Trainer(settings(tmp_path / "run"), watch=forbid).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    Trainer(settings(tmp_path / "run", resume=True)).run()
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_a_run_is_not_written_over_and_not_resumed_with_other_settings(tmp_path):
    Trainer(settings(tmp_path / "run")).run()
    with pytest.raises(FileExistsError, match="resume"):
        Trainer(settings(tmp_path / "run")).run()
    for changed in ({"batch_size": 16}, {"seed": 3}):
        with pytest.raises(RuntimeError, match=next(iter(changed))):
            Trainer(settings(tmp_path / "run", resume=True, **changed)).run()


def test_more_epochs_may_follow(tmp_path):
    told: dict = {"out": tmp_path / "run", "schedule": "constant"}
    Trainer(settings(**told)).run()
    assert Trainer(settings(**told, resume=True)).run().steps == 12  # nothing is left to do
    assert Trainer(settings(**{**told, "epochs": 5}, resume=True)).run().steps == 20
    Trainer(settings(tmp_path / "whole", schedule="constant", epochs=5)).run()
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_resuming_where_there_is_nothing_begins(tmp_path):
    assert Trainer(settings(tmp_path / "run", resume=True)).run().steps == 12
