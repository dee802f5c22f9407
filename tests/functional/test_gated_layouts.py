"""Gated activations of tensors that lie in any way: nothing is left unwritten, nothing the caller owns is touched."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from composing import composed, eager, off_knees
from hypothesis import given, settings
from torch import Tensor
from triton_tools import compiles, interpret

import nnkernels.functional as F


@compiles
def test_under_the_interpreter():
    interpret(__file__)


def layouts() -> dict[str, tuple[Tensor, int]]:
    grid = torch.randn(2, 8, 6, 4)
    return {
        "vector": (torch.randn(10), 0),
        "rows": (torch.randn(5, 30), -1),
        "long rows": (torch.randn(3, 2 * 1029), -1),
        "several tiles": (torch.randn(2, 9000), -1),
        "width two": (torch.randn(7, 2), -1),
        "first dim": (torch.randn(6, 5), 0),
        "channels": (grid, 1),
        "channels last": (grid.contiguous(memory_format=torch.channels_last), 1),
        "middle": (grid, 2),
        "permuted": (grid.permute(2, 0, 3, 1), 1),
        "transposed": (torch.randn(8, 6).t(), -1),
        "columns of wider rows": (torch.randn(6, 40)[:, :20], -1),
        "columns of odd rows": (torch.randn(6, 31)[:, 1:21], -1),
        "every other": (torch.randn(6, 40)[:, ::2], -1),
        "expanded": (torch.randn(12).expand(4, 12), -1),
        "unaligned": (torch.randn(2 * 513 + 1)[1:], -1),
        "empty rows": (torch.randn(0, 4), -1),
        "empty halves": (torch.randn(4, 0), -1),
    }


GRADS = {
    "alike": torch.randn_like,
    "expanded": lambda y: torch.tensor(0.5, device=y.device, dtype=y.dtype).expand(y.shape),
    "row expanded": lambda y: torch.randn(y.shape[-1:], device=y.device, dtype=y.dtype).expand(y.shape),
    "transposed": lambda y: torch.randn(y.shape[::-1], device=y.device, dtype=y.dtype).permute(*range(y.dim())[::-1]),
    "every other": lambda y: torch.randn(*y.shape, 2, device=y.device, dtype=y.dtype)[..., 0],
}


@pytest.mark.parametrize("order", ["halves", "pairs", "swapped pairs"])
@pytest.mark.parametrize("layout", layouts())
def test_layouts(layout: str, order: str, chosen: str):
    """On poisoned memory: every element is written, nothing that the caller owns is, and strides are torch's."""
    x, dim = layouts()[layout]
    x = x.to(chosen).detach()
    interleaved, gate_first = "pairs" in order, "swapped" not in order
    leaf, twin = x.requires_grad_(), x.double().requires_grad_()
    before = leaf.detach().clone()
    y = F.gated(leaf, "mish", dim, interleaved=interleaved, gate_first=gate_first)
    expected = composed(twin, eager.mish, dim, interleaved, gate_first)
    torch.testing.assert_close(y, expected.float())
    if not interleaved:
        assert strides(y) == strides(eager.glu(x, dim))
    for name, make in GRADS.items():
        grad = make(y.detach())
        kept = grad.clone()
        (got,) = torch.autograd.grad(y, leaf, grad, retain_graph=True)
        (wanted,) = torch.autograd.grad(expected, twin, grad.double(), retain_graph=True)
        torch.testing.assert_close(got, wanted.float(), rtol=1e-5, atol=1e-6, msg=name)
        assert strides(got) == strides(torch.empty_like(x))
        assert torch.equal(grad, kept)
    assert torch.equal(leaf.detach(), before)


def strides(x: Tensor) -> list[int]:
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1 and x.numel()]


PAIRS = {
    "alike": lambda: (torch.randn(4, 33), torch.randn(4, 33)),
    "0-dim": lambda: (torch.tensor(0.7), torch.tensor(-2.0)),
    "halves": lambda: torch.randn(4, 66).chunk(2, -1),
    "up is transposed": lambda: (torch.randn(5, 7), torch.randn(7, 5).t()),
    "both are transposed": lambda: (torch.randn(7, 5).t(), torch.randn(7, 5).t()),
    "up is expanded": lambda: (torch.randn(5, 7), torch.randn(7).expand(5, 7)),
    "gate is expanded": lambda: (torch.randn(7).expand(5, 7), torch.randn(5, 7)),
    "every third": lambda: (torch.randn(5, 21)[:, ::3], torch.randn(5, 7)),
    "empty": lambda: (torch.randn(0, 3), torch.randn(0, 3)),
    "channels_last": lambda: tuple(
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last) for _ in range(2)
    ),
}


@pytest.mark.parametrize("layout", PAIRS)
def test_two_tensors(layout: str, chosen: str):
    gate, up = (part.to(chosen).detach().requires_grad_() for part in PAIRS[layout]())
    y, expected = F.swiglu(gate, up), eager.silu(gate) * up
    torch.testing.assert_close(y, expected)
    for make in (GRADS["alike"], GRADS["expanded"]):
        grad = make(y.detach())
        got = torch.autograd.grad(y, (gate, up), grad, retain_graph=True)
        wanted = torch.autograd.grad(expected, (gate, up), grad, retain_graph=True)
        torch.testing.assert_close(got, wanted)
    only_up = torch.autograd.grad(F.swiglu(gate.detach(), up).sum(), up)
    torch.testing.assert_close(only_up, torch.autograd.grad((eager.silu(gate.detach()) * up).sum(), up))


def test_the_same_tensor_as_gate_and_up():
    x = off_knees(5).requires_grad_()
    y, expected = F.swiglu(x, x), eager.silu(x) * x
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(expected.sum(), x))


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    data=st.data(),
    interleaved=st.booleans(),
    gate_first=st.booleans(),
)
def test_any_shape_dim_and_strides(sizes: list[int], data: st.DataObject, interleaved: bool, gate_first: bool):
    dim = data.draw(st.integers(-len(sizes), len(sizes) - 1))
    sizes[dim] *= 2
    order = data.draw(st.permutations(range(len(sizes))))
    steps = data.draw(st.lists(st.integers(1, 2), min_size=len(sizes), max_size=len(sizes)))
    base = torch.randn([sizes[d] * steps[d] for d in order], dtype=torch.float64)
    x = base.permute([order.index(d) for d in range(len(sizes))])
    x = x[tuple(slice(None, None, step) for step in steps)].requires_grad_()
    assert list(x.shape) == sizes
    y = F.gated(x, "silu", dim, interleaved=interleaved, gate_first=gate_first)
    expected = composed(x, eager.silu, dim, interleaved, gate_first)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad))
