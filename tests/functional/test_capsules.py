"""Squash and routing by agreement against the paper's formulas: values, gradients, layouts, contexts, bad input.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported, and
are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from triton_tools import DTYPES, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret, on_each_backend, spills

import nnkernels
import nnkernels.functional as F

LIMIT = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}

on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


device = on_each_backend("cpu", "reference", "triton")


def squashed(x: Tensor, dim: int = -1) -> Tensor:
    length = x.norm(dim=dim, keepdim=True)
    return length.square() / (1 + length.square()) * x / length


def routed(votes: Tensor, rounds: int = 3) -> Tensor:
    """Procedure 1 of the paper, with the logits b it keeps."""
    logits, heard = votes.new_zeros(votes.shape[:3]), votes.detach()
    for _ in range(rounds - 1):
        above = squashed((logits.softmax(2).unsqueeze(3) * heard).sum(1))
        logits = logits + (heard * above.unsqueeze(1)).sum(3)
    return squashed((logits.softmax(2).unsqueeze(3) * votes).sum(1))


def drawn(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def check(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor | None = None
) -> None:
    x, wide = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    y, exact = ours(x), theirs(wide)
    limit = LIMIT[x.dtype]
    assert y.dtype == x.dtype
    torch.testing.assert_close(y.double(), exact, rtol=limit, atol=limit)
    grad = drawn(*y.shape, dtype=x.dtype, device=x.device.type, seed=1) if grad is None else grad
    for _ in range(2):
        found = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
        wanted = torch.autograd.grad(exact, wide, grad.double(), retain_graph=True)[0]
        torch.testing.assert_close(found.double(), wanted, rtol=limit, atol=limit)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(3, 8, 5), (7, 2, 16), (5, 7, 300)])
@pytest.mark.parametrize("kind", DTYPES)
def test_squash(device, kind, shape, dim):
    check(lambda x: F.squash(x, dim), lambda x: squashed(x, dim), drawn(*shape, dtype=DTYPES[kind], device=device))


@pytest.mark.parametrize("layout", ["channels_last", "every other", "expanded", "unaligned"])
def test_squash_of_any_layout(device, layout):
    x = drawn(3, 8, 4, 5, device=device)
    x = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "every other": torch.stack([x, x], -1)[..., 0],
        "expanded": x[:1].expand(x.shape),
        "unaligned": torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
    }[layout]
    for dim in range(4):
        check(lambda x, dim=dim: F.squash(x, dim), lambda x, dim=dim: squashed(x, dim), x)
    if layout == "channels_last":
        assert F.squash(x, 1).stride() == x.stride()


def test_squash_of_nothing_and_of_almost_nothing(device):
    x = torch.tensor([[0.0, 0.0], [1e-30, 0.0], [1e-3, 0.0], [1e4, 0.0]], device=device, requires_grad=True)
    y = F.squash(x)
    torch.testing.assert_close(y[:, 0], torch.tensor([0.0, 0.0, 1e-6, 1.0], device=device))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad[0].abs().max() < 1e-15 and grad.isfinite().all()
    assert F.squash(torch.tensor([torch.nan, 1.0], device=device)).isnan().all()
    assert F.squash(torch.empty(3, 0, 2, device=device)).shape == (3, 0, 2)


SHAPES = [(2, 7, 3, 5), (2, 70, 10, 8), (1, 33, 4, 16), (2, 5, 1, 3)]


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", DTYPES)
def test_route(device, kind, shape, rounds):
    votes = 0.5 * drawn(*shape, dtype=DTYPES[kind], device=device)
    check(lambda votes: F.route(votes, rounds), lambda votes: routed(votes, rounds), votes)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 1, 3, 2), (3, 2, 1, 0)])
def test_route_of_any_layout(device, order):
    votes = drawn(*(SHAPES[0][dim] for dim in order), device=device).permute([order.index(dim) for dim in range(4)])
    check(F.route, routed, votes)
    x = votes.detach().requires_grad_()
    assert torch.autograd.grad(F.route(x).sum(), x)[0].stride() == votes.stride()
    check(F.route, routed, votes[:, :1].expand(SHAPES[0]))


@pytest.mark.parametrize("grad_layout", ["expanded", "transposed", "strided"])
def test_gradients_of_any_strides(device, grad_layout):
    grad = {
        "expanded": torch.tensor(0.5, dtype=torch.float64, device=device).expand(2, 3, 5),
        "transposed": drawn(5, 3, 2, device=device).permute(2, 1, 0),
        "strided": drawn(2, 3, 10, device=device)[..., ::2],
    }[grad_layout]
    check(F.route, routed, drawn(*SHAPES[0], device=device), grad)
    check(F.squash, squashed, drawn(2, 3, 5, device=device), grad)


def test_a_wrong_vote_spoils_its_sample_and_no_other(device):
    votes = drawn(*SHAPES[0], device=device)
    votes[1, 2, 0, 1] = torch.nan
    y = F.route(votes)
    assert y[1].isnan().any() and not y[0].isnan().any()


@pytest.mark.parametrize("shape", [(0, 4, 3, 2), (2, 0, 3, 2)])
def test_no_votes(device, shape):
    votes = torch.empty(shape, device=device, requires_grad=True)
    y = F.route(votes)
    assert y.shape == (shape[0], *shape[2:]) and not y.any()
    assert torch.autograd.grad(y.sum(), votes)[0].shape == shape


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not fp16 and not bf16")


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu_without_spilling(arch, fresh_cache, tmp_path):
    from nnkernels.triton import capsules

    block, above, size = capsules.tile(10, 16)
    tile = {"BLOCK": block, "ABOVE": above, "SIZE": size, "KEEPS": True, "ALIGN": 16, "STAGES": capsules.STAGES}
    tile |= {"TOGETHER": capsules.TOGETHER, "votes_col": 1}
    types = {"shares_ptr": "*fp32", "sums_ptr": "*fp32", "partial_ptr": "*fp32", "counts_ptr": "*i32"}
    cases = [
        *(("squash_kernel", dtype, {"BACKWARD": back, "LINES": 512, "SIZE": 8, "ALIGN": 8}, {})
          for dtype in ("fp32", "bf16") for back in (True, False)),
        *((name, dtype, tile, types)
          for name in ("route_kernel", "route_backward_kernel") for dtype in ("fp32", "bf16")),
    ]  # fmt: skip
    for name, dtype, constants, types in cases:
        uneven = ("lines", "size", "rounds", "batches", "splits", "share", "below", "above", "inner")
        compiled = compile_ahead(getattr(capsules, name), arch, dtype, constants, capsules.NUM_WARPS, types, uneven)
        assert spills(compiled, tmp_path) <= 16, (name, dtype)  # four registers, of one program's thousands


@on_torch_alone
def test_derivatives_of_derivatives():
    x = drawn(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(F.squash, x) and torch.autograd.gradgradcheck(F.squash, x)
    votes = drawn(2, 4, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda votes: F.route(votes, 1), votes)
    assert torch.autograd.gradgradcheck(lambda votes: F.route(votes, 1), votes)
    firsts = [torch.autograd.grad(f(votes).sin().sum(), votes, create_graph=True)[0] for f in (F.route, routed)]
    torch.testing.assert_close(*[torch.autograd.grad(one.square().sum(), votes)[0] for one in firsts])


@on_torch_alone
def test_repeated_calls_and_threads_give_what_the_first_ones_gave():
    votes, before, found = drawn(16, 300, 10, 16, dtype=torch.float32).requires_grad_(), torch.get_num_threads(), []
    try:
        for threads in (1, 1, 1, 1, 2, 2):
            torch.set_num_threads(threads)
            y = F.squash(F.route(votes))
            found.append([y, *torch.autograd.grad(y.square().sum(), votes)])
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, found[0], other)) for other in found[1:])


@on_torch_alone
def test_under_transforms_and_compiled_whole():
    x, votes = drawn(4, 3, 5), drawn(3, 2, 7, 3, 5)
    torch.testing.assert_close(torch.func.vmap(F.squash)(x), F.squash(x))
    torch.testing.assert_close(torch.func.vmap(F.route)(votes), torch.stack([F.route(one) for one in votes]))
    torch._dynamo.reset()
    compiled = torch.compile(lambda votes: F.squash(F.route(votes), 1), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(votes[0]), F.squash(F.route(votes[0]), 1))


@on_torch_alone
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_nothing_to_route(shape, rounds):
    votes = torch.zeros(shape, requires_grad=True)
    y = F.route(votes, rounds)
    assert torch.equal(y, torch.zeros(shape[0], *shape[2:])) and y.requires_grad
    assert torch.autograd.grad(y.sum(), votes)[0].shape == shape


@on_torch_alone
def test_triton_by_name_refuses_what_it_cannot_hold():
    with nnkernels.backend("triton"):
        with pytest.raises(RuntimeError, match=re.escape("(2, 5000)")):
            F.squash(torch.zeros(2, 5000))
        with pytest.raises(RuntimeError, match=re.escape("(1, 2, 100, 60)")):
            F.route(torch.zeros(1, 2, 100, 60))


@on_torch_alone
@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: F.squash(torch.zeros(2, 3), 2), IndexError, "(2, 3)"),
        (lambda: F.squash(torch.zeros(())), IndexError, "()"),
        (lambda: F.squash([1.0]), TypeError, "list"),
        (lambda: F.squash(torch.zeros(2, dtype=torch.int8)), NotImplementedError, "int8"),
        (lambda: F.route(torch.zeros(2, 3, 4)), ValueError, "(2, 3, 4)"),
        (lambda: F.route(torch.zeros(2, 3, 4, 5), 0), ValueError, "got 0"),
        (lambda: F.route(torch.zeros(2, 3, 4, 5), 1.5), TypeError, "float"),
        (lambda: F.route(None), TypeError, "NoneType"),
        (lambda: F.squash(torch.zeros(2, 3), 1.0), TypeError, "dim must be an int, got float"),
    ],
)
def test_bad_arguments_are_named(call, error, named):
    with pytest.raises(error, match=re.escape(named)):
        call()


@on_torch_alone
@pytest.mark.parametrize("module", ["functional.capsules", "nn.capsules", "networks.capsule"])
def test_examples(module):
    import doctest

    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0
