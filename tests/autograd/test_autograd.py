"""Derivatives of every order, in every context in which PyTorch takes them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, autograd, dispatch
from nnkernels.benchmark import ours as call_of
from nnkernels.registry import activation


def off_knees(*shape: int, seed: int = 0) -> torch.Tensor:
    """Points at least 0.02 from every knee of the family, which lie at multiples of a half."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(*shape, dtype=torch.float64).uniform_(-4, 4, generator=generator)
    return torch.where((2 * x - (2 * x).round()).abs() < 0.04, x + 0.11, x)


def test_gradcheck_of_first_and_second_order_in_all_modes(row, backend, device):
    if backend.name == "triton" and device == "cpu":
        pytest.skip("the interpreter is covered by test_triton.py")
    f, x = call_of(row), off_knees(6).to(device).requires_grad_()
    with nnkernels.backend(backend.name):
        assert torch.autograd.gradcheck(
            f, (x,), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
        )
        assert torch.autograd.gradgradcheck(f, (x,), check_fwd_over_rev=True, check_batched_grad=True)


def test_transforms_agree_with_each_other(row):
    f, x = call_of(row), off_knees(3, 4)

    def total(x):
        return f(x).sum()

    slope = torch.func.grad(total)(x)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(x), slope)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total), in_dims=1, out_dims=1)(x), slope)
    torch.testing.assert_close(torch.func.jvp(f, (x,), (torch.ones_like(x),))[1], slope)
    torch.testing.assert_close(torch.func.jacrev(f)(x[0]), slope[0].diag())
    torch.testing.assert_close(torch.func.jacfwd(f)(x[0]), slope[0].diag())
    second = torch.func.hessian(total)(x[0])
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        for inner in (torch.func.jacfwd, torch.func.jacrev):
            torch.testing.assert_close(outer(inner(total))(x[0]), second)


def test_third_derivative_is_the_same_by_both_routes(row):
    f, x = call_of(row), off_knees(5).requires_grad_()

    def derivative(y):
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0] if y.requires_grad else torch.zeros_like(x)

    third = derivative(derivative(derivative(f(x))))

    def total(x):
        return f(x).sum()

    def nested(x):
        return torch.func.grad(lambda x: torch.func.grad(lambda x: torch.func.grad(total)(x).sum())(x).sum())(x)

    torch.testing.assert_close(third.detach(), nested(x.detach()))


@pytest.mark.parametrize("name", ["mish", "relu", "gelu", "leaky_relu"])
def test_grad_output_of_any_strides(name, backend, device):
    f = call_of(activation(name))
    x = torch.randn(6, 8, device=device)
    grads = {
        "expanded": torch.tensor(2.0, device=device).expand(6, 8),
        "row expanded": torch.randn(8, device=device).expand(6, 8),
        "column expanded": torch.randn(6, 1, device=device).expand(6, 8),
        "transposed": torch.randn(8, 6, device=device).t(),
        "slice": torch.randn(6, 16, device=device)[:, ::2],
        "half": torch.randn(6, 16, device=device)[:, 8:],
        "negated": torch.randn(6, 8, device=device).neg(),
    }
    with nnkernels.backend(backend.name):
        leaf = x.clone().requires_grad_()
        y = f(leaf)
        for layout, grad in grads.items():
            before = grad.clone()
            (got,) = torch.autograd.grad(y, leaf, grad, retain_graph=True)
            (expected,) = torch.autograd.grad(y, leaf, grad.contiguous(), retain_graph=True)
            torch.testing.assert_close(got, expected, msg=layout)
            torch.testing.assert_close(grad, before)


def test_nothing_that_the_caller_owns_is_written(row, backend, device):
    f, x = call_of(row), torch.randn(5, 33, device=device)
    grad, before = torch.randn_like(x), x.clone()
    with nnkernels.backend(backend.name):
        leaf = x.requires_grad_()
        y = f(leaf)
        kept = y.detach().clone()
        first = torch.autograd.grad(y, leaf, grad, retain_graph=True)[0]
        second = torch.autograd.grad(y, leaf, grad)[0]
    assert torch.equal(first, second)
    assert torch.equal(x.detach(), before) and torch.equal(y.detach(), kept)


