"""The loop: it learns, means the same however a batch is computed, and stops where it should."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import training
from training import history, settings

import nnkernels
from nnkernels.train import Data, NotFinite, Problem, Settings, Trainer
from nnkernels.train.data import Tensors
from nnkernels.train.dead_units import units_off
from nnkernels.train.optimizers import LOSSES, OPTIMIZERS, SCHEDULES, Schedule
from nnkernels.train.report import read_log

pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")


def test_it_learns(tmp_path):
    told = {"data": "wine", "epochs": 15, "dropout": 0.0, "width": 32, "activation": "mish"}
    result = Trainer(settings(tmp_path / "run", **told)).run()
    assert result.best > 0.9 and result.metric == "accuracy" and result.evaluation.loss < 0.3
    assert result.steps == 15 * math.ceil(143 / 32)


def test_the_same_seed_gives_the_same_run_and_another_another(tmp_path):
    runs = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        Trainer(settings(tmp_path / name, seed=seed)).run()
        runs.append(history(tmp_path / name))
    assert runs[0] == runs[1] != runs[2]


def test_cutting_a_batch_into_pieces_changes_no_gradient(tmp_path):
    told = {"precision": "float64", "optimizer": "sgd", "lr": 0.1, "dropout": 0.0, "batch_size": 30}
    whole, cut = (Trainer(settings(tmp_path / f"{n}", accumulate=n, **told)) for n in (1, 4))
    whole.run()
    cut.run()
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
    losses = [[line[2] for line in history(one.folder) if line[2] is not None] for one in (whole, cut)]
    assert len(losses[0]) == 12 and losses[0] == pytest.approx(losses[1], rel=1e-11)


def test_recomputing_trains_to_the_same_weights_and_keeps_less(tmp_path):
    told = {"network": "cnn", "data": "digits", "activation": "silu", "precision": "float64", "batch_size": 500}
    runs, kept = [], []
    for recompute in (False, True):
        trainer = Trainer(settings(tmp_path / f"{recompute}", recompute=recompute, **told))
        outputs: list[weakref.ref] = []
        for layer in trainer.model.modules():
            layer.register_forward_hook(lambda _, given, y, to=outputs: to.append(weakref.ref(y.untyped_storage())))

        def backward(loss: torch.Tensor, of=outputs, call=torch.Tensor.backward) -> None:
            kept.append(sum(one() is not None for one in of))
            call(loss)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "backward", backward)
            trainer.step(*next(iter(trainer.batches())))
        runs.append([one.detach().clone() for one in trainer.model.parameters()])
    assert kept[1] < kept[0]
    torch.testing.assert_close(*runs, rtol=1e-11, atol=1e-13)


def test_a_step_is_what_a_bare_loop_does(tmp_path):
    told = {"dropout": 0.0, "epochs": 1, "device": "cpu"}
    trainer = Trainer(settings(tmp_path / "run", schedule="constant", warmup=0.0, clip=None, **told))
    bare = Trainer(settings(tmp_path / "bare", **told)).model
    optimizer = torch.optim.AdamW(bare.parameters(), lr=3e-3, weight_decay=0.0)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    for group in trainer.optimizer.param_groups:
        group["weight_decay"] = 0.0
    for inputs, targets in trainer.batches():
        loss = torch.nn.functional.cross_entropy(bare(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(inputs, targets) == pytest.approx(loss.item(), rel=1e-5)
    for one, other in zip(trainer.model.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "float64"])
def test_other_precisions_learn(tmp_path, precision):
    result = Trainer(settings(tmp_path / "run", precision=precision, epochs=8, lr=0.02, dropout=0.0)).run()
    assert result.best > 0.8


def test_held_out_data_is_judged_with_the_mean_weights(tmp_path):
    trainer = Trainer(settings(tmp_path / "run", ema=0.5, epochs=1, batch_size=60))
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    steps = []
    step = trainer.step
    trainer.step = lambda *batch: (step(*batch), steps.append([p.clone() for p in trainer.model.parameters()]))[0]
    trainer.run()
    first, second = steps
    for mean, start, one, two in zip(trainer.average.module.parameters(), before, first, second, strict=True):
        assert not torch.equal(start, one)
        torch.testing.assert_close(mean, (one + two) / 2)


def test_patience_ends_a_run_that_gains_nothing_and_resuming_does_not_go_on(tmp_path):
    told = {"optimizer": "sgd", "lr": 1e-12, "patience": 2, "epochs": 9}
    result = Trainer(settings(tmp_path / "run", **told)).run()
    assert result.stopped == "patience" and result.steps == 3 * 4 and result.best_step == 4
    assert Trainer(settings(tmp_path / "run", resume=True, **told)).run().steps == 12


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule):
    told = Settings(schedule=schedule, lr=1.0, optimizer="sgd", warmup=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    chosen = Schedule(told, optimizer, total=100)
    rates = []
    for _ in range(100):
        rates.append(chosen.lr)
        optimizer.step()
        chosen.step()
    chosen.evaluated(1.0)
    assert max(rates) == pytest.approx(1.0, rel=1e-3) and min(rates) > 0
    if schedule != "plateau":
        assert rates[0] < 0.2 and rates[10] == pytest.approx(1.0, rel=1e-3)
    for _ in range(5):
        chosen.evaluated(1.0)
    falls = {"constant": 1.0, "cosine": 3e-4, "one_cycle": 3e-4, "step": 0.01, "plateau": 1.0}
    assert rates[-1] == pytest.approx(falls[schedule], rel=0.5)
    assert (chosen.lr < rates[-1]) == (schedule not in ("constant", "step"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_a_step(tmp_path, name):
    trainer = Trainer(settings(tmp_path / "run", optimizer=name, lr=0.01)) if name != "muon" else None
    if trainer is None:  # it refuses biases, and says so
        with pytest.raises(ValueError, match="2D"):
            Trainer(settings(tmp_path / "run", optimizer=name))
        return
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.step(*next(iter(trainer.batches())))
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("name", [pytest.param(name, marks=gpu) for name in OPTIMIZERS if name != "muon"])
def test_every_optimizer_trains_on_a_gpu_and_goes_on_there_with_a_run_of_a_cpu(tmp_path, name):
    told = {"optimizer": name, "lr": 0.01, "schedule": "constant"}
    Trainer(settings(tmp_path / "run", device="cpu", epochs=1, **told)).run()
    result = Trainer(settings(tmp_path / "run", device="cuda", epochs=2, resume=True, **told)).run()
    assert result.began == 4 and result.steps == 8
    assert Trainer(settings(tmp_path / "run", device="cpu", epochs=3, resume=True, **told)).run().steps == 12
    assert Trainer(settings(tmp_path / "gpu", device="cuda", epochs=1, **told)).run().steps == 4


class WithoutKernel(torch.optim.Adagrad):
    """Its constructor takes `fused`, for which there is no kernel, as Adagrad's on a GPU under torch 2.11."""

    def step(self, closure=None):
        if any(group["fused"] for group in self.param_groups):
            raise NotImplementedError("Could not run 'aten::_fused_adagrad_'")
        return super().step(closure)


