"""The examples of the trainer and the networks, and those of their page, run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from nnkernels import networks

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")

WITHOUT = ("recipes", "recipe", "keeping", "estimating", "recurrent", "attending")
"""Of the networks' package, what has no example: it is used through what has."""
MODULES = ["train", "train.settings", "train.data", "train.trainer", "train.dead_units", "train.predictor"]
MODULES += ["names", "networks", "networks.recipes"]
MODULES += [f"networks.{one.name}" for one in pkgutil.iter_modules(networks.__path__) if one.name not in WITHOUT]
PAGE = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_run(name):
    results = doctest.testmod(importlib.import_module(f"nnkernels.{name}"))
    assert results.attempted > 0 and results.failed == 0


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    assert "accuracy" in capsys.readouterr().out and (tmp_path / "runs").is_dir()
