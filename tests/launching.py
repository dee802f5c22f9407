"""Several processes of one run, started cheaply: a server that has imported everything forks them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")]
    ),
]
"""Where two processes meet: through gloo, and through NCCL."""

_PRELOADED = [
    "matplotlib.backends.backend_agg",
    "nnkernels.train.distributed",
    "nnkernels.train.tuning",
    "optuna.visualization.matplotlib",
    "pytest",
    "sklearn.datasets",
    "torch._dynamo",
    "torchmetrics.classification",
    "yaml",
]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def server() -> Any:
    """What starts processes: its `Process`, `Queue` and so on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def together(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What `work(*args)` returns in each of `size` processes, which know each other as torchrun's do."""
    context = server()
    answers, port = context.Queue(), free_port()
    started = [context.Process(target=_run, args=(rank, size, port, answers, work, args)) for rank in range(size)]
    for process in started:
        process.start()
    got = [answers.get(timeout=400) for _ in started]  # the first takes as long as a busy machine imports
    for process in started:
        process.join()
    errors = [text for _, _, text in got if text]
    assert not errors, "\n".join(errors)
    return [answer for _, answer, _ in sorted(got, key=lambda one: one[0])]


def join(device_type: str) -> str:
    """Makes the default process group, of all that were started together; returns this process's device."""
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if device_type == "cuda" else "gloo")
    return f"cuda:{os.environ['LOCAL_RANK']}" if device_type == "cuda" else device_type


def _run(rank: int, size: int, port: int, answers: Any, work: Callable[..., Any], args: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ["NCCL_NVLS_ENABLE"] = "0"  # NVLink multicast, which not every machine has
    torch.set_num_threads(1)
    try:
        answers.put((rank, work(*args), ""))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
        answers.close()
        answers.join_thread()
        os._exit(1)  # the others would wait for its goodbye
