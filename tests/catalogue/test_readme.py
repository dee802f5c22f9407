"""The README and the pages say what is so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_catalogue():
    page = (ROOT / "docs/activations.md").read_text()
    assert tool("activations_table").rewritten(page) == page, "run: make tables"


def test_the_figures_are_those_that_were_measured():
    pages = tool("benchmark_pages")
    texts = tuple(page.read_text() for page in pages.PAGES)
    assert pages.rewritten(*texts) == texts, "run: make tables"


def test_the_stubs_are_those_of_the_catalogue():
    for path, text in tool("stubs").stubs().items():
        assert path.read_text() == text, "run: make tables"


def test_the_example_runs():
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_and_commands_that_a_page_names_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    for command in re.findall(r"python ((?:benchmarks|tools)/\w+\.py)", text):
        assert (ROOT / command).exists(), command


def test_the_front_page_is_read_in_two_minutes():
    assert len(README.split()) < 750