def test_an_optimizer_whose_fused_form_has_no_kernel_trains_in_another(tmp_path, monkeypatch):
    fused = settings(tmp_path / "run", optimizer="adagrad", epochs=1)
    Trainer(fused).run()
    monkeypatch.setitem(OPTIMIZERS, "adagrad", WithoutKernel)
    assert Trainer(settings(tmp_path / "new", optimizer="adagrad")).run().steps == 12
    again = Trainer(settings(tmp_path / "run", optimizer="adagrad", resume=True))  # a run that began with the kernel
    assert again.run().steps == 12
    assert not again.optimizer.param_groups[0]["fused"]


def test_losses_have_the_names_of_torch():
    assert LOSSES["cross_entropy"] is torch.nn.CrossEntropyLoss and LOSSES["smooth_l1"] is torch.nn.SmoothL1Loss
    assert LOSSES["mse"] is torch.nn.MSELoss and LOSSES["bce_with_logits"] is torch.nn.BCEWithLogitsLoss


@pytest.mark.parametrize("loss", ["mse", "smooth_l1", "huber", "l1"])
def test_values_are_learned_with_other_losses(tmp_path, loss):
    told = {"data": "diabetes", "loss": loss, "epochs": 5, "metric": "mae"}
    result = Trainer(settings(tmp_path / "run", **told)).run()
    assert result.best < 0.9  # in standard deviations


