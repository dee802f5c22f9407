"""Other layouts and types than strided floating tensors: as torch's own functions, or refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nnkernels.functional as F
from nnkernels.benchmark import ours as call_of
from nnkernels.registry import Activation, catalogue

eager = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore")  # torch says that some layouts are prototypes

ROWS = (torch.randn(2, 6), torch.randn(3, 6))
LAYOUTS = {
    "sparse": lambda: torch.randn(4, 6).relu().to_sparse(),
    "sparse rows": lambda: torch.randn(4, 6).relu().to_sparse_csr(),
    "mkldnn": lambda: torch.randn(4, 6).to_mkldnn(),
    "nested": lambda: torch.nested.nested_tensor(list(ROWS)),
    "quantized": lambda: torch.quantize_per_tensor(torch.randn(4, 6), 0.1, 64, torch.quint8),
    "int": lambda: torch.arange(-3, 3).view(1, 6),
    "bool": lambda: torch.tensor([[True, False]]),
    "complex": lambda: torch.randn(2, 4, dtype=torch.complex64),
    "float8": lambda: torch.randn(4, 6).to(torch.float8_e4m3fn),
}
ARGUMENTS = {"threshold": (0.1, 2.0), "prelu": (torch.tensor([0.25]),), "softmax": (-1,), "log_softmax": (-1,)}
CALLS = [row.name for row in catalogue() if hasattr(F, row.name) and hasattr(eager, row.name) and row.name != "rrelu"]


def dense(x: Tensor) -> Tensor:
    if x.is_nested:
        return torch.cat([one.flatten() for one in x.unbind()])
    x = x.dequantize() if x.is_quantized else x
    return x if x.layout == torch.strided else x.to_dense()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_other_layouts_and_types_are_torchs(name, layout):
    x, more = LAYOUTS[layout](), ARGUMENTS.get(name, ())
    try:
        expected = getattr(eager, name)(x, *more)
    except (RuntimeError, NotImplementedError):
        with pytest.raises((RuntimeError, NotImplementedError)):
            getattr(F, name)(x, *more)
    else:
        found = getattr(F, name)(x, *more)
        assert found.layout == expected.layout and found.dtype == expected.dtype
        assert torch.allclose(dense(found), dense(expected))


@pytest.mark.parametrize("layout, says", [("sparse", "to_dense"), ("nested", "jagged"), ("int", "float32")])
def test_what_nobody_computes_is_refused_in_a_sentence(layout, says):
    x = LAYOUTS[layout]()
    calls = (
        F.swish,
        F.swiglu,
        F.act_quantize,
        F.gated_quantize,
        lambda x: F.maxout(x, 2),
        lambda x: F.rms_norm_act(x, (6,)),
    )
    for call in (*calls, lambda x: F.bias_act(x, torch.ones(6))):
        with pytest.raises(NotImplementedError, match=says):
            call(x)


@pytest.mark.parametrize("row", [*catalogue(Activation)], ids=lambda row: row.name)
def test_jagged_tensors_are_computed_row_by_row(row):
    call = call_of(row)
    x = torch.nested.nested_tensor(list(ROWS), layout=torch.jagged).requires_grad_()
    y = call(x)
    assert y.shape == x.shape  # also its jagged size, without which the two could not be added
    (grad,) = torch.autograd.grad(y.values().sum(), x)
    for rows, slopes, one in zip(y.unbind(), grad.unbind(), ROWS, strict=True):
        one = one.clone().requires_grad_()
        assert torch.equal(rows, call(one))
        assert torch.equal(slopes, *torch.autograd.grad(call(one).sum(), one))


def test_jagged_tensors_in_other_forms():
    x = torch.nested.nested_tensor([torch.randn(6, 2).t(), torch.randn(6, 3).t()], layout=torch.jagged)
    for form in (x, x.transpose(1, 2)):
        assert torch.equal(F.mish(form).values(), F.mish(form.values())) and F.mish(form).shape == form.shape
    assert torch.equal(F.swiglu(x).values(), F.swiglu(x.values()))
    y = x * 1
    assert F.mish(y, inplace=True) is y and torch.equal(y.values(), F.mish(x.values()))
    assert torch.allclose(F.log_softmax(x, -1).values(), eager.log_softmax(x.values(), -1))
    for function in (F.softmax, F.softmin):  # the scale's sign, too, is the caller's
        for scale in (1, -1, 2):
            assert torch.allclose(function(x, -1, scale=scale).values(), function(x.values(), -1, scale=scale))
