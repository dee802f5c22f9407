"""Poisoned memory and a seed for every test, and the fixtures that name rows, backends and types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from triton_tools import INTERPRETED, faithful

import nnkernels
from nnkernels import dispatch
from nnkernels.names import BACKENDS
from nnkernels.registry import Activation, catalogue

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """`torch.empty` gives NaN, so that an element which no kernel wrote cannot look right."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", default="1/1", help="K/N: only the K-th of N runs of adjacent tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    which, shards = map(int, config.getoption("--shard").split("/"))
    items[:] = items[len(items) * (which - 1) // shards : len(items) * which // shards]


@pytest.fixture(autouse=True)
def default_backend() -> Iterator[None]:
    with nnkernels.backend("auto"):
        yield


@pytest.fixture(params=catalogue(Activation), ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Activation:
    return request.param


@pytest.fixture(params=BACKENDS[1:])
def backend(request: pytest.FixtureRequest) -> dispatch.Backend:
    found = dispatch.named(request.param)
    if isinstance(found, str):
        pytest.skip(found)
    reason = found.unavailable(torch.device("cpu" if request.param == "cpu" else DEVICE))
    if reason:
        pytest.skip(reason)
    if "row" in request.fixturenames and not found.has(name := request.getfixturevalue("row").name):
        pytest.skip(f"{request.param} has no {name}")
    return found


@pytest.fixture
def device(backend: dispatch.Backend) -> str:
    return "cpu" if backend.name == "cpu" else DEVICE


@pytest.fixture(params=dispatch.with_families())
def chosen(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device, while the backend that serves it is chosen by name."""
    found = dispatch.named(request.param)
    where = "cpu" if request.param == "cpu" else DEVICE
    reason = found if isinstance(found, str) else found.unavailable(torch.device(where))
    if reason:
        pytest.skip(reason)
    with nnkernels.backend(request.param):
        yield where


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch) -> None:
    """What Triton compiled before is not taken from its cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@pytest.fixture(scope="session", autouse=True)
def no_measured_products(tmp_path_factory) -> Iterator[None]:
    """What was measured on this machine decides nothing, and nothing is written to its user's cache directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNKERNELS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def faithful_interpreter() -> Iterator[None]:
    with faithful() if INTERPRETED else nullcontext():
        yield
