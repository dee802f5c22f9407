"""nnkernels.optimize: the same model with our classes where they pay."""

from __future__ import annotations

import copy
import doctest
import re

import pytest
import torch

import nnkernels
from nnkernels import nn, optimizing


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
    monkeypatch.setattr(optimizing, "best_of_rounds", lambda calls, rounds, device: [ours, theirs])
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
    monkeypatch.setattr(
        optimizing, "best_of_rounds", lambda calls, rounds, device: [call() for call in calls] and [2, 1]
    )
    assert type(nnkernels.optimize(normed())[1]) is torch.nn.BatchNorm2d
    told = capsys.readouterr().out
    assert len(re.findall("^left +1 .*Norm.* [+] .*0.50 x", told, re.MULTILINE)) == 3
    hooked = normed()
    hooked[2].register_forward_hook(lambda *_: None)
    nnkernels.optimize(hooked, always=True, verbose=False)
    assert type(hooked[1]) is torch.nn.BatchNorm2d and type(hooked[4]) is nn.LayerNormAct


def test_a_model_that_is_an_activation():
    assert type(nnkernels.optimize(torch.nn.Mish(), always=True, verbose=False)) is nn.Mish


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="function"):
        nnkernels.optimize(torch.nn.functional.mish)


def test_example():
    assert doctest.testmod(optimizing, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
