"""docs/models.md: its examples run, and its tables are those of the adapters and of what was measured."""

from __future__ import annotations

import re

import models_table

import nnkernels
from nnkernels.optimizing.adapting import is_adapted


def test_the_examples_run(capsys):
    first, second = re.findall(r"```python\n(.*?)```", models_table.PAGE.read_text(), re.DOTALL)
    found: dict = {}
    exec(first, found)
    assert not any(is_adapted(module) for module in found["model"].modules()) and found["report"].rows
    exec(second, found)
    assert "Gate()" in capsys.readouterr().out
    gate = found["Gate"](8)
    assert nnkernels.optimize(gate, always=True, verbose=False).fused


def test_the_tables_are_those_that_were_written():
    page = models_table.PAGE.read_text()
    assert models_table.rewritten(page) == page, "run: make tables"
