"""Gated recurrent units against torch's own: values, gradients, tails, layouts, the module."""

from __future__ import annotations

import copy
import importlib
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_tools import DTYPES, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret, on_each_backend, spills

import nnkernels
import nnkernels.functional as F

device = on_each_backend("cpu", "reference", "triton")


def truth(given: Tensor, recurred: Tensor, hidden: Tensor) -> Tensor:
    """As torch's GRUCell says, with 1 - z as a sigmoid of its own; derivatives of these sigmoids keep their tails."""

    def sigmoid(logit: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-logit))

    (x_r, x_z, x_n), (h_r, h_z, h_n) = given.chunk(3, -1), recurred.chunk(3, -1)
    candidate = torch.tanh(x_n + sigmoid(x_r + h_r) * h_n)
    return sigmoid(-x_z - h_z) * candidate + sigmoid(x_z + h_z) * hidden


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    drawn = 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype)


def three(*shape: int, **more: Any) -> list[Tensor]:
    *rows, units = shape
    return [numbers(*rows, blocks * units, seed=seed, **more) for seed, blocks in enumerate((3, 3, 1))]


LIMIT = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


def check(given: list[Tensor], grad: Tensor | None = None) -> None:
    ours = [one.detach().requires_grad_() for one in given]
    wide = [one.detach().double().requires_grad_() for one in given]
    y, exact = F.gru_gates(*ours), truth(*wide)
    assert y.shape == given[2].shape and y.dtype == given[2].dtype and y.is_contiguous()
    grad = numbers(*y.shape, seed=9, dtype=y.dtype, device=y.device.type) if grad is None else grad
    mine, theirs = torch.autograd.grad(y, ours, grad), torch.autograd.grad(exact, wide, grad.double())
    limit = LIMIT[y.dtype]
    for got, wanted in ((y, exact), *zip(mine, theirs, strict=True)):
        assert got.shape == wanted.shape and got.dtype == y.dtype
        torch.testing.assert_close(got.double(), wanted, rtol=limit, atol=4 * limit)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 37), (2, 3, 16), (700,), (2, 1030)], ids=str)
def test_values_and_gradients(device, shape, kind):
    check(three(*shape, dtype=DTYPES[kind], device=device))


def test_gradients_keep_their_digits_where_gates_are_open_or_shut(device):
    """z is 1 in float32 from 17 on, and 1 - z, r' and z' are not 0 before -103."""
    logits = torch.linspace(-80, 80, 41, device=device)
    given = torch.stack([torch.zeros_like(logits), logits, torch.full_like(logits, 0.5)]).flatten()[None]
    recurred, hidden = torch.zeros_like(given), torch.full_like(logits, 0.25)[None]
    ours = [one.clone().requires_grad_() for one in (given, recurred, hidden)]
    wide = [one.double().requires_grad_() for one in (given, recurred, hidden)]
    found = torch.autograd.grad(F.gru_gates(*ours).sum(), ours)
    for got, wanted in zip(found, torch.autograd.grad(truth(*wide).sum(), wide), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=2e-6, atol=2e-38)


@pytest.mark.parametrize(
    "layout", ["step of a sequence", "transposed", "every other", "expanded state", "empty", "none"]
)
def test_layouts(device, layout):
    given, recurred, hidden = three(4, 6, device=device)
    tensors = {
        "step of a sequence": [torch.stack([given] * 3, 1)[:, 1], recurred, hidden],
        "transposed": [one.T.contiguous().T for one in (given, recurred, hidden)],
        "every other": [torch.stack([one, one], -1)[..., 0] for one in (given, recurred, hidden)],
        "expanded state": [given, recurred[:1].expand(4, -1), hidden[:1].expand(4, -1)],
        "empty": [one[:0] for one in (given, recurred, hidden)],
        "none": [one[:, :0] for one in (given, recurred, hidden)],
    }[layout]
    kept = [one.clone() for one in tensors]
    check(tensors)
    assert all(map(torch.equal, tensors, kept))


@pytest.mark.parametrize("grad_layout", ["expanded", "transposed", "strided"])
def test_gradients_of_any_strides(device, grad_layout):
    grad = {"expanded": numbers(1, device=device)[0].expand(4, 6), "transposed": numbers(6, 4, device=device).T,
            "strided": numbers(4, 12, device=device)[:, ::2]}[grad_layout]  # fmt: skip
    kept = grad.clone()
    check(three(4, 6, device=device), grad)
    assert torch.equal(grad, kept)