def one_batch(inputs: torch.Tensor, targets: torch.Tensor) -> Data:
    return Data(Tensors(inputs, targets), Tensors(inputs, targets), Problem("classes", tuple(inputs.shape[1:]), 3))


class Dividing(torch.nn.Module):
    def forward(self, x):
        return x / (x[:, :1] * 0 + x.sum() * 0)


def test_a_loss_that_is_nan_names_step_batch_and_layer_and_touches_no_weight(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), Dividing(), torch.nn.Linear(8, 3))
    data = one_batch(torch.randn(20, 4), torch.randint(3, (20,)))
    trainer = Trainer(settings(tmp_path / "run", batch_size=10), data, model)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(NotFinite, match=r"step 1, batch 0 of epoch 0.*layer 1 \(Dividing\)"):
        trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda data, model: data.train.inputs[7].fill_(math.nan), r"samples .*\b7\b.*input of sample"),
        (lambda data, model: model[2].weight.data[0].fill_(math.inf), r"layer 2 \(Linear\), its weight is not finite"),
        (lambda data, model: model[0].weight.data.fill_(3e38), r"layer 0 \(Linear\), from a finite input"),
    ],
)
def test_where_a_nan_comes_from_is_told(tmp_path, spoil, said):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), nnkernels.nn.SiLU(), torch.nn.Linear(8, 3))
    data = one_batch(torch.randn(8, 4) + 3, torch.randint(3, (8,)))
    spoil(data, model)
    with pytest.raises(NotFinite, match=said):
        Trainer(settings(tmp_path / "run", batch_size=8), data, model).run()


@pytest.mark.parametrize("average", [None, 0.5])
def test_a_nan_in_held_out_data_is_told_and_the_training_before_it_is_kept(tmp_path, average):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), nnkernels.nn.SiLU(), torch.nn.Linear(8, 3))
    good, bad = (one_batch(torch.randn(40, 4), torch.randint(3, (40,))) for _ in range(2))
    bad.held.inputs[13, 2] = math.nan
    told = {"batch_size": 8, "epochs": 2, "ema": average}
    with pytest.raises(NotFinite, match=r"held-out.*step 5.*batch 1 .*13.*input of sample 5"):
        Trainer(settings(tmp_path / "run", **told), Data(good.train, bad.held, good.problem), model).run()
    again = Trainer(settings(tmp_path / "run", resume=True, **told), good, model)
    result = again.run()
    assert result.began == 5 and result.steps == 10


def test_weights_that_are_ruined_are_not_saved(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    data = one_batch(torch.randn(8, 4), torch.randint(3, (8,)))
    trainer = Trainer(settings(tmp_path / "run", batch_size=8, epochs=1), data, model)
    step = trainer.step
    trainer.step = lambda *batch: (step(*batch), model[0].bias.data.fill_(math.inf))[0]
    with pytest.raises(NotFinite, match=r"held-out.*layer 0 \(Linear\), its bias"):
        trainer.run()
    assert not trainer.checkpoints.found()


def test_what_watch_raises_ends_a_run_and_it_can_be_resumed(tmp_path):
    seen = []

    def watch(evaluation):
        seen.append(evaluation)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(settings(tmp_path / "run"), watch=watch).run()
    assert [one.step for one in seen] == [4, 8]
    assert Trainer(settings(tmp_path / "run", resume=True)).run().steps == 12


def test_dead_units_are_those_that_are_always_off():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), nnkernels.nn.ReLU(), torch.nn.Linear(4, 2), nnkernels.nn.Tanh())
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-100.0, 100.0, 0.0, 0.0]))
    off = units_off(model.train(), torch.randn(64, 3))
    assert off["1"][0] == 1 and off["1"][1] == 0 and 0 < off["1"][2] < 1
    assert off["3"].tolist() == [0, 0] and model.training and model[0].weight.grad is None


