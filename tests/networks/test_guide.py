"""The guide's path can be walked, in both languages, and its tables are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import guide_tables
import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")
pytest.importorskip("mnist1d")
pytest.importorskip("optuna")
pytest.importorskip("sklearn")
pytest.importorskip("tensorboard")
pytest.importorskip("torchmetrics")

from nnkernels.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/guide.md", ROOT / "docs/pt-BR/guia.md"]


def steps(page: Path) -> list[tuple[str, str]]:
    """Each block of the page, in order: its language, such as "python" or "sh quick", and what it says."""
    return re.findall(r"^```(\w[^\n]*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_step_of_the_guide_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "guide"}
    with torch.random.fork_rng():
        for language, block in steps(page):
            if language == "python":
                exec(compile(block, page.name, "exec"), namespace)
            elif language == "sh quick":
                for command in block.splitlines():
                    program, *arguments = shlex.split(command)
                    assert program == "nnkernels" and main(arguments) == 0, command
    assert {"runs", "pictures", "drawn"} <= {left.name for left in tmp_path.iterdir()}


def test_both_languages_say_the_same_to_the_machine():
    english, portuguese = map(steps, PAGES)
    assert english == portuguese


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_catalogue_and_the_recipes(page):
    assert guide_tables.rewritten(page.read_text(), guide_tables.HEADS[page]) == page.read_text(), "run: make tables"
