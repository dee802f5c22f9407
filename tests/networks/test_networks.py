"""The recipes: each reaches what it states, and no more than its limit; and what is built on them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pkgutil
from pathlib import Path

import networks_table
import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics")
pytest.importorskip("mlxtend")
pytest.importorskip("mnist1d")

from nnkernels.cli import main
from nnkernels.commands.networks import picture
from nnkernels.networks import keeping, recipes
from nnkernels.networks.recipe import ACCURACY, MSE, tried
from nnkernels.networks.recipes import GUIDE, RECIPES, recipe
from nnkernels.networks.trials import Fitted, Trained, split
from nnkernels.train import Settings
from nnkernels.train.checkpoint import CheckpointError, read
from nnkernels.train.datasets import named
from nnkernels.train.exporting import export
from nnkernels.train.predictor import Predictor

ROOT = Path(__file__).parents[2]


@pytest.fixture(
    params=[pytest.param(row, marks=[pytest.mark.slow] * row.slow, id=row.name) for row in RECIPES.values()]
)
def row(request):
    return request.param


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_recipe_reaches_what_it_states(row):
    learned = tried(row.trial, seed=0)
    assert isinstance(learned.model, torch.nn.Module)
    assert row.metric.reaches(learned.value, row.threshold), learned.value


def test_a_network_has_the_limit_that_its_recipe_states(row):
    value = tried(row.contrast.trial, seed=0).value
    assert (row.contrast.metric or row.metric).limited(value, row.contrast.bound), value


@pytest.mark.parametrize("one", RECIPES.values(), ids=RECIPES)
def test_a_recipe_can_be_trained_by_name(one):
    """What is found by name is all that a checkpoint keeps."""
    if isinstance(one.trial, Trained):
        assert one.trial.data is None and one.trial.model is None
    assert one.network in GUIDE and one.threshold == one.threshold and len(one.seeds) >= 1


def test_no_recipe_hides_another_of_its_name():
    files = [
        importlib.import_module(f"{recipes.__name__}.{one.name}") for one in pkgutil.iter_modules(recipes.__path__)
    ]
    assert sum(len(file.RECIPES) for file in files) == len(RECIPES)


def test_a_metric_knows_which_way_is_better():
    assert ACCURACY.reaches(0.9, 0.9) and not ACCURACY.reaches(0.89, 0.9) and ACCURACY.limited(0.9, 0.9)
    assert MSE.reaches(0.1, 0.1) and not MSE.reaches(0.11, 0.1) and not MSE.limited(0.09, 0.1)
    assert ACCURACY.limited(math.nan, 0.5) and not ACCURACY.reaches(math.nan, 0.5)


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"percepton.*perceptron"):
        recipe("percepton")


def test_what_fits_itself_is_kept_and_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--recipe", "perceptron", "--seed", "1", "--out", "run"]) == 0
    data = named("breast_cancer")
    predictor = Predictor.load(tmp_path / "run")
    hits = predictor(data.held.inputs).argmax(1) == data.held.targets
    assert hits.float().mean() == pytest.approx(tried(recipe("perceptron").trial, seed=1).value)
    np.save("inputs.npy", data.held.inputs[:4].numpy())
    assert main(["predict", "run", "--input", "inputs.npy"]) == 0
    assert "malignant" in capsys.readouterr().out
    assert main(["train", "--recipe", "perceptron", "--out", "run"]) == 2


def test_what_the_trainer_trains_is_a_run_like_any_other(tmp_path, monkeypatch):
    pytest.importorskip("tyro")
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "1", "--no-progress", "--no-tensorboard", "--no-picture"]
    assert main(["train", "--recipe", "mlp", "--out", "run", *options]) == 0
    kept, wanted = Settings.load(tmp_path / "run" / "settings.yaml"), recipe("mlp").trial.settings
    assert (kept.network, kept.data, kept.activation, kept.epochs) == ("mlp", "digits", wanted.activation, 1)
    assert main(["train", "--out", "run", "--resume", "--epochs", "2"]) == 0


def test_bad_options_of_a_recipe_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--recipe", "mlpp"]) == 2 and "mlp" in capsys.readouterr().err
    assert main(["train", "--recipe", "perceptron", "--epochs", "3"]) == 2
    assert "not trained by gradients" in capsys.readouterr().err
    assert main(["networks", "--only", "mlpp"]) == 2 and "mlp" in capsys.readouterr().err


def test_the_table_is_printed_and_kept(tmp_path, capsys):
    out = tmp_path / "measured.json"
    assert main(["networks", "--only", "perceptron", "--seeds", "1", "--json", str(out)]) == 0
    assert "breast cancer" in capsys.readouterr().out
    (kept,) = json.loads(out.read_text())
    assert kept["recipe"] == "perceptron" and kept["reached"] and kept["limited"] and kept["seeds"] == 1


def test_a_recipe_that_misses_is_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "perceptron", dataclasses.replace(recipe("perceptron"), threshold=1.01))
    assert main(["networks", "--only", "perceptron", "--seeds", "1"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_the_page_has_what_was_measured_and_all_of_it_is_good():
    page, measured = networks_table.PAGE.read_text(), networks_table.outcomes()
    assert networks_table.rewritten(page, measured) == page, "run: python tools/networks_table.py"
    assert set(measured) == set(RECIPES), "measure the recipes that are missing"
    for name, outcome in measured.items():
        one = recipe(name)
        assert one.metric.reaches(outcome.value, one.threshold), name
        assert (one.contrast.metric or one.metric).limited(outcome.limit, one.contrast.bound), name
        assert outcome.seeds >= 3 and (one.slow or outcome.seconds < 60), name


def test_data_as_arrays_is_scaled_as_the_trainers_networks_scale_it():
    data = split(named("wine"))
    assert data.x.mean(0) == pytest.approx(np.zeros(13), abs=1e-5) and data.x.std(0, ddof=1) == pytest.approx(
        np.ones(13)
    )
    assert split(named("wine"), scaled=False).x.max() > 1000


def test_a_trial_may_be_of_anything():
    found = Fitted(
        lambda seed: torch.full((3,), float(seed)),
        lambda seed: torch.nn.Linear(3, 1),
        fit=lambda model, data: torch.nn.init.ones_(model.weight),
        measure=lambda model, data: (model.weight.sum() * data.sum()).item(),
    )
    assert tried(found, seed=2).value == pytest.approx(18)


FITTED = [name for name, one in RECIPES.items() if isinstance(one.trial, Fitted) and not one.slow]


@pytest.mark.parametrize("name", FITTED)
def test_what_a_recipe_leaves_is_the_same_when_it_comes_back(name, tmp_path):
    one = recipe(name)
    learned = tried(one.trial, seed=1)
    path = keeping.save(one, learned, 1, tmp_path)
    again = keeping.load(path, read(path))
    for key, value in learned.model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)


def test_what_tells_no_classes_is_not_asked_for_them(tmp_path):
    keeping.save(recipe("som"), tried(recipe("som").trial, 0), 0, tmp_path)
    with pytest.raises(CheckpointError, match=r"SOM.*neither classes nor values"):
        Predictor.load(tmp_path)


def test_what_fits_itself_is_exported(tmp_path):
    keeping.save(recipe("elm"), tried(recipe("elm").trial, 0), 0, tmp_path)
    assert export(Predictor.load(tmp_path), tmp_path / "elm.pt2", "torch") < 1e-5


def test_a_checkpoint_of_a_recipe_that_is_gone_is_refused(tmp_path):
    learned = tried(recipe("perceptron").trial, 0)
    path = keeping.save(dataclasses.replace(recipe("perceptron"), name="perzeptron"), learned, 0, tmp_path)
    with pytest.raises(CheckpointError, match=r"perzeptron.*perceptron"):
        Predictor.load(path)


@pytest.mark.parametrize("name", [name for name, one in RECIPES.items() if one.picture and not one.slow])
def test_a_recipe_draws_what_it_learned(name, tmp_path):
    pytest.importorskip("matplotlib")
    learned = tried(recipe(name).trial, seed=0)
    picture(recipe(name), tmp_path / "one.png", learned)
    assert len((tmp_path / "one.png").read_bytes()) > 5_000
