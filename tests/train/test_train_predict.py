"""A trained network answers, writes, and leaves the package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training import settings

from nnkernels.cli import main
from nnkernels.commands.predict import inputs_in
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
    np.save(tmp_path / "swapped.npy", inputs.numpy().astype(">f8"))
    np.savetxt(tmp_path / "wine.csv", inputs.numpy(), delimiter=",", fmt="%.9g")
    table = (tmp_path / "wine.csv").read_text()
    (tmp_path / "names.csv").write_text(",".join(f"feature {one}" for one in range(13)) + "\n" + table)
    (tmp_path / "excel.csv").write_text("\n" + table.replace("\n", "\r\n"), encoding="utf-8-sig", newline="")
    for name in ("wine.npy", "swapped.npy", "wine.csv", "names.csv", "excel.csv"):
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


NOT_A_NUMBER = np.zeros((2, 13))
NOT_A_NUMBER[1, 4] = np.nan


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rank.npy", np.zeros((2, 2, 13)), r"\(2, 2, 13\)"),
        ("flat.npy", np.zeros(26), r"\(26,\)"),
        ("scalar.npy", np.array(1.0), r"\(\)"),
        ("empty.npy", np.zeros((0, 13)), r"\(0, 13\)"),
        ("nan.npy", NOT_A_NUMBER, "input 2.*nan.*place 5"),
        ("large.npy", np.full(13, 1e300), "input 1.*1e\\+300"),
        ("text.npy", np.array(["a"] * 13), "text.npy.*U1"),
        ("complex.npy", np.zeros(13, complex), "complex128"),
        ("fields.npy", np.zeros(13, [("a", "f4")]), "fields.npy"),
        ("dates.npy", np.zeros(13, "M8[s]"), "datetime64"),
        ("objects.npy", np.array([{}]), "objects.npy"),
        ("junk.npy", b"junk", "junk.npy"),
        ("archive.npy", b"PK\3\4", "archive.npy"),
        ("nothing.npy", b"", "nothing.npy"),
        ("names.csv", b"one,two\n", "names.csv"),
        ("nothing.csv", b"", "nothing.csv"),
        ("ragged.csv", b"1,2\n1,2,3\n", "line 2.* 3 .* 2"),
        ("word.csv", b"one,two\n1,2\n1,x\n", "line 3.*'x'"),
        ("half.csv", b"one,2\n", "line 1.*'one'"),
        ("nan.csv", b"1," * 12 + b"nan\n", "input 1.*nan.*place 13"),
        ("binary.csv", bytes(range(128, 256)), "binary.csv"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cut.png"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value[:-1] else "",
)
def test_odd_inputs_are_refused_in_one_line(wine, tmp_path, capsys, name, content, said):
    if name.endswith("png"):
        pytest.importorskip("PIL")
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    assert main(["predict", str(wine[0]), "--input", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line) and "pickle" not in line


def _set(key, value):
    return lambda state: state["problem"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda state: state.pop("settings"), "settings"),
        (lambda state: state.pop("problem"), "problem"),
        (lambda state: state.pop("model"), "model"),
        (lambda state: state.pop("average"), "average"),
        (lambda state: state.update(settings=3), "settings"),
        (lambda state: state["settings"].update(network="cn"), "cnn"),
        (lambda state: state["settings"].update(width="wide"), "wide"),
        (lambda state: state.update(problem=None), "for"),
        (lambda state: state["problem"].pop("shape"), "shape"),
        (_set("unheard_of", 1), "unheard_of"),
        (_set("kind", "poetry"), "poetry"),
        (_set("shape", "13"), "shape"),
        (_set("shape", (-13,)), "-13"),
        (_set("shape", (10**12,)), "1000000000000"),
        (_set("classes", ("one",)), "classes"),
        (_set("mean", 1.0), "mean"),
        (_set("mean", (1.0, 2.0)), "mean"),
        (_set("target_std", "x"), "target_std"),
        (lambda state: state.update(average=7), "weights"),
        (lambda state: state.update(average=None, model={"network.1.weight": 1}), "weights"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_checkpoint_that_lacks_a_part_is_refused_in_one_line(wine, tmp_path, capsys, command, damage, said):
    path = next((wine[0] / "checkpoints").glob("best-*.pt"))
    state = torch.load(path, weights_only=True)
    damage(state)
    torch.save(state, tmp_path / "odd.pt")
    more = ["--format", "torch", "--out", str(tmp_path / "network")] if command == "export" else []
    assert main([command, str(tmp_path / "odd.pt"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and "odd.pt" in line


def test_a_damaged_best_is_told_of_beside_the_answers_not_among_them(wine, tmp_path, capsys):
    shutil.copytree(wine[0], tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").glob("best-*.pt"))
    shutil.copy(newest, newest.with_name("best-99999999-00000000.pt"))
    np.save(tmp_path / "one.npy", np.zeros(13))
    assert main(["predict", str(tmp_path / "run"), "--input", str(tmp_path / "one.npy")]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1 and "99999999" in told.err


def test_files_that_cannot_be_read_or_written(wine, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "network", Path("/proc/network")):
        assert main(["export", str(wine[0]), "--format", "torch", "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("nnkernels export: ")
    assert main(["predict", str(wine[0]), "--input", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_picture_has_as_many_colours_as_the_network_takes(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for mode in ("L", "RGB", "P", "RGBA", "1"):
        path = tmp_path / f"{mode}.png"
        image.new("RGB", (4, 3), (255, 255, 255)).convert(mode).save(path)
        for channels in (1, 3):
            assert torch.equal(inputs_in(str(path), channels), torch.ones(channels, 3, 4, dtype=torch.float64))


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
    assert writer.write("a", 5, temperature=1e-6, seed=1) == writer.write("a", 5, temperature=0)
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
