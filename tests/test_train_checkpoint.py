"""Checkpoints: whole or not at all, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

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
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        read(path)
    assert not trap.exists()


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
