"""A run's folder: one process at a time, and nothing in it is touched that a run did not write."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import training
from launching import server, together
from training import Broken, broken_off, history, settings

from nnkernels.cli import main
from nnkernels.train import InUse, Trainer
from nnkernels.train.folder import LOCK, taken
from nnkernels.train.locking import locked

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")
pytest.importorskip("fcntl")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_is_not_joined_by_another_and_loses_nothing_by_the_attempt(tmp_path, resume):
    def watch(evaluation):
        with pytest.raises(InUse, match=str(os.getpid())):
            Trainer(settings(tmp_path / "run", resume=resume)).run()

    Trainer(settings(tmp_path / "run", dropout=0.0), watch=watch).run()
    Trainer(settings(tmp_path / "alone", dropout=0.0)).run()
    assert history(tmp_path / "run") == history(tmp_path / "alone")


def test_a_process_that_was_killed_holds_no_lock(tmp_path):
    process = server().Process(target=training.train_long, args=(tmp_path / "run",))
    process.start()
    while not (tmp_path / "run" / "checkpoints").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(InUse, match=str(process.pid)):
        Trainer(settings(tmp_path / "run", resume=True, **training.LONG)).run()
    process.kill()
    process.join()
    assert Trainer(settings(tmp_path / "run", resume=True, **training.LONG)).run().steps == 120


def test_a_child_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path):
    waiting, going = os.pipe()
    listening, telling = os.pipe()
    parent = os.fork()
    if parent == 0:
        with locked(tmp_path / "lock", "it"):
            if os.fork() == 0:
                os.close(going)
                os.write(telling, b".")
                os.read(waiting, 1)  # until the test closes its end
                os._exit(0)
            time.sleep(100)
    try:
        os.read(listening, 1)
        with pytest.raises(InUse, match=str(parent)), locked(tmp_path / "lock", "it"):
            pass
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with locked(tmp_path / "lock", "it"):
            pass
    finally:
        for handle in (waiting, going, listening, telling):
            os.close(handle)


def joined(folder: Path) -> str:
    try:
        Trainer(settings(folder, device="cpu", epochs=1)).run()
    except InUse as error:
        return str(error)
    return "trained"


def test_of_several_processes_of_a_run_one_locks_for_all(tmp_path):
    assert together(2, joined, tmp_path / "run") == ["trained", "trained"]
    with taken(tmp_path / "other"):
        answers = together(2, joined, tmp_path / "other")
    assert all(str(os.getpid()) in answer for answer in answers)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_without_a_run_is_left_as_it_is(tmp_path, resume):
    for name in ("settings.yaml", "log.csv", "curves.png", ".notes.tmp"):
        (tmp_path / name).write_text(name)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        Trainer(settings(tmp_path, resume=resume)).run()
    assert contents(tmp_path) == before


def test_of_hidden_files_only_a_runs_own_are_removed(tmp_path):
    with pytest.raises(Broken):
        Trainer(settings(tmp_path / "run"), watch=broken_off(4)).run()
    own = {".log.csv.12.tmp", ".curves.png.3fab.tmp", "checkpoints/.step-00000004-00000000.pt.77.tmp"}
    foreign = {".notes.tmp", ".my.csv.12.tmp", "checkpoints/.mine.tmp", "checkpoints/notes.pt"}
    for name in own | foreign:
        (tmp_path / "run" / name).write_text("")
    assert Trainer(settings(tmp_path / "run", resume=True)).run().steps == 12
    assert {name for name in own | foreign if (tmp_path / "run" / name).exists()} == foreign


def test_a_run_that_never_came_to_a_checkpoint_begins_again(tmp_path):
    for resume in (False, True):
        folder = tmp_path / str(resume)
        with taken(folder):
            settings(folder).save(folder / "settings.yaml")
        assert Trainer(settings(folder, resume=resume)).run().steps == 12


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    with pytest.raises(Broken):
        Trainer(settings(tmp_path / "run"), watch=broken_off(4)).run()
    (tmp_path / "run" / LOCK).unlink()  # which it did not write
    assert Trainer(settings(tmp_path / "run", resume=True)).run().began == 4


def test_runs_without_a_folder_get_one_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = (Trainer(settings(None, dropout=0.0)) for _ in range(2))
    assert one.folder == other.folder and not one.folder.exists()
    assert {one.run().folder, other.run().folder} == {Path("runs/iris-mlp-1"), Path("runs/iris-mlp-2")}
    assert history(Path("runs/iris-mlp-1")) == history(Path("runs/iris-mlp-2"))


def test_a_mistyped_folder_is_not_resumed_and_the_nearest_is_named(tmp_path, capsys):
    pytest.importorskip("tyro")
    Trainer(settings(tmp_path / "iris-mlp-1")).run()
    assert main(["train", "--resume", "--out", str(tmp_path / "iris-mpl-1")]) == 2
    assert str(tmp_path / "iris-mlp-1") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["iris-mlp-1"]
