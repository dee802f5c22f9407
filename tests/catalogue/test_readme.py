"""The README says what is so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_is_that_of_the_catalogue():
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "tools/readme_table.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.rewritten(README) == README, "run: python tools/readme_table.py"


def test_the_example_runs():
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1), {})


def test_the_files_and_commands_it_names_exist():
    for name in re.findall(r"`((?:benchmarks|tools|docs|nnkernels)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name
    for command in re.findall(r"python (benchmarks/\w+\.py)", README):
        assert (ROOT / command).exists(), command
