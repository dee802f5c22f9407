"""Bernoulli units: the right probabilities in the tails too, the gradient of their mean, and no trace of the draw."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import re
from typing import Any

import pytest
import torch
from draws import BACKENDS, DEVICE, EVERY_DTYPE, LAYOUTS, kernels, require
from torch import Tensor
from triton_tools import NVIDIA, compile_ahead, compiles, interpret, spills

import nnkernels
import nnkernels.functional as F
from nnkernels.contracts.random import ROUNDS
from nnkernels.reference import random as reference

SEED = -(2**60) - 12345


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="triton")


@BACKENDS
@EVERY_DTYPE
def test_every_backend_draws_what_the_reference_draws(name, dtype):
    x, seed = 4 * torch.randn(3, 701, device=DEVICE).to(dtype), torch.tensor(SEED, device=DEVICE)
    for some in (x, x[:, :64], x.T):
        got, wanted = kernels(name).bernoulli(some, seed), reference.bernoulli(some, seed)
        assert got.dtype == dtype and torch.equal(got, wanted)  # no draw of this seed is so near to its probability


@BACKENDS
def test_probabilities_are_within_two_to_the_minus_32(name):
    """A unit changes sides where the 31 bits that were drawn pass 2^31 sigmoid(-|x|)."""
    words = reference.philox(torch.tensor(SEED), 1)
    assert ROUNDS == 7 and len(words) == 4
    drawn = ((words >> 1).double() + 0.5) / 2**31
    edge = torch.logit(drawn.clamp(max=0.5 - 2**-20)).to(DEVICE)  # log-odds of the rare side, below 0
    seed = torch.tensor(SEED, device=DEVICE)
    below, above = (kernels(name).bernoulli(edge + shift, seed).cpu() for shift in (-1e-6, 1e-6))
    reached = drawn < 0.5 - 2**-20
    assert reached.any() and not below[reached].any() and above[reached].all()
    mirrored = [kernels(name).bernoulli(-(edge + shift), seed).cpu() for shift in (-1e-6, 1e-6)]
    assert torch.equal(mirrored[0], 1 - below) and torch.equal(mirrored[1], 1 - above)


@pytest.mark.parametrize("logit", [-6.0, -1.0, 0.0, 0.3, 4.0])
@EVERY_DTYPE
def test_the_share_of_ones_is_sigmoid(logit, dtype):
    torch.manual_seed(1)
    x = torch.full((2**18,), logit, dtype=dtype, device=DEVICE)
    ones = F.bernoulli_straight_through(x).double()
    p = torch.sigmoid(x.double())[0].item()
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    assert abs(ones.mean().item() - p) < 5 * math.sqrt(p * (1 - p) / x.numel())


@BACKENDS
def test_certain_units_infinity_and_nan(name):
    require(name)
    with nnkernels.backend(name):
        x = torch.tensor([math.nan, math.inf, -math.inf, 200.0, -200.0], device=DEVICE).repeat(50).requires_grad_()
        y = F.bernoulli_straight_through(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    y = y.detach().view(50, 5)
    assert y[:, 0].isnan().all() and torch.equal(y[:, 1:], y.new_tensor([1.0, 0.0, 1.0, 0.0]).expand(50, 4))
    assert slope[0].isnan() and not slope.view(50, 5)[:, 1:].any()


@BACKENDS
@EVERY_DTYPE
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_has_the_gradient_of_sigmoid(name, layout, dtype):
    require(name)
    x = LAYOUTS[layout]().to(DEVICE, dtype)
    kept = x.clone()
    x.requires_grad_()
    grads = [torch.ones((), device=DEVICE, dtype=dtype).expand(x.shape),
             torch.randn(x.shape[::-1], device=DEVICE).to(dtype).permute([*range(x.dim())][::-1])]  # fmt: skip
    with nnkernels.backend(name):
        y = F.bernoulli_straight_through(x)
        again = F.bernoulli_straight_through(x)
        found = [torch.autograd.grad(y, x, grad, retain_graph=True)[0] for grad in grads]
        mean = F.bernoulli_straight_through(x, training=False)
    assert y.dtype == dtype and ((y == 0) | (y == 1)).all() and torch.equal(x, kept)
    assert y.stride() == torch.empty_like(kept).stride()
    assert x.numel() < 200 or not torch.equal(y, again)
    torch.testing.assert_close(mean, torch.sigmoid(x.double()).to(dtype))
    for got, grad in zip(found, grads, strict=True):
        p = torch.sigmoid(x.detach().double())
        torch.testing.assert_close(got, (grad.double() * p * (1 - p)).to(dtype))


def test_backward_keeps_the_input_and_nothing_else():
    x = torch.randn(300, device=DEVICE, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        F.bernoulli_straight_through(x)
    assert [one.data_ptr() for one in kept] == [x.data_ptr()]


def test_the_second_derivative_is_that_of_sigmoid():
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    firsts = [torch.autograd.grad(f(x).sum(), x, create_graph=True)[0] for f in (F.bernoulli_straight_through,
                                                                                torch.sigmoid)]  # fmt: skip
    torch.testing.assert_close(*firsts)
    torch.testing.assert_close(*(torch.autograd.grad(first.sum(), x)[0] for first in firsts))


def test_the_gradient_of_a_linear_loss_is_exact_on_average():
    torch.manual_seed(0)
    x = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    draws = torch.stack([F.bernoulli_straight_through(x + d).mean(0) for d in
                         (torch.full((400_000, 2), -0.5), torch.full((400_000, 2), 0.5))])  # fmt: skip
    slope = torch.func.grad(lambda x: F.bernoulli_straight_through(x).sum())
    measured = draws[1] - draws[0]
    expected = torch.sigmoid(x + 0.5) - torch.sigmoid(x - 0.5)
    torch.testing.assert_close(measured, expected, rtol=0, atol=5e-3)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(F.bernoulli_straight_through)(torch.zeros(3, 2))
    p = torch.sigmoid(x)
    torch.testing.assert_close(slope(x), p * (1 - p))


def test_forward_mode_and_batches():
    x, tangent = torch.randn(2, 40, dtype=torch.float64)
    y, moved = torch.func.jvp(F.bernoulli_straight_through, (x,), (tangent,))
    p = torch.sigmoid(x)
    assert ((y == 0) | (y == 1)).all()
    torch.testing.assert_close(moved, tangent * p * (1 - p))
    units = torch.func.vmap(F.bernoulli_straight_through, randomness="different")(torch.zeros(64, 40))
    assert 0.4 < units.mean() < 0.6 and len(units.unique(dim=0)) == 64


def test_the_generator_governs():
    x = torch.zeros(500, device=DEVICE)
    torch.manual_seed(7)
    first = [F.bernoulli_straight_through(x) for _ in range(4)]
    torch.manual_seed(7)
    assert all(torch.equal(one, F.bernoulli_straight_through(x)) for one in first)
    assert not torch.equal(first[0], first[1])


def test_checkpointing_draws_again_what_was_drawn():
    x = torch.randn(400, device=DEVICE, requires_grad=True)

    def weighted(x: Tensor) -> Tensor:
        y = F.bernoulli_straight_through(x)
        return (y * y.detach()).sum()

    torch.manual_seed(3)
    (plain,) = torch.autograd.grad(weighted(x), x)
    torch.manual_seed(3)
    (kept,) = torch.autograd.grad(torch.utils.checkpoint.checkpoint(weighted, x, use_reentrant=False), x)
    assert torch.equal(plain, kept) and plain.count_nonzero() < 300


@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(training):
    torch._dynamo.reset()
    x = torch.randn(300, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(F.bernoulli_straight_through, fullgraph=True, backend="aot_eager")
    y, again = compiled(x, training), compiled(x, training)
    assert torch.equal(y, again) != training
    p = torch.sigmoid(x.detach())
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], p * (1 - p))


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [([0.5], TypeError, "list"), (torch.zeros(3, dtype=torch.int64), NotImplementedError, "int64")],
)
def test_what_is_no_log_odds_is_refused(given: Any, error, named):
    with pytest.raises(error, match=re.escape(named)):
        F.bernoulli_straight_through(given)


def test_module():
    units, x = nnkernels.nn.BernoulliStraightThrough(), torch.randn(200)
    for one in (units, copy.deepcopy(units), pickle.loads(pickle.dumps(units))):
        assert set(one.train()(x).tolist()) == {0.0, 1.0}
        assert torch.equal(one.eval()(x), F.sigmoid(x)) and not one.state_dict()


@pytest.mark.parametrize("module", ["functional.random", "nn.random"])
def test_examples(module):
    import doctest

    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu_without_spilling(arch, fresh_cache, tmp_path):
    from nnkernels.triton import hardware, random, random_kernels

    for dtype, size in (("bf16", 2), ("fp32", 4), ("fp64", 8)):
        block = hardware.TILE_BYTES // random.BERNOULLI_SHARES // size
        constants = {"FLAT": True, "EVEN": True, "BLOCK_ROWS": 1, "BLOCK_COLS": block, "rows": 1}
        compiled = compile_ahead(random_kernels.bernoulli, arch, dtype, constants, hardware.NUM_WARPS,
                                 {"seed_ptr": "*i64"})  # fmt: skip
        assert spills(compiled, tmp_path) == 0, dtype
