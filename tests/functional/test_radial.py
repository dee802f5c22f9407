"""Radial basis functions against the broadcast composition in float64: values, gradients, layouts, near distances."""

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


def truth(x: Tensor, centers: Tensor, gamma: Tensor | float) -> Tensor:
    return torch.exp(-gamma * (x.unsqueeze(-2) - centers).square().sum(-1))


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    drawn = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype)


LIMIT = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-9}
"""Of an error in the size of the largest: exponents magnify roundings, and gradients are sums that cancel."""


def check(x: Tensor, centers: Tensor, gamma: Tensor | float) -> None:
    given = [x, centers, *([gamma] if isinstance(gamma, Tensor) else [])]
    ours = [one.detach().requires_grad_() for one in given]
    wide = [one.detach().double().requires_grad_() for one in given]
    y = F.gaussian_rbf(ours[0], ours[1], ours[2] if len(ours) > 2 else gamma)
    exact = truth(wide[0], wide[1], wide[2] if len(wide) > 2 else gamma)
    grad = numbers(*y.shape, seed=5, dtype=y.dtype, device=y.device.type)
    assert y.dtype == x.dtype and y.shape == (*x.shape[:-1], len(centers)) and y.is_contiguous()
    mine, theirs = torch.autograd.grad(y, ours, grad), torch.autograd.grad(exact, wide, grad.double())
    for got, wanted in ((y, exact), *zip(mine, theirs, strict=True)):
        assert got.shape == wanted.shape and got.dtype == x.dtype
        limit = LIMIT[x.dtype] * max(wanted.abs().max().item(), 1e-3) if wanted.numel() else 0.0
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (21, 130, 7), (40, 65, 19)], ids=str)
def test_values_and_gradients(device, shape, kind):
    rows, count, features = shape
    dtype = DTYPES[kind]
    x, centers = (numbers(n, features, seed=n, dtype=dtype, device=device) / features**0.5 for n in (rows, count))
    check(x, centers, 0.7)
    check(x, centers, torch.tensor(0.75, dtype=dtype, device=device))
    check(x, centers, numbers(count, seed=2, dtype=dtype, device=device).abs() + 0.1)


def test_so_many_rows_that_gradients_come_in_parts(device):
    rows = 70 if INTERPRETED else 1003
    check(numbers(rows, 3, device=device), numbers(20, 3, seed=1, device=device), numbers(20, device=device).abs())
    check(
        numbers(9, 3, device=device), numbers(rows, 3, seed=1, device=device), torch.tensor(0.5, device=device).double()
    )


def test_distances_between_long_vectors_that_are_near_keep_their_digits(device):
    """Of length 1000, half a unit apart: |x|^2 - 2 x c + |c|^2 would be off by 0.1."""
    x = (1000 + numbers(8, 4, dtype=torch.float32, device=device) / 4).requires_grad_()
    centers = 1000 + numbers(6, 4, seed=1, dtype=torch.float32, device=device) / 4
    y = F.gaussian_rbf(x, centers, 2.0)
    wide = x.detach().double().requires_grad_()
    exact = truth(wide, centers.double(), 2.0)
    torch.testing.assert_close(y.double(), exact, rtol=2e-6, atol=0)
    got, wanted = torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(exact.sum(), wide)[0]
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)


def test_tails_are_exact_into_the_subnormal_numbers(device):
    x = torch.linspace(0, 10.1, 64, dtype=torch.float64, device=device)[:, None]
    y = F.gaussian_rbf(x.float(), torch.zeros(1, 1, device=device), 1.0).flatten().double()
    exact = torch.exp(-x.float().double().square()).flatten()
    assert ((y - exact).abs() <= 4e-6 * exact + 2**-149).all() and (y[-3:] < 2**-126).all() and y[-1] > 0