def kept_storages(call) -> list[int]:
    kept: list[torch.Tensor] = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        call()
    return [t.untyped_storage().data_ptr() for t in kept]


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "hardtanh", "hardshrink", "thresholded_relu"])
def test_backward_keeps_the_output_where_that_is_exact(name):
    x = torch.randn(64, requires_grad=True)
    outputs: list[torch.Tensor] = []
    kept = kept_storages(lambda: outputs.append(call_of(activation(name))(x)))
    assert kept == [outputs[0].untyped_storage().data_ptr()]


def test_backward_keeps_one_tensor_and_no_copy(row):
    x = torch.randn(64, requires_grad=True)
    outputs: list[torch.Tensor] = []
    kept = kept_storages(lambda: outputs.append(call_of(row)(x)))
    assert len(kept) == 1
    assert kept[0] in (x.untyped_storage().data_ptr(), outputs[0].untyped_storage().data_ptr())


def test_checkpointing_and_hooks(row):
    f, x = call_of(row), off_knees(9)
    plain, rerun = x.clone().requires_grad_(), x.clone().requires_grad_()
    f(plain * 1).sum().backward()
    checkpoint(lambda x: f(x * 1), rerun, use_reentrant=False).sum().backward()
    torch.testing.assert_close(rerun.grad, plain.grad)
    packed = x.clone().requires_grad_()
    with saved_tensors_hooks(lambda t: t.numpy(force=True), torch.from_numpy):
        y = f(packed * 1)
    y.sum().backward()
    torch.testing.assert_close(packed.grad, plain.grad)


def inplace_rows():
    return [row for row in nnkernels.registry.catalogue(nnkernels.Activation) if row.inplace]


@pytest.mark.parametrize("row", inplace_rows(), ids=lambda row: row.name)
def test_inplace_equals_out_of_place(row):
    constants = accuracy.constants_of(row)[: len(row.parameters)]
    function = F.function_of(row)
    for view in (lambda x: x, lambda x: x.t(), lambda x: x[:, ::2], lambda x: x[:, 3:7]):
        x, twin = off_knees(8, 8).requires_grad_(), off_knees(8, 8).requires_grad_()
        base, base_twin = x * 1, twin * 1
        part = view(base)
        y = function(part, *constants, inplace=True)
        assert y is part
        expected = function(view(base_twin), *constants)
        torch.testing.assert_close(y, expected)
        base.square().sum().backward()
        rest = base_twin.clone()
        view(rest).copy_(expected)
        rest.square().sum().backward()
        torch.testing.assert_close(x.grad, twin.grad)


def test_inference_mode_and_no_grad(row):
    f, x = call_of(row), torch.randn(7, requires_grad=True)
    with torch.inference_mode():
        assert f(x).is_inference()
    with torch.no_grad():
        assert not f(x).requires_grad


def test_threads_agree():
    x = torch.randn(100_003)
    expected = F.mish(x)
    results: list[torch.Tensor] = []

    def work():
        leaf = x.clone().requires_grad_()
        y = F.mish(leaf)
        y.sum().backward()
        results.append(y.detach())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4 and all(torch.equal(result, expected) for result in results)


def test_second_backward_of_a_hessian_vector_product_uses_the_fused_kernel():
    calls = []
    backend = dispatch.select("mish", torch.empty(1))
    original = type(backend).double_backward

    def counting(self, *args):
        calls.append(args[0])
        return original(self, *args)

    x = off_knees(5).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(backend), "double_backward", counting)
        (slope,) = torch.autograd.grad(F.mish(x).sum(), x, create_graph=True)
        torch.autograd.grad(slope.sum(), x)
    assert calls == ["mish"]


def test_second_derivatives_beside_the_cuda_kernels_are_the_references_without_triton():
    x, grad = off_knees(40), torch.linspace(-1, 1, 40, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        found = dispatch.NATIVE["cuda"].double_backward("mish", grad + 2, grad, x, 0.0, 0.0)
    for got, expected in zip(
        found, dispatch.REFERENCE.double_backward("mish", grad + 2, grad, x, 0.0, 0.0), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.skipif(not autograd.has_cpp_node(), reason="the C++ autograd node was not built for this torch")
def test_python_routes_hold_without_the_cpp_node():
    tests = [
        "test_gradcheck_of_first_and_second_order_in_all_modes",
        "test_backward_keeps",
        "test_grad_output",
        "caller",
    ]
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here), "-k", " or ".join(tests)],
        env={**os.environ, "NNKERNELS_AUTOGRAD": "python", "PYTHONPATH": str(here.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