def test_all_that_a_run_shows(tmp_path):
    event = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("matplotlib")
    told = {"tensorboard": True, "progress": True, "picture": True, "profile": True, "network": "mlp"}
    Trainer(settings(tmp_path / "run", **told)).run()
    found = event.EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = found.Tags()
    losses = [line.loss for line in read_log(tmp_path / "run" / "log.csv") if line.loss is not None]
    assert len(losses) == 12
    assert [scalar.value for scalar in found.Scalars("loss/training")] == pytest.approx(losses, rel=1e-6)
    assert {"loss/held out", "accuracy/held out", "learning rate", "samples per second"} <= set(tags["scalars"])
    assert len([tag for tag in tags["histograms"] if tag.startswith("units off/")]) == 2 and tags["graph"]
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_picture_shows_the_metric_of_each_evaluation_be_it_a_single_one(tmp_path, epochs):
    image = pytest.importorskip("matplotlib.image")
    Trainer(settings(tmp_path / "run", picture=True, epochs=epochs)).run()
    pixels = torch.tensor(image.imread(tmp_path / "run" / "curves.png"))[..., :3] * 255
    right = pixels[:, pixels.shape[1] // 2 :]
    assert ((right - torch.tensor([196.0, 78.0, 82.0])).abs().amax(-1) < 8).sum() > 10


@pytest.mark.parametrize("row", ["what,is,this", "7,x,1,2,,,3,4", "7,1,0.5,,,,,", "\0\0\0\0", "\udcff"], ids=ascii)
def test_a_row_of_the_log_that_cannot_be_read_is_named_and_left_out(tmp_path, capsys, row):
    with pytest.raises(training.Broken):
        Trainer(settings(tmp_path / "run"), watch=training.broken_off(8)).run()
    path = tmp_path / "run" / "log.csv"
    before = history(tmp_path / "run")
    lines = path.read_text().splitlines(keepends=True)
    path.write_bytes("".join([*lines[:4], row + "\n", *lines[4:]]).encode(errors="surrogateescape"))
    assert Trainer(settings(tmp_path / "run", resume=True)).run().steps == 12
    assert f"{path}, line 5" in capsys.readouterr().err
    assert history(tmp_path / "run")[: len(before)] == before


def test_a_progress_bar_shows_loss_metric_and_speed(tmp_path, capsys):
    Trainer(settings(tmp_path / "run", progress=True, epochs=5)).run()
    told = capsys.readouterr().err
    assert "20/20" in told and "loss=" in told and "accuracy=" in told


def test_deterministic_mode_is_left_as_it_was(tmp_path):
    before = torch.is_deterministic_algorithms_warn_only_enabled()
    Trainer(settings(tmp_path / "run", deterministic=True, epochs=1)).run()
    assert torch.is_deterministic_algorithms_warn_only_enabled() == before


def test_a_compiled_network_trains_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: setattr(self, "compiled", True))
    trainer = Trainer(settings(tmp_path / "run", compile=True, epochs=1))
    trainer.run()
    assert trainer.called.compiled and all("_orig_mod" not in name for name in trainer.model.state_dict())


def test_importing_the_package_imports_nothing_of_the_trainer():
    optional = ("tyro", "yaml", "torchmetrics", "sklearn", "tensorboard", "matplotlib", "nnkernels.train")
    code = f"import sys, nnkernels; print([name for name in {optional} if name in sys.modules])"
    root = Path(training.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
