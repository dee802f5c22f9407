"""The same settings give the same losses however many processes share the work, and a run outlives any of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")

from launching import DEVICES, together

from nnkernels.networks import CNN, MLP
from nnkernels.train import Checkpoints, Processes, Settings, Trainer
from nnkernels.train.batches import Order
from nnkernels.train.parallel import split
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


class Broken(Exception):
    pass


def train_in_part(told: Settings) -> None:
    """Breaks off after the first evaluation."""

    def watch(evaluation) -> None:
        raise Broken

    trainer = Trainer(told, watch=watch)
    with pytest.raises(Broken):
        trainer.run()
    trainer.processes.close()


def losses(folder: Path) -> list[float]:
    lines = read_log(folder / "log.csv")
    return [one for line in lines for one in (line.loss, line.held_loss, line.metric) if one is not None]


def last_state(folder: Path) -> dict:
    return Checkpoints(folder / "checkpoints").newest()[1]


@pytest.fixture(scope="module", params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def alone(tmp_path_factory, device) -> Path:
    """A run in one process. Its last batch has 2 samples of 143, so that of four processes two have none."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    Trainer(settings(folder, device=device)).run()
    return folder


def need(size: int, device: str) -> None:
    if device == "cuda" and torch.cuda.device_count() < size:
        pytest.skip(f"needs {size} GPUs")


def assert_alike(folder: Path, alone: Path) -> None:
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-6)
    mine, theirs = last_state(folder), last_state(alone)
    for part in ("model", "average"):
        torch.testing.assert_close(mine[part], theirs[part])
    torch.testing.assert_close(mine["optimizer"]["state"], theirs["optimizer"]["state"])
    assert mine["optimizer"]["param_groups"][0]["params"] == theirs["optimizer"]["param_groups"][0]["params"]


@pytest.mark.parametrize("way", WAYS)
def test_losses_and_checkpoints_do_not_depend_on_the_number_of_processes(tmp_path, alone, device, way):
    size, more = WAYS[way]
    need(size, device)
    together(size, train, settings(tmp_path / "run", device=device, **more))
    assert_alike(tmp_path / "run", alone)


@pytest.mark.parametrize("before, after", [("fsdp-2", "ddp-split-4"), ("fsdp-2", None), ("split-2", None)])
def test_a_run_goes_on_in_another_number_of_processes(tmp_path, alone, device, before, after):
    folder = tmp_path / "run"
    size, more = WAYS[before]
    need(max(size, 1 if after is None else WAYS[after][0]), device)
    together(size, train_in_part, settings(folder, device=device, **more))
    assert len(losses(folder)) < len(losses(alone))
    if after is None:
        Trainer(settings(folder, device=device, resume=True)).run()
    else:
        size, more = WAYS[after]
        together(size, train, settings(folder, device=device, resume=True, **more))
    assert_alike(folder, alone)


def test_a_worker_that_is_killed_is_restarted_and_the_run_goes_on(tmp_path, device):
    pytest.importorskip("tyro")
    told = {"data": "digits", "epochs": 8, "batch_size": 128, "save_every": 4, "evaluate_every": 100, "ema": None}
    told |= {"device": device}
    folder = tmp_path / "killed"
    options = settings(folder, **told)
    config = tmp_path / "config.yaml"
    options.save(config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["-m", "nnkernels", "train", "--config", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NCCL_NVLS_ENABLE": "0"}
    torchrun = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    try:
        killed = False
        while torchrun.poll() is None and not killed:
            time.sleep(0.01)
            if Checkpoints(folder / "checkpoints").found() and len(read_log(folder / "log.csv")) > 10:
                before = (folder / "log.csv").read_text().splitlines()[1]
                children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
                workers = [
                    one for one in map(int, children) if b"nnkernels" in Path(f"/proc/{one}/cmdline").read_bytes()
                ]
                os.kill(workers[-1], signal.SIGKILL)
                killed = True
        text = torchrun.communicate(timeout=240)[1]
    finally:
        torchrun.kill()
    assert killed and torchrun.returncode == 0, text
    assert (folder / "log.csv").read_text().splitlines()[1] == before  # it did not begin again
    together(2, train, settings(tmp_path / "whole", **told))
    assert losses(folder) == losses(tmp_path / "whole")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_each_sample_is_seen_once_an_epoch_in_the_same_batches(size):
    batches: list[list[int]] = [[] for _ in range(4)]
    for rank in range(size):
        one = Processes("cpu")
        one.rank, one.size = rank, size
        order = Order(23, 7, 5, one)
        for batch, draw in enumerate(order):
            batches[batch] += draw.indices[: one.count(order.size(batch))]
    whole = Order(23, 7, 5, Processes("cpu"))
    assert [sorted(one) for one in batches] == [sorted(whole.indices(0, batch)) for batch in range(4)]
    assert sorted(one for batch in batches for one in batch) == list(range(23))


def test_weights_make_the_mean_over_processes_the_mean_of_the_batch():
    values = torch.arange(10.0).double()
    means = []
    for rank in range(4):
        one = Processes("cpu")
        one.rank, one.size = rank, 4
        means.append(one.weight(10) * values[one.share(list(range(10)))].mean().item())
    assert sum(means) / 4 == pytest.approx(values.mean().item())


def test_what_cannot_be_split_is_refused():
    mesh = SimpleNamespace(size=lambda: 2)
    with pytest.raises(ValueError, match="none"):
        split(CNN((1, 8, 8), 10), mesh)
    for activation in ("prelu", "softmax", "maxout"):
        with pytest.raises(ValueError, match="stateless"):
            split(MLP((4,), 2, activation=activation), mesh)
    with pytest.raises(ValueError, match="7 features"):
        split(MLP((4,), 2, width=7), mesh)


@pytest.mark.parametrize(
    "more, named",
    [
        ({"tensor_parallel": 2}, "tensor_parallel 2 does not divide"),
        ({"device": "cuda:1"}, "cuda:1"),
    ],
)
def test_processes_that_cannot_work_together_are_refused(tmp_path, monkeypatch, more, named):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=named):
        Trainer(settings(tmp_path / "run", **more))


def test_a_run_that_may_be_restarted_needs_a_folder(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="--out"):
        Trainer(settings(None))


def test_tensor_parallelism_in_one_process_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 4"):
        Trainer(settings(tmp_path / "run", tensor_parallel=4))


def test_a_port_in_use_is_named(tmp_path, monkeypatch):
    with socket.socket() as server:
        server.bind(("localhost", 0))
        server.listen()
        port = str(server.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RuntimeError, match=port):
            Trainer(settings(tmp_path / "run"))


@pytest.mark.parametrize("name, value", [("shard", "fsd"), ("tensor_parallel", 0)])
def test_settings_that_do_not_exist_are_refused(name, value):
    with pytest.raises(ValueError, match=name if name != "shard" else "fsdp"):
        Settings(**{name: value})
