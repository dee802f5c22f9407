"""Sparsemax against its definition in exact fractions: values, gradients, layouts, contexts, bad input.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported, and
are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import importlib
import math
import re
from fractions import Fraction

import numpy
import pytest
import torch
from torch import Tensor
from triton_tools import DTYPES, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret, on_each_backend, spills

import nnkernels
import nnkernels.functional as F

LIMIT = {torch.float64: 1e-14, torch.float32: 2**-22, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Relative: 4 ulp of float32, 1 of 16 bits."""

on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


device = on_each_backend("cpu", "reference", "triton")


def exactly(row: list[float]) -> list[Fraction]:
    """The paper's algorithm 1."""
    z = [Fraction(number) for number in row]
    total, threshold = Fraction(0), Fraction(0)
    for k, number in enumerate(sorted(z, reverse=True), 1):
        total += number
        if 1 + k * number > total:
            threshold = (total - 1) / k
    return [max(number - threshold, Fraction(0)) for number in z]


def check(x: Tensor, dim: int = -1) -> Tensor:
    """Values and gradients of finite logits; 2^-149 and the like are as good as nothing."""
    x = x.detach().requires_grad_()
    y = F.sparsemax(x, dim)
    grad = drawn(*y.shape, dtype=x.dtype, device=x.device.type, seed=1)
    (found,) = torch.autograd.grad(y, x, grad)
    assert y.dtype == found.dtype == x.dtype
    rows = [tensor.detach().cpu().movedim(dim, -1).reshape(-1, x.shape[dim]).tolist() for tensor in (x, y, grad, found)]
    limit, least = Fraction(LIMIT[x.dtype]), Fraction(torch.finfo(x.dtype).smallest_normal) * 2
    least = Fraction(2**-24) if x.dtype == torch.float16 else least
    for logits, ours, given, slope in zip(*rows, strict=True):
        exact = exactly(logits)
        for mine, wanted in zip(ours, exact, strict=True):
            assert (mine > 0) == (wanted > 0), (mine, float(wanted))
            assert abs(Fraction(mine) - wanted) <= limit * wanted + least, (mine, float(wanted))
        support = [Fraction(g) for g, wanted in zip(given, exact, strict=True) if wanted > 0]
        mean = sum(support) / len(support)
        for mine, g, wanted in zip(slope, given, exact, strict=True):
            wanted = Fraction(g) - mean if wanted > 0 else Fraction(0)
            room = Fraction(1e-15) if x.dtype == torch.float64 else least  # what a sum of doubles loses
            assert abs(Fraction(mine) - wanted) <= limit * abs(wanted) + room, (mine, float(wanted))
    return y


def drawn(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(3, 8, 5), (7, 2, 16), (5, 7, 70)])
@pytest.mark.parametrize("kind", DTYPES)
def test_values_and_gradients(device, kind, shape, dim):
    for scale in (0.01, 1.0, 30.0):
        y = check(scale * drawn(*shape, dtype=DTYPES[kind], device=device), dim)
        assert (y.double().sum(dim) - 1).abs().max() < 100 * LIMIT[y.dtype]


@pytest.mark.parametrize("kind", DTYPES)
def test_small_results_have_all_their_digits(device, kind):
    dtype = DTYPES[kind]
    eps = torch.finfo(dtype).eps
    rows = [
        [1.0, eps**2, -eps, 0.0, 0.0],
        [1.0 + eps, eps, eps / 2, -1.0, 0.0],
        [-1.0 + eps, -2.0 + eps, -2.0 + 2 * eps, -2.0, -2.0 - 2 * eps],
        [2.0, 1.0 + eps, 1.0, 1.0 - eps / 2, 0.5],
        [8.0, 7.0 + 4 * eps, 7.0, 7.0, -8.0],
        [-100.0, -101.0 + 64 * eps, -100.5, -1000.0, -1000.0],
        [eps, eps / 2, -eps / 4, -1.0, -1.0 + eps],
        [0.0, -0.0, 0.0, -0.0, 0.0],
        [3e4, 3e4, -3e4, 0.0, 1.0],
    ]
    check(torch.tensor(rows, dtype=torch.float64).to(dtype).to(device))


