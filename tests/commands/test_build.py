"""The build's promises: it never stops an installation, and what is missing is said in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from nnkernels import native
from nnkernels.autograd import node
from nnkernels.commands import info

ROOT = Path(__file__).parents[2]


def build(tmp_path: Path, **environment: str) -> tuple[int, dict[str, str], str]:
    """Builds away from the checkout; the exit code, what is missing, and what was printed as errors."""
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(out), "--build-temp", str(tmp_path / "temp")],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    written = out / "nnkernels/_lib/build.json"
    return done.returncode, json.loads(written.read_text())["missing"] if written.exists() else {}, done.stderr


def test_without_a_compiler_the_rest_is_installed(tmp_path):
    environment = {"PATH": str(tmp_path), "CXX": ""}
    code, missing, _ = build(tmp_path, **environment)
    assert code == 0
    assert set(missing) == {"cpu", "cuda", "autograd", "info"}
    assert all("C++ compiler" in reason and "\n" not in reason for reason in missing.values())


def test_a_failing_compiler_is_one_sentence(tmp_path):
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\necho 'error: this compiler is broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    code, missing, told = build(tmp_path, CXX=str(broken), NNKERNELS_PARTS="cpu,info")
    assert code == 0
    assert "this compiler is broken" in missing["cpu"] and "\n" not in missing["cpu"]
    assert "Traceback" not in told


def test_what_is_required_stops_the_build_with_its_reason(tmp_path):
    code, _, told = build(tmp_path, PATH=str(tmp_path), CXX="", NNKERNELS_REQUIRE="cpu")
    assert code != 0
    assert "cpu is required" in told and "C++ compiler" in told and "Traceback" not in told


def test_stale_sources_are_noticed(monkeypatch, tmp_path):
    if isinstance(native.library("cpu"), str):
        pytest.skip("the C++ kernels were not built")
    assert native.stale() is None
    (tmp_path / "csrc").mkdir()
    (tmp_path / "setup.py").write_text("")
    monkeypatch.setattr(native, "_SOURCES", tmp_path / "csrc")
    assert native.MEND in native.stale()


@pytest.mark.parametrize(
    ("running", "served_by"),
    [
        ("2.11.0+cu130", "2.11.0"),  # another build of it
        ("2.14.3", "2.14.1+cpu"),  # another patch
        ("2.14.1+cpu", "2.14.1+cpu"),
        ("2.13.0", None),
        ("2.14.0a0+git1234567", None),  # no release: its interface may be any
        ("2.15.0.dev20261101", "2.15.0.dev20261101"),
        ("2.15.0", None),
    ],
)
def test_the_node_is_that_of_the_running_torchs_minor_version(running, served_by, monkeypatch, tmp_path):
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for version in ("2.11.0", "2.14.1+cpu", "2.15.0.dev20261101"):
        (tmp_path / f"_autograd-{version}{suffix}").touch()
    (tmp_path / "_autograd-2.13.0.cpython-27-other.so").touch()  # another Python's
    monkeypatch.setattr(native, "_LIB", tmp_path)
    assert native.node_file(running) == (served_by and f"_autograd-{served_by}{suffix}")


def test_info_says_that_the_node_is_another_torchs(monkeypatch, tmp_path):
    (tmp_path / f"_autograd-2.10.0{sysconfig.get_config_var('EXT_SUFFIX')}").touch()
    monkeypatch.setattr(native, "_LIB", tmp_path)
    monkeypatch.setattr(node, "module", None)
    told = info.collect()["autograd_node"]
    assert "built for torch 2.10.0" in told and torch.__version__ in told and "Python routes" in told


def test_build_info_names_what_it_was_built_with():
    info = native.build_info()
    if not info:
        pytest.skip("no part was built for this Python")
    assert info["stable_abi_target"] == "2.11" and info["compiler"] and info["sources"]


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_is_as_exact(isa):
    """The float32 accuracy of a few rows in a process that asked for a lesser instruction set."""
    if native.instruction_set() in ("none", "neon"):
        pytest.skip("there is no choice of instruction sets here")
    script = (
        "import torch, nnkernels; from nnkernels import accuracy, dispatch, native;"
        "print(native.instruction_set());"
        "backend = dispatch.named('cpu');"
        "rows = nnkernels.registry.catalogue(nnkernels.Activation);"
        "found = [accuracy.measure(row, backend, dtype) for row in rows for dtype in"
        " (torch.float32, torch.bfloat16, torch.float16)];"
        "assert all(one.ok for one in found), [str(one) for one in found if not one.ok]"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NNKERNELS_ISA": isa, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if isa not in done.stdout:
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stderr[-1500:]


def test_a_library_built_under_another_torch_serves():
    built = native.build_info().get("built_under_torch")
    if built is None or isinstance(native.library("cpu"), str):
        pytest.skip("the C++ kernels were not built")
    x = torch.tensor([-1.0, 2.0])
    assert torch.ops.nnkernels.forward(x, native.index_of("relu"), 0.0, 0.0).tolist() == [0.0, 2.0]
