"""nnkernels.optimize: the same model with faster forwards where they pay."""

from __future__ import annotations

import copy
import doctest
import io
import itertools
import pickle
import re
import threading
from contextlib import nullcontext

import pytest
import torch

import nnkernels
from nnkernels import nn
from nnkernels.optimizing import adapting, judging, optimizing
from nnkernels.optimizing.adapting import is_adapted
from nnkernels.optimizing.step import Step


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What is timed, so that it takes no time."""
    monkeypatch.setitem(judging.SIZES, "cpu", 2**12)


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.Mish(),
        torch.nn.Sequential(torch.nn.PReLU(8), torch.nn.ReLU(inplace=True), torch.nn.GLU(1)),
        torch.nn.Softmax(dim=1),
    )


def normed():
    torch.manual_seed(0)
    inside = torch.nn.Sequential(torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Mish())
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8, momentum=None), torch.nn.LeakyReLU(0.3, inplace=True), inside,
        torch.nn.LayerNorm(6), torch.nn.GELU("tanh"), torch.nn.RMSNorm(6),
    )  # fmt: skip


def fused(given):
    return [name for name, module in given.named_modules() if is_adapted(module)]


def optimized(given, **options):
    nnkernels.optimize(given, always=True, verbose=False, **options)
    return given


def agree(after, before, x, rtol=1e-4, atol=1e-4):
    y, expected = after(x), before(x)
    torch.testing.assert_close(y, expected, rtol=rtol, atol=atol)
    ours = torch.autograd.grad(y.square().sum(), after.parameters())
    theirs = torch.autograd.grad(expected.square().sum(), before.parameters())
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=10 * atol)


def test_the_model_stays_what_it_was():
    before, x = model(), torch.randn(2, 3, 8, 8)
    after, seen = copy.deepcopy(before), []
    after[1].register_forward_hook(lambda *_: seen.append(1))
    weight = after[2][0].weight
    report = nnkernels.optimize(after, always=True, verbose=False)
    assert report.model is after and [row.places for row in report.fused] == [
        ("1",), ("2.0",), ("2.1",), ("2.2",), ("3",)
    ]  # fmt: skip
    assert isinstance(after[1], torch.nn.Mish) and after[2][0].weight is weight and repr(after) == repr(before)
    assert before.state_dict().keys() == after.state_dict().keys()
    agree(after, before, x)
    assert seen


@pytest.mark.parametrize("build", [model, normed])
def test_restoring_undoes_all(build):
    given = build()
    types = [type(module) for module in given.modules()]
    state = [dict(module.__dict__) for module in given.modules()]
    assert fused(optimized(given)) and nnkernels.restore(given) is given
    assert [type(module) for module in given.modules()] == types
    assert [module.__dict__.keys() for module in given.modules()] == [one.keys() for one in state]


def test_a_norm_and_the_activation_behind_it_become_one_pass():
    before, x = normed(), torch.randn(2, 3, 8, 8)
    after = copy.deepcopy(before)
    report = nnkernels.optimize(after, always=True, verbose=False)
    assert [row.places for row in report.fused] == [("",), ("3",), ("3.2",), ("6",)]
    for _ in range(2):  # in training, then in evaluation
        agree(after, before, x)
        torch.testing.assert_close(after[1].running_var, before[1].running_var)
        assert after[1].num_batches_tracked == before[1].num_batches_tracked
        before.eval(), after.eval()


def test_what_is_fused_calls_neither_of_the_two(monkeypatch):
    given = optimized(torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.SiLU()))
    for layer in given:
        monkeypatch.setattr(type(layer), "forward", None)
    assert given(torch.randn(2, 4, 3, 3)).shape == (2, 4, 3, 3)


@pytest.mark.parametrize(("ours", "theirs", "pays"), [(1.0, 2.0, True), (1.0, 1.0, False), (2.0, 1.0, False)])
def test_what_is_not_faster_is_left_and_said_so(monkeypatch, capsys, ours, theirs, pays):
    monkeypatch.setattr(judging, "best_of_rounds", lambda *_: [ours, theirs])
    given = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Tanh())
    (row,) = nnkernels.optimize(given).rows
    assert row.fused == pays and row.gain == theirs / ours and fused(given) == ["0", "1"] * pays
    told = capsys.readouterr().out
    assert re.match("fused +2 Tanh" if pays else "left +2 Tanh", told) and f"{theirs / ours:.2f} x" in told


def test_it_times_what_it_finds(capsys):
    given, state = model(), torch.get_rng_state()
    nnkernels.optimize(given)
    assert torch.equal(state, torch.get_rng_state())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(re.search(r"\d\.\d\d x as fast on cpu in float32", line) for line in lines)


def test_small_calls_without_gradients_are_the_classes_own_where_ours_keep_the_host(monkeypatch):
    monkeypatch.setattr(optimizing.Trial, "judge", lambda trial: (True, "faster", 2.0))
    monkeypatch.setattr(optimizing.Trial, "keeps_the_host", lambda trial: True)
    asked, adapter = [], adapting.find(torch.nn.Mish())[0]
    fused = adapter.fused
    monkeypatch.setattr(adapter, "fused", lambda module, x: asked.append(x.numel()) or fused(module, x))
    given = torch.nn.Sequential(torch.nn.Mish())
    report = nnkernels.optimize(given, verbose=False)
    assert "small calls without gradients are left" in str(report)
    small, large = torch.randn(8), torch.randn(adapting.SMALL)
    for each in (given, copy.deepcopy(given), pickle.loads(pickle.dumps(given))):
        asked.clear()
        with torch.no_grad():
            each[0](small), each[0](large)
        each[0](small)
        assert asked == [adapting.SMALL, 8]
        length = torch.export.Dim("length", max=2 * adapting.SMALL)
        with torch.no_grad():  # what exporters and tracers see of it does not depend on how much is small
            torch.export.export(each[0], (small,), dynamic_shapes=({0: length},))
    assert type(nnkernels.restore(given)[0]) is torch.nn.Mish


def test_what_asks_a_gpu_is_timed_in_evaluation_and_nothing_stays(monkeypatch):
    seen = []

    def times(calls):
        for call in calls:
            call()
            seen.append((norm.training, torch.is_grad_enabled()))
        return [1.0, 2.0]

    monkeypatch.setattr(judging, "best_of_asking", times)
    monkeypatch.setattr(judging.Trial, "_place", lambda trial: (torch.device("cuda"), torch.float32))
    monkeypatch.setitem(judging.SIZES, "cuda", 2**12)
    norm = torch.nn.BatchNorm1d(4)
    monkeypatch.setattr(judging, "forked", lambda device: nullcontext())
    before = copy.deepcopy(norm.state_dict())
    kind = judging.kinds(norm)[0]
    monkeypatch.setattr(
        kind.adapter, "samples", lambda *_: [adapting.Call((torch.randn(8, 4, requires_grad=True),), {})]
    )
    assert not judging.Trial(kind, norm, None, True, True).keeps_the_host()
    assert seen == [(False, False)] * 2 and norm.training
    assert all(torch.equal(one, before[name]) for name, one in norm.state_dict().items())
    monkeypatch.setattr(judging, "best_of_asking", lambda calls: [2.0, 2.0])
    assert judging.Trial(kind, norm, None, True, True).keeps_the_host()


def test_random_numbers_are_as_before():
    given, state = (
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Dropout(0.5)),
        torch.get_rng_state(),
    )
    nnkernels.optimize(given, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), verbose=False)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_nothing_is_recorded_the_forward_alone_is_timed(monkeypatch, mode):
    timed = judging.gradients_of
    monkeypatch.setattr(judging, "gradients_of", lambda run, wanted: timed(run, wanted) if not wanted else 1 / 0)
    given = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Mish())
    with mode():
        report = nnkernels.optimize(given, torch.randn(3, 4), verbose=False)
    assert report.rows[0].gain is not None


def test_a_hook_on_every_module_of_the_process_is_called():
    given, heard = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.ReLU()), []
    nnkernels.optimize(given, always=True, verbose=False)
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: heard.append(type(module).__name__)
    )
    given(torch.randn(3, 4))
    handle.remove()
    assert heard == ["BatchNorm1d", "ReLU", "Sequential"]


def test_a_verdict_needs_agreement(monkeypatch):
    """One lucky trial does not decide, one unlucky trial does not prevent."""
    alike, faster, ours_disturbed, theirs_disturbed = [1, 1], [1, 3], [9, 3], [1, 9]
    for first, others, pays in (
        ([theirs_disturbed], alike, False), ([ours_disturbed], faster, True), ([ours_disturbed] * 6, faster, False),
    ):  # fmt: skip
        trials = itertools.chain(first, itertools.repeat(others))
        monkeypatch.setattr(judging, "best_of_rounds", lambda *_, trials=trials: next(trials))
        assert bool(nnkernels.optimize(torch.nn.Sequential(torch.nn.Tanh()), verbose=False).fused) == pays


@pytest.mark.parametrize(("waits", "step_gains"), [(False, True), (True, True), (True, False)])
def test_where_the_gpu_is_kept_busy_its_own_time_counts(monkeypatch, waits, step_gains):
    """And where the whole step does not gain by what that chooses, what a clock on the wall chooses is tried."""
    asked = []

    def alone(calls, rounds, device, queued):
        asked.append(queued)
        return [1.0, 2.0]

    steps = iter([[1.0, 2.0] if step_gains else [2.0, 1.0], [1.0, 2.0]])
    monkeypatch.setattr(judging, "best_of_rounds", alone)
    monkeypatch.setattr(optimizing, "best_of_rounds", lambda *_: next(steps))
    monkeypatch.setattr(Step, "keeps_the_gpu_busy", lambda self: waits)
    given = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    assert nnkernels.optimize(given, torch.randn(2, 4), verbose=False).fused
    assert set(asked) == ({waits} if step_gains else {True, False})


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("register", [
    lambda given: setattr(given, "lock", threading.Lock()),
    lambda given: setattr(given[1], "process_group", threading.Lock()),  # as little to be copied as a process group
    lambda given: setattr(given[3], "stream", iter(())),
    lambda given: torch.nn.utils.weight_norm(given[0]),
    lambda given: torch.nn.utils.parametrizations.weight_norm(given[0]),
    lambda given: given[1].requires_grad_(False),
    lambda given: given[1].register_parameter("weight", None),
])  # fmt: skip
def test_what_cannot_be_copied_is_timed_all_the_same(register):
    given = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Mish())
    register(given)
    rows = nnkernels.optimize(given, verbose=False).rows
    assert {"Mish()", "ReLU()"} <= {row.shown.rpartition(" + ")[2] for row in rows}
    assert all(row.gain is not None for row in rows)


def test_nobodys_hooks_are_called_with_invented_data():
    given, calls = normed(), []
    for module in given.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
        module.register_full_backward_hook(lambda *_: calls.append(1))
    everywhere = torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        nnkernels.optimize(given, verbose=False)
    finally:
        everywhere.remove()
    assert not calls


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_times_where_no_gradients_are_wanted(context):
    with context():
        rows = nnkernels.optimize(normed().requires_grad_(False), verbose=False).rows
    assert rows and all(row.gain is not None for row in rows)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_and_traced_modules_are_passed_by(capsys):
    plain, x = model().eval(), torch.randn(2, 3, 8, 8)
    for given in (torch.jit.script(plain), torch.jit.trace(plain, x), torch.nn.Sequential(torch.jit.script(plain))):
        assert not nnkernels.optimize(given).rows and torch.equal(given(x), plain(x))
        assert capsys.readouterr().out.startswith("nothing to fuse")


def test_random_numbers_stay_the_same_unless_asked(capsys):
    def given():
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.0), torch.nn.RReLU(), torch.nn.Mish())

    changed = given()
    nnkernels.optimize(changed, always=True)
    assert fused(changed) == ["3"] and "random=True" in capsys.readouterr().out
    assert fused(optimized(given(), random=True)) == ["0", "2", "3"]


def test_a_model_of_which_nothing_is_known_is_told(capsys):
    nnkernels.optimize(torch.nn.Linear(2, 2))
    assert "Linear" in capsys.readouterr().out
    nnkernels.optimize(torch.nn.Linear(2, 2), verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("layers", [
    [torch.nn.BatchNorm1d(4, eps=0.0), torch.nn.ReLU()], [torch.nn.LayerNorm(4, eps=-1e-6), torch.nn.ReLU()],
])  # fmt: skip
def test_settings_that_ours_refuse_are_left(layers):
    assert fused(optimized(torch.nn.Sequential(*layers))) == ["1"]


@pytest.mark.parametrize(
    "act", [torch.nn.Softplus(beta=0), torch.nn.ELU(-0.5), torch.nn.LeakyReLU(2), torch.nn.ELU(1e30)]
)
def test_odd_constants_compute_as_torch_does(act):
    given, x = torch.nn.Sequential(torch.nn.BatchNorm1d(4), act), torch.arange(20.0).sin().view(5, 4)
    expected = copy.deepcopy(given)(x)
    torch.testing.assert_close(optimized(given)(x), expected, rtol=1e-4, atol=1e-5)  # norms near 0 have few digits


def test_a_model_on_the_meta_device_keeps_shapes_and_types():
    given, x = optimized(normed()).eval().to("meta"), torch.empty(2, 3, 8, 8, device="meta")
    expected = normed().eval().to("meta")(x)
    assert given(x).shape == expected.shape and given(x).dtype == expected.dtype


def test_a_model_that_is_an_activation():
    given = optimized(torch.nn.Mish())
    assert fused(given) == [""] and isinstance(given, torch.nn.Mish) and not isinstance(given, nn.Mish)


@pytest.mark.parametrize("call", [nnkernels.optimize, nnkernels.restore])
def test_what_is_no_module_is_refused(call):
    with pytest.raises(TypeError, match="function"):
        call(torch.nn.functional.mish)


@pytest.mark.parametrize("build", [model, normed])
def test_copies_and_pickles_compute_as_the_original(build):
    given, x = optimized(build()).eval(), torch.randn(2, 3, 8, 8)
    file = io.BytesIO()
    torch.save(given, file)
    file.seek(0)
    for other in (copy.deepcopy(given), pickle.loads(pickle.dumps(given)), torch.load(file, weights_only=False)):
        assert fused(other) == fused(given) and torch.equal(other(x), given(x))


def test_optimizing_twice_changes_nothing_more():
    given = optimized(normed())
    before = fused(given)
    assert not nnkernels.optimize(given, always=True, verbose=False).rows and fused(given) == before


@pytest.mark.parametrize("module", [optimizing, adapting])
def test_examples(module):
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