def test_every_step_of_newtons_may_be_needed(device):
    """Logits that fall into the support group by group, each a fraction of the one before."""
    groups = [-(1 - 4.0**-k) for k in range(1, 9) for _ in range(3 ** min(k, 5))]
    check(torch.tensor([0.0, *groups], dtype=torch.float32, device=device))
    check(torch.tensor([0.0] * 300 + [-0.003] * 33, device=device))


@pytest.mark.parametrize(("size", "inner"), [(1, 1), (1, 3), (1500, 1), (20000, 1), (1200, 20), (33, 130)])
def test_rows_of_every_length(device, size, inner):
    x = drawn(2, size, inner, dtype=torch.float32, device=device)
    with nnkernels.backend("reference"):
        wanted = F.sparsemax(x.cpu().double(), 1).to(device)
    x.requires_grad_()
    y = F.sparsemax(x, 1)
    torch.testing.assert_close(y.double(), wanted, rtol=2**-22, atol=0)
    grad = drawn(*x.shape, dtype=torch.float32, device=device, seed=1)
    support = wanted > 0
    mean = torch.where(support, grad.double(), 0).sum(1, keepdim=True) / support.sum(1, keepdim=True)
    exact = torch.where(support, grad - mean, 0)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad)[0].double(), exact, rtol=2**-22, atol=1e-15)


@pytest.mark.parametrize("layout", ["channels_last", "every other", "expanded", "unaligned"])
def test_any_layout(device, layout):
    x = drawn(3, 8, 4, 5, dtype=torch.float32, device=device)
    x = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "every other": torch.stack([x, x], -1)[..., 0],
        "expanded": x[:1].expand(x.shape),
        "unaligned": torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
    }[layout]
    for dim in range(4):
        check(x, dim)
    if layout == "channels_last":
        assert F.sparsemax(x, 1).stride() == x.stride()


@pytest.mark.parametrize("grad_layout", ["expanded", "transposed", "strided"])
def test_gradients_of_any_strides(device, grad_layout):
    grad = {
        "expanded": torch.tensor(0.5, device=device).expand(2, 3, 5),
        "transposed": drawn(5, 3, 2, dtype=torch.float32, device=device).permute(2, 1, 0),
        "strided": drawn(2, 3, 10, dtype=torch.float32, device=device)[..., ::2],
    }[grad_layout]
    x = drawn(2, 3, 5, dtype=torch.float32, device=device).requires_grad_()
    for dim in (1, 2):
        found = [torch.autograd.grad(F.sparsemax(x, dim), x, g)[0] for g in (grad, grad.contiguous())]
        assert torch.equal(*found)


