"""The command line as its user meets it."""

from __future__ import annotations

import json

import pytest
import torch

from nnkernels import dispatch
from nnkernels.cli import main
from nnkernels.commands import check, demo


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


def test_unknown_activation_is_answered_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--activation", "mihs"])
    assert stopped.value.code == 2 and "mish" in capsys.readouterr().err


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
