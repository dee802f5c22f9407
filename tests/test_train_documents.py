"""The examples of the trainer and the networks, and those of their page, run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")

MODULES = ["train", "train.settings", "train.data", "train.trainer", "train.dead_units", "train.predictor"]
MODULES += ["names", "networks", "networks.activating", "networks.mlp", "networks.cnn", "networks.transformer"]
PAGE = Path(__file__).parent.parent / "docs" / "training.md"


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_run(name):
    results = doctest.testmod(importlib.import_module(f"nnkernels.{name}"))
    assert results.attempted > 0 and results.failed == 0


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    assert "accuracy" in capsys.readouterr().out and (tmp_path / "runs").is_dir()
