"""nnkernels.optimize: the same model with our classes where they pay."""

from __future__ import annotations

import copy
import doctest
import itertools
import re
import threading

import pytest
import torch

import nnkernels
from nnkernels import nn
from nnkernels.optimizing import swapping


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What is timed, so that it takes no time."""
    monkeypatch.setitem(swapping._SIZES, "cpu", 2**12)


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.Mish(),
        torch.nn.Sequential(torch.nn.PReLU(8), torch.nn.ReLU(inplace=True), torch.nn.GLU(1)),
        torch.nn.Softmax(dim=1),
    )


def test_the_model_stays_what_it_was():
    before, x = model(), torch.randn(2, 3, 8, 8)
    after = copy.deepcopy(before)
    seen = []
    after[1].register_forward_hook(lambda *_: seen.append(1))
    weight = after[2][0].weight
    assert nnkernels.optimize(after, always=True, verbose=False) is after
    assert type(after[1]) is nn.Mish and type(after[2][0]) is nn.PReLU and type(after[3]) is nn.Softmax
    assert after[2][0].weight is weight and repr(after) == repr(before)
    assert before.state_dict().keys() == after.state_dict().keys()
    y, expected = after(x), before(x)
    torch.testing.assert_close(y, expected)
    assert seen
    for ours, theirs in zip(
        torch.autograd.grad(y.square().sum(), after.parameters()),
        torch.autograd.grad(expected.square().sum(), before.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("ours", "theirs", "swaps"), [(1.0, 2.0, True), (1.0, 1.0, False), (2.0, 1.0, False)])
def test_what_is_not_faster_is_left_and_said_so(monkeypatch, capsys, ours, theirs, swaps):
    monkeypatch.setattr(swapping, "best_of_rounds", lambda calls, rounds, device: [ours, theirs])
    changed = nnkernels.optimize(torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Tanh()))
    assert (type(changed[0]) is nn.Tanh) == swaps
    told = capsys.readouterr().out
    assert re.match("swapped +2 Tanh" if swaps else "left +2 Tanh", told) and f"{theirs / ours:.2f} x" in told


def test_it_times_what_it_finds(capsys):
    given, state = model(), torch.get_rng_state()
    nnkernels.optimize(given)
    assert torch.equal(state, torch.get_rng_state())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(re.search(r"\d\.\d\d x torch's speed on cpu in float32", line) for line in lines)


def test_a_subclass_and_a_module_that_cannot_be_timed_are_left(capsys):
    class Mine(torch.nn.Mish):
        def forward(self, input):
            return input

    changed = nnkernels.optimize(torch.nn.Sequential(Mine(), torch.nn.Softmax(dim=7)))
    assert type(changed[0]) is Mine and type(changed[1]) is torch.nn.Softmax
    assert "not timed" in capsys.readouterr().out


def normed():
    torch.manual_seed(0)
    inside = torch.nn.Sequential(torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Mish())
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8, momentum=None), torch.nn.LeakyReLU(0.3, inplace=True), inside,
        torch.nn.LayerNorm(6), torch.nn.GELU("tanh"),
    )  # fmt: skip


def test_a_norm_and_the_activation_behind_it_become_one_pass():
    before, x = normed(), torch.randn(2, 3, 8, 8)
    after = nnkernels.optimize(copy.deepcopy(before), always=True, verbose=False)
    assert type(after[1]) is nn.BatchNormAct2d and after[1].activation == "leaky_relu"
    assert type(after[3][0]) is nn.GroupNormAct and type(after[4]) is nn.LayerNormAct
    assert all(type(after[i]) is torch.nn.Identity for i in (2, 5)) and type(after[3][2]) is nn.Mish
    assert before.state_dict().keys() == after.state_dict().keys()
    for _ in range(2):  # in training, then in evaluation
        y, expected = after(x), before(x)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        ours = torch.autograd.grad(y.square().sum(), after.parameters())
        theirs = torch.autograd.grad(expected.square().sum(), before.parameters())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(after[1].running_var, before[1].running_var)
        before.eval(), after.eval()


def test_fusing_is_timed_too_and_hooks_prevent_it(monkeypatch, capsys):
    monkeypatch.setattr(swapping, "best_of_rounds", lambda calls, rounds, device: [call() for call in calls] and [2, 1])
    assert type(nnkernels.optimize(normed())[1]) is torch.nn.BatchNorm2d
    told = capsys.readouterr().out
    assert len(re.findall("^left +1 .*Norm.* [+] .*0.50 x", told, re.MULTILINE)) == 3
    hooked = normed()
    hooked[2].register_forward_hook(lambda *_: None)
    nnkernels.optimize(hooked, always=True, verbose=False)
    assert type(hooked[1]) is torch.nn.BatchNorm2d and type(hooked[4]) is nn.LayerNormAct


def unwieldy(register):
    changed = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Mish())
    register(changed)
    return changed


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
def test_what_cannot_be_copied_is_timed_all_the_same(register, capsys):
    changed = unwieldy(register)
    nnkernels.optimize(changed)
    lines = capsys.readouterr().out.splitlines()
    assert any(re.search(r"BatchNorm1d.* [+] ReLU\(\)  \d+\.\d\d x", line) for line in lines)
    assert any(re.search(r"Mish\(\)  \d+\.\d\d x", line) for line in lines)


def test_nobodys_hooks_are_called_and_nothing_is_copied():
    changed, calls = unwieldy(lambda given: None), []
    for module in changed.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
        module.register_full_backward_hook(lambda *_: calls.append(1))
    everywhere = torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    types = {type(module) for module in changed.modules()}
    try:
        for kind in types:
            kind.__deepcopy__ = lambda self, memo: calls.append(1)
        nnkernels.optimize(changed, verbose=False)
    finally:
        everywhere.remove()
        for kind in types:
            del kind.__deepcopy__
    assert not calls


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_times_where_no_gradients_are_wanted(context, capsys):
    with context():
        nnkernels.optimize(unwieldy(lambda given: given.requires_grad_(False)))
    assert "not timed" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_and_traced_modules_are_passed_by(capsys):
    plain, x = model().eval(), torch.randn(2, 3, 8, 8)
    for given in (torch.jit.script(plain), torch.jit.trace(plain, x), torch.nn.Sequential(torch.jit.script(plain))):
        assert torch.equal(nnkernels.optimize(given)(x), plain(x))
        assert capsys.readouterr().out.startswith("nothing to swap")


def test_random_numbers_stay_the_same_unless_asked(capsys):
    def given():
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.0), torch.nn.RReLU(), torch.nn.Mish())

    changed = nnkernels.optimize(given(), always=True)
    assert [type(module).__module__.split(".")[0] for module in changed] == ["torch"] * 3 + ["nnkernels"]
    assert "random=True" in capsys.readouterr().out
    changed = nnkernels.optimize(given(), always=True, random=True)
    assert [type(module) for module in changed] == [nn.Dropout, torch.nn.Dropout, nn.RReLU, nn.Mish]


def test_a_model_of_which_nothing_is_known_is_told(capsys):
    nnkernels.optimize(torch.nn.Linear(2, 2))
    assert "Linear" in capsys.readouterr().out
    nnkernels.optimize(torch.nn.Linear(2, 2), verbose=False)
    assert capsys.readouterr().out == ""


def test_a_verdict_needs_agreement(monkeypatch, capsys):
    """One lucky trial does not decide, one unlucky trial does not prevent."""
    alike, faster, ours_disturbed, theirs_disturbed = [1, 1], [1, 3], [9, 3], [1, 9]
    for first, others, swaps in (
        ([theirs_disturbed], alike, False), ([ours_disturbed], faster, True), ([ours_disturbed] * 6, faster, False),
    ):  # fmt: skip
        trials = itertools.chain(first, itertools.repeat(others))
        monkeypatch.setattr(swapping, "best_of_rounds", lambda calls, rounds, device, trials=trials: next(trials))
        changed = nnkernels.optimize(torch.nn.Sequential(torch.nn.Tanh()))
        assert (type(changed[0]) is nn.Tanh) == swaps
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("layer", [
    torch.nn.PReLU(2**15), torch.nn.Sequential(torch.nn.BatchNorm2d(2**15), torch.nn.ReLU()), torch.nn.GLU(),
])  # fmt: skip
def test_wide_layers_are_timed_on_inputs_of_the_usual_size(layer, monkeypatch):
    sizes, shape = [], swapping._shape
    monkeypatch.setitem(swapping._SIZES, "cpu", 2**19)
    monkeypatch.setattr(swapping, "_shape", lambda *given: sizes.append(shape(*given)) or (2,))
    nnkernels.optimize(layer, verbose=False)
    assert sizes and all(2**17 <= torch.Size(size).numel() <= 2**20 for size in sizes)


def test_settings_that_ours_refuse_are_left():
    kinds = [torch.nn.BatchNorm1d(4, eps=0.0), torch.nn.ReLU()], [torch.nn.BatchNorm1d(4), torch.nn.Softplus(beta=0)]
    for layers in kinds:
        assert type(nnkernels.optimize(torch.nn.Sequential(*layers), always=True, verbose=False)[0]) is type(layers[0])


def test_a_model_that_is_an_activation():
    assert type(nnkernels.optimize(torch.nn.Mish(), always=True, verbose=False)) is nn.Mish


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="function"):
        nnkernels.optimize(torch.nn.functional.mish)


def test_example():
    assert doctest.testmod(swapping, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
