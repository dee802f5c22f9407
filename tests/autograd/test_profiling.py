"""Profilers show each form's calls and their backward passes by its name, whichever way a call goes."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.function import BackwardCFunction

import nnkernels
import nnkernels.functional as F
from nnkernels.autograd import has_cpp_node

X = torch.linspace(-3, 3, 96).view(4, 24)
FORMS = {
    "SiLU": F.silu,
    "Mish": lambda x: F.mish(x.clone(), inplace=True),
    "PReLU": lambda x: F.prelu(x, torch.full((1,), 0.25)),
    "Swish": lambda x: F.swish(x, torch.ones(1)),
    "Gated": F.swiglu,
    "Maxout": lambda x: F.maxout(x, 2),
    "Softmax": lambda x: F.softmax(x, -1),
    "LogSoftmax": lambda x: F.log_softmax(x, -1),
    "Dropout": F.dropout,
    "BiasAct": lambda x: F.bias_act(x, torch.ones(24), "gelu"),
    "ScaleAct": lambda x: F.scale_act(x, torch.ones(24)),
    "LayerNormAct": lambda x: F.layer_norm_act(x, 24),
    "RMSNormAct": lambda x: F.rms_norm_act(x, 24),
    "GatedRMSNorm": lambda x: F.gated_rms_norm(x, torch.ones(24), 24),
    "AddLayerNorm": lambda x: F.add_layer_norm(x, X, 24)[0],
    "AddRMSNorm": lambda x: F.add_rms_norm(x, X, 24)[0],
    "BatchNormAct": lambda x: F.batch_norm_act(x, None, None, training=True),
    "GroupNormAct": lambda x: F.group_norm_act(x, 2),
}


def shown(call, x):
    """The calls of ours, and the backward passes, that a profiler shows of a step."""
    with torch.profiler.profile() as profile:
        y = call(x)
        y.sum().backward()
    return [event for event in profile.events() if event.name.startswith("NNKernels")], y


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_shown_by_its_name_the_first_time_and_later(name, backend):
    with nnkernels.backend(backend):
        for _ in range(5):  # the last ones by the C++ node, and past the functions' checks
            events, y = shown(FORMS[name], X.clone().requires_grad_())
            assert {event.name for event in events} == {f"NNKernels{name}", f"NNKernels{name}Backward"}
            assert y.grad_fn.name() == f"NNKernels{name}Backward"
    if backend == "auto" and has_cpp_node():
        assert not isinstance(y.grad_fn, BackwardCFunction)


@pytest.mark.skipif(not has_cpp_node(), reason="the C++ node was not built for this torch")
@pytest.mark.parametrize("name", ["SiLU", "LayerNormAct"])
def test_what_a_profiler_asks_of_a_call_is_told(name):
    """Shapes of the operands, and a sequence number by which forward and backward find each other."""
    x = X.clone().requires_grad_()
    for _ in range(5):
        with torch.profiler.profile(record_shapes=True) as profile:
            FORMS[name](x).sum().backward()
    events = {event.name: event for event in profile.events()}
    forward, backward = events[f"NNKernels{name}"], events[f"NNKernels{name}Backward"]
    assert forward.input_shapes[0] == [4, 24]
    assert forward.sequence_nr == backward.sequence_nr >= 0


@pytest.mark.skipif(not has_cpp_node(), reason="the C++ node was not built for this torch")
@pytest.mark.parametrize("name", ["SiLU", "LayerNormAct"])
def test_a_call_without_gradients_is_shown(name):
    for _ in range(5):
        with torch.profiler.profile() as profile, torch.no_grad():
            FORMS[name](X)
    (event,) = [event for event in profile.events() if event.name.startswith("NNKernels")]
    assert event.name == f"NNKernels{name}"
