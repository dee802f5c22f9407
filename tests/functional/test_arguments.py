"""Constants, types and shapes at the edge of what is accepted, and tensors that are replaced between the two passes."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from conftest import DEVICE

import nnkernels
import nnkernels.functional as F
from nnkernels import nn
from nnkernels.registry import Activation, catalogue

PARAMETRIC = [(row, name) for row in catalogue(Activation) for name in row.parameters]
LEARNED = {
    "prelu": (F.prelu, 1),
    "swish": (F.swish, 1),
    "apl": (lambda x, p: F.apl(x, p.view(1, -1), p.view(1, -1)), 1),
    "xielu": (lambda x, p: F.xielu(x, p, p.detach()), 1),
    "snake": (F.snake, 1),
    "starrelu": (lambda x, p: F.starrelu(x, p, 0.5), 1),
    "dyt": (lambda x, p: F.dyt(x, p, p.detach(), p.detach()), 1),
}


@pytest.mark.parametrize(("row", "name"), PARAMETRIC, ids=[f"{row.name}-{name}" for row, name in PARAMETRIC])
def test_a_constant_is_a_number(row, name):
    x = torch.randn(3)
    given = dict.fromkeys(row.parameters, 0.5)
    function = getattr(F, row.name)
    expected = function(x, **given)
    for number in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        assert torch.equal(function(x, **given | {name: number}), expected)
    for wrong in ("0.5", None, torch.tensor([0.5, 0.5]), np.array([0.5]), 0.5j):
        with pytest.raises(TypeError, match=name):
            F.bias_act(x, None, row.name, **given | {name: wrong})
        if row.name not in ("swish", "starrelu"):  # whose constants may be learned
            with pytest.raises(TypeError, match=name):
                function(x, **given | {name: wrong})


@pytest.mark.parametrize(("row", "name"), PARAMETRIC, ids=[f"{row.name}-{name}" for row, name in PARAMETRIC])
def test_a_constant_that_wants_a_gradient_is_refused(row, name):
    x = torch.randn(3)
    given = dict(zip(row.parameters, (0.25, 0.75), strict=False))
    given[name] = torch.nn.Parameter(torch.tensor(given[name]))
    calls = [
        lambda: getattr(nn, row.module)(**given),
        lambda: F.gated(torch.randn(4), row.name, **given),
        lambda: F.layer_norm_act(x, 3, activation=row.name, **given),
        lambda: nn.BatchNormAct1d(3, activation=row.name, **given),
    ]
    if row.name not in ("swish", "starrelu"):
        calls.append(lambda: getattr(F, row.name)(x, **given))
    for call in calls:
        with pytest.raises(TypeError, match=f"{name}.*gradient"):
            call()


@pytest.mark.parametrize(
    "call",
    [
        lambda x, c: F.rrelu(x, c, 1.0, training=True),
        lambda x, c: F.dropout(x, c),
        lambda x, c: F.swiglu(x, beta=c),
        lambda x, c: F.swiglu(x, limit=c),
        lambda x, c: F.swiglu(x, offset=c),
        lambda x, c: F.layer_norm_act(x, 4, eps=c),
        lambda x, c: F.rms_norm_act(x, 4, eps=c),
        lambda x, c: F.group_norm_act(x, 2, eps=c),
        lambda x, c: nn.RReLU(c, 1.0),
        lambda x, c: nn.Swish(c),
    ],
)
def test_so_is_every_other_number(call):
    x = torch.randn(2, 4)
    call(x, 0.5), call(x, torch.tensor(0.5))
    for wrong in (torch.tensor(0.5, requires_grad=True), "0.5"):
        with pytest.raises(TypeError):
            call(x, wrong)


@pytest.mark.parametrize("name", LEARNED)
def test_a_parameter_is_as_wide_as_the_input_or_wider(name):
    """As torch has it for prelu; those that have come later take any."""
    call, count = LEARNED[name]
    takes_any = name not in ("prelu", "swish", "apl")
    types = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    for wide in types:
        for narrow in types:
            x = torch.randn(4, 3, dtype=wide, device=DEVICE)
            parameter = torch.full((count,), 0.25, dtype=narrow, device=DEVICE)
            if takes_any or torch.promote_types(wide, narrow) == narrow:
                assert call(x, parameter).dtype == wide
            else:
                with pytest.raises(RuntimeError, match=str(narrow)):
                    call(x, parameter)


@pytest.mark.parametrize("name", LEARNED)
def test_second_derivatives_of_16_bits_are_rounded_once(name):
    call, count = LEARNED[name]
    generator = torch.Generator().manual_seed(0)
    for narrow in (torch.bfloat16, torch.float32):

        def draw(n, dtype):
            return torch.randn(n, generator=generator).to(dtype)

        given = (draw(500, torch.bfloat16), draw(count, narrow), draw(500, torch.bfloat16))
        along = draw(500, torch.bfloat16), draw(count, narrow)

        def twice(x, parameter, grad, for_x, for_parameter):
            x, parameter, grad = (t.to(DEVICE).requires_grad_() for t in (x, parameter, grad))
            found = torch.autograd.grad(call(x, parameter), (x, parameter), grad, create_graph=True)
            second = torch.autograd.grad(
                found, (x, parameter, grad), (for_x.to(DEVICE), for_parameter.to(DEVICE)), allow_unused=True
            )
            return [t for t in second if t is not None]

        got = twice(*given, *along)
        for one, exact in zip(got, twice(*(t.double() for t in (*given, *along))), strict=True):
            unit = 2.0**-8 if one.dtype == torch.bfloat16 else 2.0**-20
            torch.testing.assert_close(one.double(), exact, rtol=unit, atol=unit * 2.0**-4)


@pytest.mark.parametrize("shape", [(3, 0, 2), (3, 0), (0, 3)])
def test_no_channels_and_no_elements(shape):
    x = torch.randn(shape, device=DEVICE, requires_grad=True)
    slopes = torch.randn(2, shape[1], device=DEVICE, requires_grad=True)
    F.apl(x, slopes, slopes.detach()).sum().backward()
    assert x.grad.shape == shape and torch.equal(slopes.grad, torch.zeros_like(slopes))
    for activation in (F.prelu, F.swish):
        parameter = torch.randn(shape[1], device=DEVICE, requires_grad=True)
        activation(x, parameter).sum().backward()
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


@pytest.mark.parametrize("name", LEARNED)
def test_the_meta_device_tells_shapes(name):
    x = torch.empty(2, 3, device="meta", requires_grad=True)
    y = LEARNED[name][0](x, torch.empty(1, device="meta", requires_grad=True))
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape and y.is_meta


@pytest.mark.parametrize("name", ["relu", "silu", "prelu", "dropout", "bias_act"])
def test_more_dimensions_than_sixty_four(name):
    call = {
        "prelu": lambda x: F.prelu(x, torch.tensor([0.25], device=DEVICE)),
        "dropout": lambda x: F.dropout(x, 0.0),
        "bias_act": lambda x: F.bias_act(x, None, "relu"),
    }.get(name, getattr(F, name))
    x = torch.tensor([-1.0, 2.0, 3.0], device=DEVICE, requires_grad=True)
    many = call(x.view([1] * 64 + [3]))
    few = call(x)
    assert torch.equal(many.flatten(), few)
    grad = torch.tensor([1.0, 2.0, 3.0], device=DEVICE)
    many_grad = torch.autograd.grad(many, x, grad.view([1] * 64 + [3]))[0]
    assert torch.equal(many_grad, torch.autograd.grad(few, x, grad)[0])


@pytest.mark.parametrize("node", [True, False])
@pytest.mark.parametrize("name", ["silu", "sigmoid", "relu"])
def test_what_was_kept_may_not_change_its_shape(name, node):
    with nnkernels.backend("auto" if node else "reference"):
        x = torch.randn(8, device=DEVICE, requires_grad=True)
        y = getattr(F, name)(x)
        if name == "silu":  # which keeps its input
            x.data = torch.randn(5_000, device=DEVICE)
            with pytest.raises(RuntimeError, match=r"5000.*8"):
                y.backward(torch.ones(8, device=DEVICE))
        for other in (5_000, 1):
            hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t, n=other: t.new_ones(n))
            with hooks:
                y = getattr(F, name)(torch.randn(8, device=DEVICE, requires_grad=True))
            with pytest.raises(RuntimeError, match=rf"\b{other}\b.*8"):
                y.backward(torch.ones(8, device=DEVICE))


@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", ["bias_act", "layer_norm_act", "rms_norm_act"])
def test_a_broadcast_operand_adds_its_gradient_up_in_the_wider_type(form, wide):
    narrow = torch.bfloat16 if wide == torch.float32 else torch.float32
    x = torch.randn(300, 50, device=DEVICE).to(narrow)
    residual = torch.zeros(1, dtype=wide, device=DEVICE, requires_grad=True)
    grad = torch.full((300, 50), 1.0009765625, device=DEVICE).to(narrow)
    y = F.bias_act(x, residual=residual) if form == "bias_act" else getattr(F, form)(x, 50, residual=residual)
    y.backward(grad)
    torch.testing.assert_close(residual.grad, grad.double().sum().view(1).to(wide), rtol=1e-6, atol=0)


def test_a_broadcast_bias_adds_its_gradient_up_in_float32():
    x = torch.randn(64, 500, device=DEVICE).bfloat16()
    bias = torch.zeros(1, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)
    grad = torch.randn(64, 500, device=DEVICE).bfloat16()
    F.bias_act(x, bias).backward(grad)
    torch.testing.assert_close(bias.grad, grad.double().sum().view(1).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["relu", "silu", "softmax", "sigmoid", "rrelu", "maxout"])
def test_a_graph_that_is_never_run_back_is_freed_under_recompute(name):
    call = {
        "softmax": lambda x: F.softmax(x, -1),
        "rrelu": lambda x: F.rrelu(x, training=True),
        "maxout": lambda x: F.maxout(x, 2),
    }.get(name, getattr(F, name))
    gc.collect()
    gc.disable()  # which would find the cycles of tensors, but not those through C++ nodes
    try:
        with nnkernels.saving("recompute"):
            y = call(torch.randn(4, 4, device=DEVICE, requires_grad=True))
            freed = weakref.ref(y)
            y.square()
            del y
        assert freed() is None
    finally:
        gc.enable()
