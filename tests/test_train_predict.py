"""A trained network answers, writes, and leaves the package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training import settings

from nnkernels.cli import main
from nnkernels.train import CheckpointError, Data, Problem, Settings, Trainer
from nnkernels.train.data import Tensors
from nnkernels.train.datasets import named
from nnkernels.train.model import network
from nnkernels.train.predictor import Predictor

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wine") / "run"
    told = {"data": "wine", "epochs": 12, "dropout": 0.0, "width": 32, "ema": 0.5}
    result = Trainer(settings(folder, **told)).run()
    return folder, result


def test_a_predictor_takes_data_as_it_is_and_is_as_good_as_the_best(wine):
    folder, result = wine
    held = named("wine").held
    answers = Predictor.load(folder)(held.inputs)
    torch.testing.assert_close(answers.sum(1), torch.ones(len(answers)))
    assert (answers.argmax(1) == held.targets).float().mean() == pytest.approx(result.best)


def test_values_come_in_the_units_of_the_data(tmp_path):
    Trainer(settings(tmp_path / "run", data="diabetes", epochs=2)).run()
    answers = Predictor.load(tmp_path / "run")(named("diabetes").held.inputs)
    assert 100 < answers.mean() < 200


def test_the_command_line_predicts(wine, tmp_path, capsys, monkeypatch):
    folder, _ = wine
    inputs = named("wine").held.inputs[:4]
    expected = Predictor.load(folder)(inputs)
    np.save(tmp_path / "wine.npy", inputs.numpy())
    np.savetxt(tmp_path / "wine.csv", inputs.numpy(), delimiter=",", fmt="%.9g")
    for name in ("wine.npy", "wine.csv"):
        assert main(["predict", str(folder), "--input", str(tmp_path / name)]) == 0
        rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [row[0] for row in rows] == [f"class_{one}" for one in expected.argmax(1).tolist()]
        assert [float(row[1]) for row in rows] == pytest.approx(expected.amax(1).tolist(), abs=1e-4)


def test_bad_inputs_are_refused_with_the_shape_that_would_do(wine, tmp_path, capsys):
    folder, _ = wine
    (tmp_path / "short.csv").write_text("1,2,3\n")
    (tmp_path / "words.csv").write_text("one,two\n")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("short.csv", "words.csv", "objects.npy", "missing.csv"):
        assert main(["predict", str(folder), "--input", str(tmp_path / name)]) == 2
        told = capsys.readouterr().err
        assert ("(13,)" if name == "short.csv" else "") in told and told.startswith("nnkernels predict: ")
    assert main(["predict", str(folder)]) == 2 and "(13,)" in capsys.readouterr().err
    assert main(["predict", str(tmp_path)]) == 2 and str(tmp_path) in capsys.readouterr().err
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    for command in ("predict", "export"):
        assert main([command, str(tmp_path / "bad.pt")]) == 2 and "bad.pt" in capsys.readouterr().err


def test_a_network_of_ones_own_has_to_be_given_again(tmp_path):
    data = Data(*[Tensors(torch.randn(9, 4), torch.randint(3, (9,)))] * 2, Problem("classes", (4,), 3, ("a", "b", "c")))
    Trainer(settings(tmp_path / "run", batch_size=3), data, torch.nn.Linear(4, 3)).run()
    with pytest.raises(CheckpointError, match="your own"):
        Predictor.load(tmp_path / "run")
    assert Predictor.load(tmp_path / "run", torch.nn.Linear(4, 3))(torch.randn(2, 4)).shape == (2, 3)
    with pytest.raises(CheckpointError, match=r"weight.*\(3, 4\).*\(5, 4\)"):
        Predictor.load(tmp_path / "run", torch.nn.Linear(4, 5))


@pytest.fixture(scope="module")
def writer():
    alphabet = tuple("abcd\n")
    problem = Problem("characters", (8,), 5, alphabet)
    torch.manual_seed(0)
    return Predictor(network(Settings(network="transformer", data="pydoc", width=32, depth=1), problem), problem)


def test_a_character_model_writes(writer):
    text = writer.write("ab", 20, seed=1)
    assert text.startswith("ab") and len(text) == 22 and set(text) <= set("abcd\n")
    assert text == writer.write("ab", 20, seed=1) != writer.write("ab", 20, seed=2)
    assert writer.write("a", 5, temperature=0, seed=1) == writer.write("a", 5, temperature=0, seed=2)
    for prompt in ("xyz", ""):
        with pytest.raises(ValueError, match=repr(prompt)):
            writer.write(prompt, 1)


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_an_exported_file_gives_the_same_answer(wine, tmp_path, capsys, form):
    for package in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ():
        pytest.importorskip(package)
    folder, _ = wine
    assert main(["export", str(folder), "--format", form, "--out", str(tmp_path / "out" / "wine")]) == 0
    (path,) = (tmp_path / "out").glob("wine.*")
    assert str(path) in capsys.readouterr().out
    if form == "onnx":
        import onnxruntime

        inputs = named("wine").held.inputs
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (answers,) = session.run(None, {"input": inputs.numpy()})
        torch.testing.assert_close(torch.from_numpy(answers), Predictor.load(folder)(inputs), rtol=1e-4, atol=1e-6)