def test_nan_keeps_to_its_unit(device):
    given, recurred, hidden = three(2, 5, device=device)
    given[1, 7] = torch.nan
    expected = torch.zeros(2, 5, dtype=torch.bool, device=device)
    expected[1, 2] = True
    assert torch.equal(F.gru_gates(given, recurred, hidden).isnan(), expected)


def test_backward_keeps_the_arguments_and_nothing_else(device):
    given = [one.requires_grad_() for one in three(40, 6, device=device)]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        F.gru_gates(*given)
    assert [one.data_ptr() for one in kept] == [one.data_ptr() for one in given]


@pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")
class TestContexts:
    def test_derivatives_of_every_order(self):
        given = [one.requires_grad_() for one in three(2, 3)]
        assert torch.autograd.gradcheck(F.gru_gates, given, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(F.gru_gates, given)

    def test_compiles_whole(self):
        torch._dynamo.reset()
        given = [one.requires_grad_() for one in three(3, 4)]
        y = torch.compile(F.gru_gates, fullgraph=True, backend="aot_eager")(*given)
        torch.testing.assert_close(y, F.gru_gates(*given))
        torch.testing.assert_close(torch.autograd.grad(y.sum(), given),
                                   torch.autograd.grad(F.gru_gates(*given).sum(), given))  # fmt: skip

    @pytest.mark.parametrize(
        ("at", "other", "error", "named"),
        [
            (0, [0.0], TypeError, "list"),
            (0, torch.zeros(4, 8), ValueError, "(4, 8)"),
            (1, torch.zeros(3, 9), ValueError, "(3, 9)"),
            (2, torch.zeros(4), ValueError, "(4,)"),
            (2, torch.zeros(()), ValueError, "()"),
            (1, torch.zeros(4, 9).double(), TypeError, "float64"),
            (0, torch.zeros(4, 9).int(), NotImplementedError, "int32"),
            (0, torch.zeros(4, 9, device="meta"), RuntimeError, "meta"),
        ],
    )
    def test_bad_arguments_are_named(self, at, other, error, named):
        given: list[Any] = [torch.zeros(4, 9), torch.zeros(4, 9), torch.zeros(4, 3)]
        given[at] = other
        with pytest.raises(error, match=re.escape(named)):
            F.gru_gates(*given)

    def test_a_state_is_no_gates(self):
        gates, state = torch.zeros(2, 9), torch.zeros(2, 3)
        with pytest.raises(ValueError, match=r"hidden_gates .*\(2, 3\)"):
            F.gru_gates(gates, state, state)
        with pytest.raises(ValueError, match=r"input_gates .*\(2, 3\)"):
            torch.func.vmap(lambda h: F.gru_gates(h, h, h))(torch.zeros(4, 2, 3))

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("batch", [(), (5,)])
    def test_module_is_torchs(self, batch, bias):
        theirs = torch.nn.GRUCell(3, 4, bias).double()
        ours = nnkernels.nn.GRUCell(3, 4, bias).double()
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours) == repr(theirs)
        x, state = numbers(*batch, 3), numbers(*batch, 4, seed=1).requires_grad_()
        for one in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            torch.testing.assert_close(one(x), theirs(x))
            torch.testing.assert_close(one(x, state), theirs(x, state))
        leaves = [state, *ours.parameters()], [state, *theirs.parameters()]
        torch.testing.assert_close(torch.autograd.grad(ours(x, state).square().sum(), leaves[0]),
                                   torch.autograd.grad(theirs(x, state).square().sum(), leaves[1]))  # fmt: skip

    def test_module_under_autocast_and_of_a_wrong_input(self):
        cell, x = nnkernels.nn.GRUCell(3, 4), torch.randn(5, 3)
        with torch.autocast("cpu", torch.bfloat16):
            assert cell(x, torch.randn(5, 4)).dtype == torch.bfloat16
        with pytest.raises(ValueError, match=r"\(2, 5, 3\)"):
            cell(x.expand(2, 5, 3))
        with pytest.raises(ValueError, match=r"\(6, 4\)"):
            cell(x, torch.randn(6, 4))

    @pytest.mark.parametrize("module", ["functional.recurrent", "nn.recurrent"])
    def test_examples(self, module):
        import doctest

        assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not fp16")


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu_without_spilling(arch, fresh_cache, tmp_path):
    from nnkernels.triton import recurrent

    for dtype in ("bf16", "fp32", "fp64"):
        for kernel in (recurrent.forward, recurrent.backward):
            compiled = compile_ahead(kernel, arch, dtype, {"BLOCK": recurrent.BLOCK}, recurrent.NUM_WARPS)
            assert spills(compiled, tmp_path) == 0, (dtype, kernel)