def test_rows_without_an_answer_are_nan_as_softmaxs(device):
    inf, nan = math.inf, math.nan
    rows = [
        [nan, 0.0, 1.0],
        [inf, 0.0, 1.0],
        [-inf, -inf, -inf],
        [-inf, nan, -inf],
        [-inf, 0.5, 0.0],
        [-3e38, 3e38, 0.0],
    ]
    x = torch.tensor(rows, device=device, requires_grad=True)
    for dim, given in ((1, x), (0, x.T)):
        y = F.sparsemax(given, dim).movedim(dim, -1)
        assert torch.equal(y.isnan(), torch.softmax(given, dim).movedim(dim, -1).isnan())
        assert y[4:].tolist() == [[0.0, 0.75, 0.25], [0.0, 1.0, 0.0]]
        (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert grad[:4].isnan().all() and not grad[4:].any()


def test_the_least_halves_stay_in_the_support(device):
    """2^-25 would round to 0, and take the gradient with it."""
    x = torch.tensor([-(2.0**-24), -1.0], dtype=torch.float16, device=device, requires_grad=True)
    y = F.sparsemax(x)
    assert y.tolist() == [1.0, 2.0**-24]
    assert torch.autograd.grad(y, x, torch.tensor([1.0, 0.0], dtype=x.dtype, device=device))[0].tolist() == [0.5, -0.5]


def test_nothing_and_one(device):
    assert F.sparsemax(torch.empty(3, 0, 2, device=device), 1).shape == (3, 0, 2)
    assert F.sparsemax(torch.empty(0, 4, device=device)).shape == (0, 4)
    assert F.sparsemax(torch.tensor(5.0, device=device), 0).item() == 1
    assert F.sparsemax(torch.tensor([[5.0], [-3e38]], device=device)).tolist() == [[1.0], [1.0]]


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not bf16 and not fp64 and not shape2 and not 1200-20")


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu_without_spilling(arch, fresh_cache, tmp_path):
    from nnkernels.triton import sparsemax

    cases = [(4096, 1), (16384, 1), (65536, 1), (64, 4096), (4096, 4096)]
    for dtype, size_of in (("fp32", 4), ("bf16", 2), ("fp64", 8)):
        for size, inner in cases:
            tile = sparsemax.tile(64, size, inner, size_of)
            constants = {"ACROSS": inner > 1, "ONCE": tile.once, "LINES": tile.lines, "SIZE": tile.size}
            constants |= {"inner": 1} if inner == 1 else {}
            for name in ("sparsemax_kernel", "sparsemax_backward_kernel"):
                compiled = compile_ahead(getattr(sparsemax, name), arch, dtype, constants, tile.num_warps)
                assert spills(compiled, tmp_path) <= 32, (name, dtype, tile)  # of one program's thousands of registers


@on_torch_alone
def test_derivatives_of_derivatives():
    x = drawn(3, 4).requires_grad_()
    for dim in (0, 1):
        assert torch.autograd.gradcheck(lambda x, dim=dim: F.sparsemax(x, dim), x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda x, dim=dim: F.sparsemax(x, dim).square() * x, x)


@on_torch_alone
def test_repeated_calls_and_threads_give_what_the_first_ones_gave():
    x, before, found = drawn(600, 300, dtype=torch.float32).requires_grad_(), torch.get_num_threads(), []
    try:
        for threads in (1, 1, 1, 1, 2, 2):
            torch.set_num_threads(threads)
            y = F.sparsemax(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), x)])
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, found[0], other)) for other in found[1:])


@on_torch_alone
def test_backward_keeps_the_output_alone():
    x = drawn(4, 5).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        y = F.sparsemax(x)
    assert [tensor.data_ptr() for tensor in kept] == [y.data_ptr()]


@on_torch_alone
def test_under_transforms_and_compiled_whole():
    x = drawn(4, 3, 5)
    torch.testing.assert_close(torch.func.vmap(F.sparsemax)(x), F.sparsemax(x))
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: F.sparsemax(x, 1), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), F.sparsemax(x, 1))


@on_torch_alone
def test_the_dimension_may_be_any_integer():
    x = torch.randn(3, 4)
    for dim in (numpy.int64(0), torch.tensor(0)):
        assert torch.equal(F.sparsemax(x, dim), F.sparsemax(x, 0))


@on_torch_alone
@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: F.sparsemax(torch.zeros(2, 3), 2), IndexError, "(2, 3)"),
        (lambda: F.sparsemax(torch.zeros(()), 1), IndexError, "()"),
        (lambda: F.sparsemax([1.0]), TypeError, "list"),
        (lambda: F.sparsemax(torch.zeros(2, 3), None), TypeError, "dim must be an int, got NoneType"),
        (lambda: F.sparsemax(torch.zeros(2, dtype=torch.int8)), NotImplementedError, "int8"),
    ],
)
def test_bad_arguments_are_named(call, error, named):
    with pytest.raises(error, match=re.escape(named)):
        call()


@on_torch_alone
@pytest.mark.parametrize("module", ["functional.sparsemax", "nn.sparsemax"])
def test_examples(module):
    import doctest

    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0
