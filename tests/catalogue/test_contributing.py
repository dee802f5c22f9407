"""Performs CONTRIBUTING.md's walk, adding its throw-away activation to a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\w+ (append|insert)=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def walk(copy: Path) -> None:
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    assert len(blocks) == 5
    for how, name, code in blocks:
        path = copy / name
        text = path.read_text()
        end = len(text) if how == "append" else text.rindex("}  // namespace")
        path.write_text(f"{text[:end]}\n\n{code}\n{text[end:]}")
    listing = copy / "csrc/activations.h"
    text = listing.read_text()
    last = re.findall(r"  F\(\w+\)(?= *\n\n)", text)[-1]
    listing.write_text(text.replace(last + "\n", f"{last} F(sqnl)\n"))


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_the_walk_adds_an_activation_to_every_backend(tmp_path):
    for part in ("nnkernels", "csrc", "tests", "tools", "docs", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("_lib", "__pycache__"))
        else:
            shutil.copy(source, tmp_path)
    walk(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "NNKERNELS_PARTS": "cpu,info", "NNKERNELS_REQUIRE": "cpu"}
    env["NNKERNELS_BASELINE"] = "1"

    def run(*command: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env={**env, **more}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
        return done.stdout

    run("setup.py", "build_ext", "--inplace")
    told = run("-m", "nnkernels", "check", "--activation", "sqnl")
    assert re.search(r"sqnl +cpu.* ok", told) and re.search(r"sqnl +reference.* ok", told)
    use = (
        "import torch, nnkernels; x = torch.linspace(-3, 2, 11, requires_grad=True);"
        "y = nnkernels.nn.SQNL()(x); y.sum().backward();"
        "assert torch.allclose(y, x.clamp(-2, 2) * (1 - x.clamp(-2, 2).abs() / 4)), y;"
        "assert repr(nnkernels.nn.SQNL(inplace=True)) == 'SQNL(inplace=True)'"
    )
    run("-c", use)
    assert "sqnl" in run("-m", "nnkernels", "bench", "--activation", "sqnl", "--size", "4096")
    tests = ("tests/kernels/test_numbers.py", "tests/autograd/test_saving.py", "tests/catalogue/test_catalogue.py")
    told = run("-m", "pytest", "-p", "no:cacheprovider", "-k", "sqnl", *tests)
    assert int(re.search(r"(\d+) passed", told).group(1)) > 20 and "failed" not in told
    pytest.importorskip("triton")
    interpreted = (
        "import torch, nnkernels, nnkernels.accuracy as A; x = torch.linspace(-3, 2, 999);"
        "row = nnkernels.activation('sqnl'); nnkernels.backend('triton');"
        "assert A.errors(nnkernels.functional.sqnl(x), A.truth_of(row, 'value', x, 0, 0)).max() <= 4"
    )
    run("-c", interpreted, TRITON_INTERPRET="1")
