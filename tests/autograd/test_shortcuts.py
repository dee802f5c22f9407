"""Calls that go past the public functions give and refuse what these would, whatever has changed since."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from conftest import DEVICE
from test_plans import CALLS, needs_node, once, tensors
from torch.overrides import TorchFunctionMode

import nnkernels
import nnkernels.functional as F
from nnkernels.autograd import route
from nnkernels.autograd.shortcut import shortcut

pytestmark = needs_node
OFTEN = 6  # enough for any call to be remembered


def x_of(*shape: int, dtype: torch.dtype = torch.float32, requires_grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_(requires_grad)


@pytest.mark.parametrize("name", CALLS)
def test_a_known_call_enters_no_python(name):
    given = tensors(name, "dense", torch.float32)
    expected, *_ = [once(name, given)[0] for _ in range(OFTEN)]
    with patch.object(route, "call", side_effect=AssertionError("the Python route was entered")):
        found, _ = once(name, given)
    for mine, first in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, first, rtol=1e-6, atol=1e-6)


def test_every_constant_counts_signed_zeros_too():
    x = x_of(4, 6)
    for _ in range(OFTEN):
        for scale in (2.0, -2.0, 1.0):
            torch.testing.assert_close(F.softmax(x, 1, scale=scale), (scale * x).softmax(1))
        for slope in (0.0, -0.0, 0.5):
            y = F.bias_act(-x.abs(), None, "leaky_relu", negative_slope=slope)
            expected = torch.nn.functional.leaky_relu(-x.abs(), slope)
            assert torch.equal(y, expected) and torch.equal(y.signbit(), expected.signbit())


def test_a_number_in_a_tensor_is_read_every_time():
    x, eps = x_of(4, 6), torch.tensor(1e-5)
    for value in (1e-5,) * OFTEN + (0.5,):
        eps.fill_(value)
        torch.testing.assert_close(F.layer_norm_act(x, 6, eps=eps), torch.nn.functional.layer_norm(x, (6,), eps=value))


def test_modes_count():
    x = x_of(4, 6, requires_grad=True)
    for _ in range(OFTEN):
        assert F.softmax(x, 1).requires_grad
        with torch.no_grad():
            assert not F.softmax(x, 1).requires_grad
        with torch.inference_mode():
            assert F.softmax(x, 1).is_inference()
        assert not F.softmax(x.detach(), 1).requires_grad


@pytest.mark.skipif(DEVICE == "cpu", reason="torch's autocast widens softmax on GPUs only")
def test_autocast_counts():
    x = x_of(4, 6, dtype=torch.bfloat16)
    for _ in range(OFTEN):
        assert F.softmax(x, 1).dtype == torch.bfloat16
        with torch.autocast("cuda", torch.bfloat16):
            assert F.softmax(x, 1).dtype == torch.float32


def test_wrong_arguments_are_refused_after_right_ones():
    x = x_of(4, 6)
    for _ in range(OFTEN):
        F.softmax(x, 1)
        F.layer_norm_act(x, 6)
        F.swiglu(x)
    with pytest.raises(IndexError, match="Dimension out of range"):
        F.softmax(x, 2)
    with pytest.raises(ValueError, match=r"\[5\]"):
        F.layer_norm_act(x, 5)
    with pytest.raises(RuntimeError, match="odd size 5"):
        F.swiglu(x[:, :5])
    with pytest.raises(TypeError, match="Tensor"):
        F.swiglu("x")
    with pytest.raises(NotImplementedError, match="int"):
        F.swiglu(x.int())


def test_a_chosen_backend_is_honoured_after_calls_without():
    x = x_of(4, 6)
    for _ in range(OFTEN):
        F.maxout(x, 2)
    asked = patch("nnkernels.reference.pooling.maxout", side_effect=RuntimeError("asked"))
    with nnkernels.backend("reference"), asked, pytest.raises(RuntimeError, match="asked"):
        F.maxout(x, 2)


def test_transforms_modes_and_subclasses_are_followed():
    x = x_of(4, 6)

    class Named(torch.Tensor):
        pass

    class Counting(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.seen += func is F.swiglu
            return func(*args, **(kwargs or {}))

    for _ in range(OFTEN):
        y = F.swiglu(x)
    torch.testing.assert_close(torch.vmap(F.swiglu)(x), y)
    assert type(F.swiglu(x.as_subclass(Named))) is Named
    with Counting() as mode:
        F.swiglu(x)
    assert mode.seen == 1
    torch.testing.assert_close(torch.compile(F.swiglu, backend="eager", fullgraph=True)(x), y)


def test_running_statistics_move_with_every_call():
    x, mean, var = x_of(8, 4, 3), torch.zeros(4, device=DEVICE), torch.ones(4, device=DEVICE)
    their_mean, their_var = mean.clone(), var.clone()
    for _ in range(OFTEN):
        F.batch_norm_act(x, mean, var, training=True, activation="silu")
        torch.nn.functional.batch_norm(x, their_mean, their_var, training=True)
        torch.testing.assert_close((mean, var), (their_mean, their_var))
        assert mean._version == their_mean._version


def test_a_function_with_another_result_or_a_second_call_is_not_remembered():
    calls = []

    @shortcut
    def noisy(x: torch.Tensor) -> torch.Tensor:
        calls.append("noisy")
        return F.softmax(x, 1) * 2

    @shortcut
    def twice(x: torch.Tensor) -> torch.Tensor:
        calls.append("twice")
        F.softmax(x, 0)
        return F.softmax(x, 1)

    x = x_of(4, 6)
    for _ in range(OFTEN):
        torch.testing.assert_close(noisy(x), 2 * x.softmax(1))
        torch.testing.assert_close(twice(x), x.softmax(1))
    assert calls == ["noisy", "twice"] * OFTEN
