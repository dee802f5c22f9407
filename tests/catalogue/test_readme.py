"""The README and the pages say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import activations_table
import benchmark_pages
import pytest
import stubs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


def test_the_table_is_that_of_the_catalogue():
    page = (ROOT / "docs/activations.md").read_text()
    assert activations_table.rewritten(page) == page, "run: make tables"


def test_the_figures_are_those_that_were_measured():
    texts = tuple(page.read_text() for page in benchmark_pages.PAGES)
    assert benchmark_pages.rewritten(*texts) == texts, "run: make tables"


def test_the_stubs_are_those_of_the_catalogue():
    for path, text in stubs.stubs().items():
        assert path.read_text() == text, "run: make tables"


def test_the_example_runs():
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_and_commands_that_a_page_names_exist(page):
    text = page.read_text()
    prose = re.sub("^    .*$", "", text, flags=re.MULTILINE)  # of an indented block, a C++ lambda looks like a link
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (page.parent / link).exists(), link
    for command in re.findall(r"python ((?:benchmarks|tools)/\w+\.py)", text):
        assert (ROOT / command).exists(), command


def test_the_front_page_is_read_in_two_minutes():
    assert len(README.split()) < 750