@pytest.mark.parametrize("layout", ["transposed", "half", "expanded", "batched", "vector", "no rows", "no centers"])
def test_layouts(device, layout):
    def made(*shape: int, seed: int = 0) -> Tensor:
        return numbers(*shape, seed=seed, device=device)

    x, centers = {
        "transposed": (made(5, 6).T, made(5, 7, seed=1).T),
        "half": (made(6, 10)[:, :5], made(7, 10, seed=1)[:, 5:]),
        "expanded": (made(1, 5).expand(6, 5), made(7, 1, seed=1).expand(7, 5)),
        "batched": (made(3, 5, 2).transpose(1, 2), made(7, 5, seed=1)),
        "vector": (made(5), made(7, 5, seed=1)),
        "no rows": (made(0, 5), made(7, 5)),
        "no centers": (made(6, 5), made(0, 5)),
    }[layout]
    kept = x.clone(), centers.clone()
    check(x, centers, 0.3)
    check(x, centers, made(len(centers), seed=3).abs())
    assert torch.equal(x, kept[0]) and torch.equal(centers, kept[1])


@pytest.mark.parametrize("grad_layout", ["expanded", "transposed", "strided"])
def test_gradients_of_any_strides(device, grad_layout):
    x, centers = numbers(6, 3, device=device).requires_grad_(), numbers(5, 3, seed=1, device=device).requires_grad_()
    grad = {"expanded": numbers(1, device=device)[0].expand(6, 5), "transposed": numbers(5, 6, device=device).T,
            "strided": numbers(6, 10, device=device)[:, ::2]}[grad_layout]  # fmt: skip
    kept, y, exact = grad.clone(), F.gaussian_rbf(x, centers), truth(x, centers, 1.0)
    for _ in range(2):
        got = torch.autograd.grad(y, (x, centers), grad, retain_graph=True)
        torch.testing.assert_close(got, torch.autograd.grad(exact, (x, centers), grad, retain_graph=True))
    assert torch.equal(grad, kept)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_only_the_gradients_that_are_wanted(device, wanted):
    given = [numbers(6, 3, device=device), numbers(5, 3, seed=1, device=device), numbers(5, device=device).abs()]
    for at in wanted:
        given[at].requires_grad_()
    leaves = [given[at] for at in wanted]
    torch.testing.assert_close(torch.autograd.grad(F.gaussian_rbf(*given).sum(), leaves),
                               torch.autograd.grad(truth(*given).sum(), leaves))  # fmt: skip


def test_nan_keeps_to_its_row_and_a_negative_width_is_nan(device):
    x, centers = numbers(4, 3, device=device), numbers(5, 3, seed=1, device=device)
    x[2, 1] = torch.nan
    assert torch.equal(F.gaussian_rbf(x, centers).isnan().any(1), x.isnan().any(1))
    gamma = torch.tensor([1.0, -1.0, 0.0, 2.0, 1.0], dtype=torch.float64, device=device)
    y = F.gaussian_rbf(x[:2], centers, gamma)
    assert torch.equal(y.isnan().all(0), gamma < 0) and (y[:, 2] == 1).all()


def test_backward_keeps_the_arguments_and_nothing_else(device):
    x, centers = numbers(300, 3, device=device).requires_grad_(), numbers(50, 3, device=device).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        F.gaussian_rbf(x, centers)
    assert {one.data_ptr() for one in kept} == {x.data_ptr(), centers.data_ptr()}


@pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")
class TestContexts:
    def test_derivatives_of_every_order(self):
        given = (numbers(4, 3).requires_grad_(), numbers(5, 3, seed=1).requires_grad_(), torch.rand(5).double() + 0.1)
        given[2].requires_grad_()
        assert torch.autograd.gradcheck(F.gaussian_rbf, given, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(F.gaussian_rbf, given)

    def test_under_transforms(self):
        x, centers = numbers(6, 4, 3), numbers(5, 3, seed=1)
        torch.testing.assert_close(torch.func.vmap(F.gaussian_rbf, (0, None))(x, centers), F.gaussian_rbf(x, centers))

    def test_compiles_whole(self):
        torch._dynamo.reset()
        given = (numbers(4, 3).requires_grad_(), numbers(5, 3, seed=1).requires_grad_())
        y = torch.compile(F.gaussian_rbf, fullgraph=True, backend="aot_eager")(*given)
        torch.testing.assert_close(y, F.gaussian_rbf(*given))
        torch.testing.assert_close(torch.autograd.grad(y.sum(), given),
                                   torch.autograd.grad(F.gaussian_rbf(*given).sum(), given))  # fmt: skip

    def test_threads_change_nothing(self):
        before, found = torch.get_num_threads(), []
        given = [numbers(3000, 5).float().requires_grad_(), numbers(40, 5).float().requires_grad_()]
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(torch.autograd.grad(F.gaussian_rbf(*given).square().sum(), given))
        finally:
            torch.set_num_threads(before)
        assert all(map(torch.equal, *found))

    def test_it_is_scikit_learns(self):
        pairwise = pytest.importorskip("sklearn.metrics.pairwise")
        x, centers = numbers(20, 4), numbers(7, 4, seed=1)
        theirs = torch.from_numpy(pairwise.rbf_kernel(x.numpy(), centers.numpy(), gamma=0.3))
        torch.testing.assert_close(F.gaussian_rbf(x, centers, 0.3), theirs)

    @pytest.mark.parametrize(
        ("given", "error", "named"),
        [
            (([0.0], torch.zeros(2, 3)), TypeError, "list"),
            ((torch.zeros(()), torch.zeros(2, 3)), ValueError, "()"),
            ((torch.zeros(4, 3), torch.zeros(2, 4)), ValueError, "(2, 4)"),
            ((torch.zeros(4, 3), torch.zeros(3)), ValueError, "(3,)"),
            ((torch.zeros(4, 3), torch.zeros(2, 3).double()), TypeError, "float64"),
            ((torch.zeros(4, 3).int(), torch.zeros(2, 3)), NotImplementedError, "int32"),
            ((torch.zeros(4, 3), torch.zeros(2, 3), 0.0), ValueError, "0.0"),
            ((torch.zeros(4, 3), torch.zeros(2, 3), float("inf")), ValueError, "inf"),
            ((torch.zeros(4, 3), torch.zeros(2, 3), "1"), TypeError, "gamma"),
            ((torch.zeros(4, 3), torch.zeros(2, 3), torch.ones(4)), ValueError, "(4,)"),
            ((torch.zeros(4, 3), torch.zeros(2, 3), torch.ones(2).half()), TypeError, "float16"),
            ((torch.zeros(4, 3), torch.zeros(2, 3, device="meta")), RuntimeError, "meta"),
        ],
    )
    def test_bad_arguments_are_named(self, given: Any, error, named):
        with pytest.raises(error, match=re.escape(named)):
            F.gaussian_rbf(*given)

    def test_module(self):
        layer, x = nnkernels.nn.GaussianRBF(3, 5, 0.5, per_center=True).double(), numbers(4, 3)
        for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(one(x), truth(x, layer.centers, 0.5))
        assert {name for name, _ in layer.named_parameters()} == {"centers", "log_gamma"}
        layer(x).sum().backward()
        assert layer.log_gamma.grad.shape == (5,) and layer.centers.grad.shape == (5, 3)
        fixed = nnkernels.nn.GaussianRBF(3, 5, learn_gamma=False)
        assert not fixed.log_gamma.requires_grad and "log_gamma" in fixed.state_dict() and "gamma=1.0" in repr(fixed)
        with pytest.raises(ValueError, match=r"-1\.0"):
            nnkernels.nn.GaussianRBF(3, 5, -1.0)

    @pytest.mark.parametrize("module", ["functional.radial", "nn.radial"])
    def test_examples(self, module):
        import doctest

        assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not fp16")


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu_without_spilling(arch, fresh_cache, tmp_path):
    from nnkernels.triton import radial

    for dtype in ("bf16", "fp32", "fp64"):
        wide = "*fp64" if dtype == "fp64" else "*fp32"
        types = dict.fromkeys(("pulls_ptr", "for_gamma_ptr", "made_ptr"), wide)
        constants = {"LEARNED": True, "EACH": True, "FOR_GAMMA": True, "ROWS": radial.ROWS, "CENTERS": radial.CENTERS,
                     "STEP": radial.STEP, "VECTORS": radial.VECTORS, "FEATURES": radial.FEATURES}  # fmt: skip
        for kernel in (radial.forward, radial.pull, radial.gather):
            compiled = compile_ahead(kernel, arch, dtype, constants, radial.NUM_WARPS, types)
            assert spills(compiled, tmp_path) == 0, (dtype, kernel)
