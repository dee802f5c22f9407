"""Backward under compiled autograd, which traces the graph that eager autograd recorded, and in-place calls that a mode
watches."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import nnkernels.functional as F
from nnkernels import accuracy, nn
from nnkernels.benchmark import ours as call_of
from nnkernels.registry import Activation, catalogue

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMS = {
    "prelu": nn.PReLU,
    "apl": lambda: nn.APL(2),
    "softmax": lambda: nn.Softmax(-1),
    "maxout": lambda: nn.Maxout(2),
    "lif": lambda: nn.LIF(),
    "sparsemax": nn.Sparsemax,
    "squash": nn.Squash,
    "swiglu": nn.SwiGLU,
    "rrelu": nn.RReLU,
    "dropout": nn.Dropout,
    "mish in place": lambda: nn.Mish(inplace=True),
    "rms norm": lambda: nn.RMSNormAct(16, activation="silu"),
    "layer norm": lambda: nn.LayerNormAct(16, activation="gelu"),
    "batch norm": lambda: nn.BatchNormAct1d(16, activation="silu"),
    "bias": lambda: nn.BiasAct(16, activation="gelu"),
    "linear": lambda: nn.LinearAct(16, 5, "silu"),
    "mlp": lambda: nn.MLP(16, 12, recompute=True),
    "gated mlp": lambda: nn.GatedMLP(16, 12),
    "maxout of a product": lambda: nn.MaxoutLinear(16, 6, 3),
}
INPLACE = [
    *(row for row in catalogue(Activation) if "inplace" in inspect.signature(getattr(F, row.name)).parameters),
    None,
]
"""None is swish with a learned beta."""


def gradients(model: torch.nn.Module, x: torch.Tensor, compiled: bool) -> list[torch.Tensor]:
    """Of a weighted sum, for the input and every parameter."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(0)
    y = model(x)
    loss = (y * torch.cos(torch.arange(y.numel(), device=DEVICE, dtype=y.dtype)).view(y.shape)).sum()
    if compiled:
        torch._dynamo.reset()
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
            loss.backward()
    else:
        loss.backward()
    return [x.grad, *(parameter.grad for parameter in model.parameters())]


def alike(form: torch.nn.Module, dtype: torch.dtype = torch.float64) -> bool:
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), form).to(DEVICE, dtype)
    x = torch.randn(4, 8, device=DEVICE, dtype=dtype)
    found, expected = gradients(model, x, True), gradients(model, x, False)
    return all(torch.allclose(mine, want) for mine, want in zip(found, expected, strict=True))


def test_stateless_activations_are_traced(row):
    class Form(torch.nn.Module):
        def forward(self, x):
            return call_of(row)(x)

    assert alike(Form())


@pytest.mark.parametrize("form", FORMS)
def test_every_other_form(form):
    assert alike(FORMS[form]())


@pytest.mark.parametrize("row", INPLACE, ids=lambda row: row.name if row else "swish of a tensor")
def test_in_place_while_a_mode_watches(row):
    """The operations that the mode sees must not keep what is written over."""
    x = torch.randn(5, 6, dtype=torch.float64, device=DEVICE, requires_grad=True)
    beta = torch.full((6,), 1.5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    call = getattr(F, row.name) if row else F.swish
    more = accuracy.constants_of(row)[: len(row.parameters)] if row else (beta,)
    expected = torch.autograd.grad(call(x, *more).sum(), x)
    with FlopCounterMode(display=False):
        y = x * 1
        assert call(y, *more, inplace=True) is y
        (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(found, *expected)
