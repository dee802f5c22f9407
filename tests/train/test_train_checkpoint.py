"""Checkpoints: whole or not at all, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from training import settings

from nnkernels.train import Trainer
from nnkernels.train.checkpoint import CheckpointError, Checkpoints, check_tensors, read, write_whole


def state(value: float) -> dict:
    return {"model": {"weight": torch.full((3,), value)}, "progress": {"step": int(value)}}


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(step, state(step), best=step == 2)
    assert [read(path)["progress"]["step"] for path in checkpoints.found()] == [5, 4]
    path, best = checkpoints.newest(kind="best")
    assert path.name.startswith("best-") and best["model"]["weight"].tolist() == [2, 2, 2]
    assert len(list(tmp_path.iterdir())) == 3
    assert torch.load(path, weights_only=True)["progress"] == {"step": 2}  # a plain torch.save file


def test_a_write_that_fails_leaves_all_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"before")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:

            def failing(*args):
                raise OSError(28, "No space left on device")

            patch.setattr(os, name, failing)
            with pytest.raises(OSError):
                write_whole(path, b"after")
        assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["truncated", "a byte changed", "empty"])
def test_a_damaged_checkpoint_is_known_and_the_one_before_serves(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    path = checkpoints.save(2, state(2))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"truncated": content[: len(content) // 2], "a byte changed": content, "empty": b""}
    path.write_bytes(damaged[damage])
    told: list[str] = []
    found, older = checkpoints.newest(tell=told.append)
    assert older["progress"] == {"step": 1} and found != path
    assert len(told) == 1 and path.name in told[0]
    found.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none"):
        checkpoints.newest(tell=told.append)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_newest_checkpoint_does_not_cost_the_later_ones(tmp_path, keep):
    Checkpoints(tmp_path, keep).save(5, state(5), best=True)
    damaged = Checkpoints(tmp_path, keep).save(10, state(10))
    damaged.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, keep)
    assert checkpoints.newest(tell=str)[1]["progress"] == {"step": 5}
    for step in (6, 7, 8):
        path = checkpoints.save(step, state(step))
        assert path.exists() and Checkpoints(tmp_path).newest(tell=str)[0] == path
    for step in (10, 11, 12):  # it comes by the damaged one
        checkpoints.save(step, state(step))
    whole = [read(one)["progress"]["step"] for one in checkpoints.found()]
    assert whole == [12, 11][:keep] and not damaged.exists()


def test_steps_are_ordered_as_numbers(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (99_999_999, 100_000_000):
        path = checkpoints.save(step, state(step))
    assert checkpoints.found() == [path] and checkpoints.newest()[0] == path


def test_a_damaged_best_is_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    best = checkpoints.save(1, state(1), best=True)
    checkpoints.save(2, state(2))
    best.write_bytes(b"")  # and with it its second name
    assert checkpoints.newest(tell=str, kind="best")[1]["progress"] == {"step": 2}


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "legacy torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_nothing_executed(tmp_path, form):
    path, trap = tmp_path / "checkpoint.pt", tmp_path / "executed"
    harmful = {"format": 1, "model": Malicious(trap)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(harmful))
    else:
        torch.save(harmful, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(CheckpointError, match="nothing in it was executed") as said:
        read(path)
    assert not trap.exists()
    assert str(path) in str(said.value) and "weights_only" not in str(said.value) and "\n" not in str(said.value)


@pytest.mark.parametrize("saved", [{"0.weight": 3}, {"0.weight": "text", "0.bias": None}, {1: torch.ones(1)}], ids=str)
def test_something_else_in_the_place_of_weights_is_named(tmp_path, saved):
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        check_tensors(tmp_path, saved, torch.nn.Sequential(torch.nn.Linear(4, 8)))


@pytest.mark.parametrize(
    "spoil, said",
    [
        *[(lambda state, name=name: state.pop(name), name) for name in ("settings", "model", "optimizer", "random")],
        (lambda state: state.update(model=[1, 2]), "model.*list"),
        (lambda state: state["progress"].pop("step"), "step"),
        (lambda state: state["optimizer"].pop("param_groups"), "param_groups"),
        (lambda state: state["optimizer"]["param_groups"].pop(), "group"),
        (lambda state: state["settings"].pop("data"), "data"),
        (lambda state: state["random"].clear(), "index"),
        (lambda state: state["random"][0].pop("numpy"), "numpy"),
    ],
)
def test_an_incomplete_checkpoint_is_not_gone_on_from_and_says_what_it_lacks(tmp_path, spoil, said):
    pytest.importorskip("torchmetrics")
    pytest.importorskip("sklearn")
    out = tmp_path / "run"
    Trainer(settings(out, epochs=1)).run()
    path, saved = Checkpoints(out / "checkpoints").newest()
    spoil(saved)
    path.unlink()
    Checkpoints(out / "checkpoints").save(saved.get("progress", {}).get("step", 4) + 1, saved)
    with pytest.raises(CheckpointError, match=rf"{out}/checkpoints/step.*{said}"):
        Trainer(settings(out, epochs=2, resume=True)).run()


def test_a_checkpoint_of_another_network_names_the_first_tensor(tmp_path):
    saved = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)).state_dict()
    check_tensors(tmp_path, saved, torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)))
    with pytest.raises(CheckpointError, match=r"1\.weight.*\(3, 8\).*\(5, 8\)"):
        check_tensors(tmp_path, saved, torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 5)))
    with pytest.raises(CheckpointError, match=r"1\.weight.*nothing"):
        check_tensors(tmp_path, saved, torch.nn.Sequential(torch.nn.Linear(4, 8)))


def test_something_else_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path / "missing.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read(tmp_path / "other.pt")
    assert Checkpoints(tmp_path / "nowhere").newest() is None
