"""Performs each walk of CONTRIBUTING.md and docs/adding/ on a copy of the repository, and the commands at its end.

A block between fences says in its first line what is done with it:

    file=PATH       it is a new file
    append=PATH     it goes to the end of that file
    insert=PATH     it goes before the namespace at the end of that file closes
    diff in=PATH    its lines with " " and "-" stand in that file once, and become those with " " and "+"
    sh run          it is commands, performed after all else: pytest has to find tests, and all have to succeed
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEVICE

ROOT = Path(__file__).parents[2]
PARTS = ("nnkernels", "csrc", "tests", "tools", "docs", "setup.py", "pyproject.toml", "README.md", "CONTRIBUTING.md")
WALKS = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs/adding").glob("*.md"))]
BLOCK = re.compile(r"^```(?:\w+ )(file|append|insert|in|run)(?:=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def lay(copy: Path, how: str, name: str, block: str) -> None:
    """Does with a block what its first line says."""
    path = copy / name
    if how == "file":
        assert not path.exists(), f"{name} exists already"
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)
        return
    text = path.read_text()
    if how == "in":
        old, new = ("".join(line[1:] for line in block.splitlines(True) if line[0] in kept) for kept in (" -", " +"))
        assert text.count(old) == 1, f"{name} has these lines {text.count(old)} times:\n{old}"
        path.write_text(text.replace(old, new))
    elif how == "append":
        path.write_text(f"{text}\n\n{block}")
    else:
        before, closing, rest = text.rpartition("}  // namespace")
        path.write_text(f"{before}{block}\n{closing}{rest}")


def commands(block: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The variables and the words of each line, for the Python that runs this."""
    for line in block.replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        count = next(at for at, word in enumerate(words) if "=" not in word)
        program, *arguments = words[count:]
        module = {"pytest": ["-m", "pytest", "-p", "no:cacheprovider"], "nnkernels": ["-m", "nnkernels"], "python": []}
        yield dict(word.split("=", 1) for word in words[:count]), [*module[program], *arguments]


@pytest.mark.parametrize("page", WALKS, ids=lambda page: page.stem.lower())
def test_the_walk_arrives(page, tmp_path):
    blocks = BLOCK.findall(page.read_text())
    changes, runs = [one for one in blocks if one[0] != "run"], [one[2] for one in blocks if one[0] == "run"]
    assert changes and runs
    builds = any(name.startswith("csrc/") for _, name, _ in changes)
    if builds and not shutil.which("c++"):
        pytest.skip("needs a C++ compiler")
    left = shutil.ignore_patterns("__pycache__", *(["_lib"] if builds else []))
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree(source, tmp_path / part, ignore=left) if source.is_dir() else shutil.copy(source, tmp_path))
    for change in changes:
        lay(tmp_path, *change)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "NNKERNELS_PARTS": "cpu,info", "NNKERNELS_REQUIRE": "cpu"}
    env |= {"NNKERNELS_BASELINE": "1", "NNKERNELS_OPTIMIZE": "1"}  # the quickest build
    for variables, words in (command for run in runs for command in commands(run)):
        if DEVICE == "cuda":
            variables.pop("TRITON_INTERPRET", None)  # with a GPU, Triton's kernels run there
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env={**env, **variables}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}{done.stderr[-1500:]}"
