"""Settings: the command line, YAML, and what is said of bad values."""

from __future__ import annotations

from pathlib import Path

import pytest
import training

from nnkernels.cli import main
from nnkernels.train import Settings, Trainer

pytest.importorskip("yaml")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")


def test_settings_survive_yaml(tmp_path):
    told = Settings(
        network="cnn", activation="mish", lr=3e-4, out=tmp_path, optimizer_arguments={"eps": 1e-7}, clip=None
    )
    told.save(tmp_path / "settings.yaml")
    assert Settings.load(tmp_path / "settings.yaml") == told


def test_yaml_may_hold_a_part_and_numbers_without_a_point(tmp_path):
    (tmp_path / "part.yaml").write_text("network: cnn\nlr: 3e-4\n")
    assert Settings.load(tmp_path / "part.yaml") == Settings(network="cnn", lr=3e-4)


@pytest.mark.parametrize(
    "text, said",
    [("netwrok: cnn", "netwrok.*network"), ("- 1", "list"), ("network: [", "YAML"), ("epochs: many", "epochs.*many")],
)
def test_bad_yaml(tmp_path, text, said):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises((ValueError, TypeError), match=said):
        Settings.load(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "name, value, nearest",
    [
        ("network", "cn", "cnn"),
        ("data", "digit", "digits"),
        ("activation", "mihs", "mish"),
        ("optimizer", "AdmW", "adamw"),
        ("schedule", "cosin", "cosine"),
        ("loss", "crossentropy", "cross_entropy"),
        ("metric", "acuracy", "accuracy"),
        ("precision", "bf_16", "bf16"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_and_all(name, value, nearest):
    with pytest.raises(ValueError, match=f"{value}.*{nearest}.*known ones are: .*{nearest}"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    "values",
    [{"epochs": 0}, {"batch_size": -1}, {"lr": 0.0}, {"dropout": 1.0}, {"ema": 1.5}, {"keep": 0}, {"clip": -1.0}],
)
def test_a_value_out_of_range_is_named(values):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        Settings(**values)


@pytest.mark.parametrize("values", [{"epochs": 1.5}, {"epochs": True}, {"network": 3}, {"lr": "fast"}])
def test_a_value_of_the_wrong_type_is_named(values):
    ((name, value),) = values.items()
    with pytest.raises(TypeError, match=f"{name}.*{value}"):
        Settings(**values)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"network": "cnn", "data": "wine"}, "cnn.*pictures.*mlp"),
        ({"network": "mlp", "data": "pydoc"}, "mlp.*characters.*transformer"),
        ({"batch_size": 10_000}, "10000.*1438"),
        ({"network": "cnn", "depth": 4}, "8 x 8.*4"),
        ({"network": "transformer", "data": "pydoc", "width": 50}, "32.*50"),
        ({"metric": "r2"}, "r2.*classes.*accuracy"),
        ({"optimizer_arguments": {"momentun": 0.9}, "optimizer": "sgd"}, "momentun.*momentum"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"recompute": True, "compile": True}, "recompute.*compile"),
        ({"recompute": True, "shard": "fsdp"}, "recompute.*fsdp"),
        ({"data": "pydoc", "network": "transformer", "context": 10**6}, "too short"),
    ],
    ids=lambda value: str(value),
)
def test_what_does_not_fit_together_is_said(values, said):
    with pytest.raises(ValueError, match=said):
        Trainer(Settings(**values))


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Trainer(training.settings(tmp_path / "file" / "run")).run()
    pytest.importorskip("tyro")
    assert main(["train", "--data", "iris", "--batch-size", "8", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "file" in capsys.readouterr().err


def test_the_command_line_trains_and_resumes_with_what_was_saved(tmp_path, capsys):
    pytest.importorskip("tyro")
    folder = str(tmp_path / "run")
    quiet = ["--no-progress", "--no-tensorboard", "--no-picture"]
    begin = ["train", "--data", "iris", "--network", "mlp", "--activation", "mish", "--epochs", "1", *quiet]
    assert main([*begin, "--out", folder, "--batch-size", "40"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main([*begin, "--out", folder]) == 2  # nothing is written over
    assert "resume" in capsys.readouterr().err
    assert main(["train", "--out", folder, "--resume", "--epochs", "2"]) == 0
    saved = Settings.load(Path(folder) / "settings.yaml")
    assert saved.activation == "mish" and saved.batch_size == 40 and saved.epochs == 2
    assert [line[0] for line in training.history(Path(folder))] == [3, 6]


def test_resuming_what_has_ended_says_so(tmp_path, capsys):
    pytest.importorskip("tyro")
    quiet = ["--data", "iris", "--batch-size", "40", "--no-progress", "--no-tensorboard", "--no-picture"]
    for folder, more in (("all", ["--epochs", "2"]), ("patient", ["--lr", "1e-12", "--patience", "1"])):
        out = ["train", "--out", str(tmp_path / folder)]
        assert main([*out, *quiet, *more]) == 0
        assert "nothing was left" not in capsys.readouterr().out
        assert main([*out, "--resume"]) == 0
        assert "nothing was left" in (said := capsys.readouterr().out) and "step 6" in said and more[-2] in said


def test_data_of_ones_own_is_not_found_by_a_name(tmp_path, capsys):
    pytest.importorskip("tyro")
    assert main(["train", "--data", "own", "--out", str(tmp_path / "run")]) == 2
    assert "own" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_bad_options_on_the_command_line(capsys):
    pytest.importorskip("tyro")
    for options in (["--network", "cn"], ["--netwrk", "cnn"]):
        with pytest.raises(SystemExit) as stopped:
            main(["train", *options])
        assert stopped.value.code == 2
        assert "cnn" in capsys.readouterr().err
    assert main(["train", "--resume"]) == 2
    assert main(["train", "--config", "no-such-file.yaml"]) == 2
