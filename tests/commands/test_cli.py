"""The command line as its user meets it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import nnkernels
from nnkernels import dispatch
from nnkernels.cli import COMMANDS, main
from nnkernels.commands import calls, check, demo
from nnkernels.registry import Activation, catalogue


def test_info_names_every_backend(capsys):
    assert main(["info"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in dispatch.NAMES[1:]) and torch.__version__ in told
    assert main(["info", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["backends"]) == set(dispatch.NAMES[1:])


def test_info_says_what_is_missing_and_how_to_mend_it(capsys, monkeypatch):
    from nnkernels import native

    reason = "no C++ compiler was found"
    monkeypatch.setattr(native, "missing", lambda: {"cpu": reason})
    assert main(["info"]) == 0
    told = capsys.readouterr().out
    assert reason in told and native.MEND in told


def test_check_passes_and_writes_json(capsys, tmp_path):
    path = tmp_path / "check.json"
    assert main(["check", "--activation", "relu", "--backend", "reference", "--json", str(path)]) == 0
    (result,) = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert result["ok"] and result["gradients"] == "ok" and len(result["accuracy"]) == 4


def test_check_writes_into_tensors(capsys, tmp_path):
    path = tmp_path / "check.json"
    names = ("silu", "elu", "leaky_relu", "rrelu", "sigmoid")
    main(["check", "--only", "inplace", *(f"--activation={name}" for name in names), "--json", str(path)])
    results = json.loads(path.read_text())
    assert [one["activation"] for one in results] == list(names[:-1])  # torch's sigmoid takes no inplace=
    for one in results:
        assert one["backend"] == "in place" and len(one["accuracy"]) == 4 and all(e["ok"] for e in one["accuracy"])


@pytest.mark.parametrize("learns", [False, True])
def test_writes_that_autograd_does_not_learn_of_are_noticed(learns):
    def raw(x):
        if x.requires_grad == learns:
            x.data.mul_(2)
            return x
        return x.mul_(2)

    said = calls.unnoticed(raw, "cpu")
    assert said is not None and ("with a gradient" if learns else "without") in said
    assert calls.unnoticed(lambda x: x.mul_(2), "cpu") is None
    assert calls.unnoticed(lambda x: x.add_(1) * 2, "cpu") is not None


@pytest.mark.skipif(calls.compiler_missing() is not None, reason="needs a C++ compiler")
def test_check_compiles_and_fails_where_the_compiled_function_is_wrong(capsys, monkeypatch, tmp_path):
    path = tmp_path / "check.json"
    assert main(["check", "--only", "compiled", "--activation", "relu", "--json", str(path)]) == 0
    (result,) = json.loads(path.read_text())
    assert result["backend"] == "compiled" and [one["dtype"] for one in result["accuracy"]] == ["float32"]
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda x: function(x) * 1.0001)
    assert main(["check", "--only", "compiled", "--activation", "relu"]) == 1
    assert "relu compiled" in capsys.readouterr().out


def test_without_a_compiler_check_leaves_out_what_is_compiled(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["check", "--only", "compiled", "--activation", "relu"]) == 0
    told = capsys.readouterr().out
    assert "no-such-compiler" in told and "0 passed" in told


def test_what_is_compiled_unasked_is_in_the_catalogue():
    assert set(calls.COMPILED) <= {row.name for row in catalogue(Activation)}


def test_tables_fit_80_columns_and_have_their_heading_above(capsys):
    assert main(["bench", "--activation", "thresholded_relu", "--dtype", "bfloat16", "--size", "4096"]) == 0
    heading, columns, row, mean = capsys.readouterr().out.splitlines()
    assert "forward" in heading and "eager" in columns and "thresholded_relu" in row and "geometric" in mean
    assert main(["check", "--activation", "thresholded_relu", "--backend", "reference"]) == 0
    heads = [heading, columns, row, mean, *capsys.readouterr().out.splitlines()]
    assert max(map(len, heads)) <= 80


@pytest.mark.parametrize("sabotaged", ["forward", "backward"])
def test_check_fails_on_a_wrong_backend(capsys, monkeypatch, sabotaged):
    right = getattr(type(dispatch.REFERENCE), sabotaged)

    def wrong(self, name, *args):
        return right(self, name, *args) * 1.0001

    monkeypatch.setattr(type(dispatch.REFERENCE), sabotaged, wrong)
    assert main(["check", "--activation", "relu", "--backend", "reference"]) == 1
    assert "relu on reference" in capsys.readouterr().out


def test_check_counts_a_backend_that_raises_as_failed(capsys, monkeypatch):
    def broken(*args):
        raise RuntimeError("the kernel could not be launched")

    monkeypatch.setattr(type(dispatch.REFERENCE), "forward", broken)
    assert main(["check", "--activation", "relu", "--backend", "reference"]) == 1
    told = capsys.readouterr().out
    assert "the kernel could not be launched" in told and "0 passed, 1 failed" in told


def test_check_interprets_triton_only_if_asked(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert ("triton" in check.usable()) == torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA can be checked")
def test_check_of_a_backend_that_is_not_here(capsys):
    assert main(["check", "--backend", "cuda"]) == 2
    assert "cuda" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "nearest", "another"),
    [
        (["check", "--activation", "mihs"], "mish", "relu"),
        (["bench", "--activation", "gelu_tahn"], "gelu_tanh", "relu"),
        (["gallery", "--activation", "swiglo"], "swiglu", "relu"),
        (["check", "--backend", "tritn"], "triton", "reference"),
        (["bench", "--dtype", "bfloat"], "bfloat16", "float64"),
        (["export", "run", "--format", "onx"], "onnx", "torch"),
        (["galery"], "gallery", "predict"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_an_unknown_name_is_answered_with_the_nearest_and_all(capsys, arguments, nearest, another):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert repr(nearest) in told and another in told and repr(arguments[-1]) in told


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_is_one_line_and_130_whatever_the_command_is_at(command, capsys, monkeypatch):
    def pressed(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, f"nnkernels.commands.{command}", SimpleNamespace(run=pressed))
    needed = {"predict": ["run"], "export": ["run"], "products": ["8x8x8"]}
    assert main([command, *needed.get(command, [])]) == 130
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1


def test_ctrl_c_while_something_is_imported(capsys, tmp_path, monkeypatch):
    (tmp_path / "pressing.py").write_text("raise KeyboardInterrupt")
    monkeypatch.chdir(tmp_path)
    assert main(["--import", "pressing", "info"]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_ctrl_c_in_a_terminal_ends_a_process_that_is_at_work(tmp_path):
    """The signal comes while the command sleeps in an import."""
    (tmp_path / "slow.py").write_text("import time; print('slow', flush=True); time.sleep(600)")
    command = [sys.executable, "-m", "nnkernels", "--import", "slow", "check"]
    path = os.pathsep.join([str(Path(nnkernels.__file__).parent.parent), *sys.path])
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in the background
    )  # fmt: skip
    assert process.stdout.readline() == "slow\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and len(err.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    path = os.pathsep.join([str(Path(nnkernels.__file__).parent.parent), *sys.path])
    (tmp_path / "talking.py").write_text("print('words', flush=True)")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "nnkernels", "--import", "talking", "info"], stdout=writing, stderr=subprocess.PIPE,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 141 and done.stderr == b""


@pytest.mark.parametrize("command", ["demo", "gallery"])
@pytest.mark.parametrize("place", ["file/folder", "file"])
def test_a_folder_that_cannot_be_made_is_refused_first(command, place, capsys, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        main([command, "--out", str(tmp_path / place)])
    assert stopped.value.code == 2 and str(tmp_path / place) in capsys.readouterr().err


def test_a_file_that_cannot_be_written_after_all_is_one_line(capsys, monkeypatch, tmp_path):
    def full(args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(sys.modules, "nnkernels.commands.gallery", SimpleNamespace(run=full))
    assert main(["gallery", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left" in line and line.startswith("nnkernels gallery: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "--size", "0"],
        ["bench", "--threads", "-1"],
        ["bench", "--json", "no-such-folder/bench.json"],
        ["check", "--json", "no-such-folder/check.json"],
        ["demo", "--epochs", "none"],
    ],
    ids=lambda arguments: "".join(arguments),
)
def test_bad_arguments_are_refused_before_anything_is_measured(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and arguments[-1] in capsys.readouterr().err


def test_bench_times_both_sides(capsys, tmp_path):
    path = tmp_path / "bench.json"
    assert main(["bench", "--activation", "mish", "--dtype", "float32", "--size", "4096", "--json", str(path)]) == 0
    (result,) = json.loads(path.read_text())
    assert result["ok"]
    assert all(result[f"{side}_{way}"] > 0 for side in ("eager", "ours") for way in ("forward", "backward"))


def test_demo_networks_start_alike_and_losses_agree():
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    from nnkernels import nn

    digits = demo.load_digits()
    runs = [demo.train(digits, activation, epochs=1, label="test") for activation in (torch.nn.Mish, nn.Mish)]
    assert len(runs[0].losses) == 23
    torch.testing.assert_close(torch.tensor(runs[0].losses), torch.tensor(runs[1].losses), rtol=1e-3, atol=0)
