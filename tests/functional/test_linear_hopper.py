"""Products and what stands behind them in one CUDA kernel of compute capability 9.0."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, native
from nnkernels.contracts.inner import Inner
from nnkernels.contracts.linear import keeps_result
from nnkernels.reference import evaluate
from nnkernels.registry import IDENTITY, Activation, catalogue

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = pytest.mark.skipif(
    not HOPPER or isinstance(native.library("cuda"), str),
    reason="needs a GPU of compute capability 9.0 and the CUDA part",
)
ROWS = [row for row in catalogue() if isinstance(row, Activation) and row.name != IDENTITY.name]
ROWS = [row for row in ROWS if native.index_of(row.name) is not None]
SILU = Inner("silu", 0.0, 0.0)
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])


def inner_of(row: Activation) -> Inner:
    given = (0.7 if math.isnan(default) else default for default in row.parameters.values())
    return Inner(row.name, *(*given, 0.0, 0.0)[:2])


def made(rows: int, depth: int, cols: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(rows * depth + cols)
    shapes = ((rows, depth), (cols, depth), (cols,))
    x, weight, bias = (torch.randn(shape, generator=generator, device="cuda", dtype=dtype) for shape in shapes)
    return x, weight / depth**0.5, bias


def numbers(dtype: torch.dtype) -> Tensor:
    """All of 16 bits that are finite, and zeros up to whole rows of 64."""
    finite = accuracy.inputs(dtype).nan_to_num(0, 0, 0)
    return torch.nn.functional.pad(finite, (0, -len(finite) % 64)).cuda()


def act(inner: Inner, *tensors: Tensor | None, stores: bool = False) -> tuple[Tensor, Tensor]:
    from nnkernels.cuda.linear import product_act

    return product_act(inner, *tensors, stores)  # type: ignore[arg-type]


def exactly(inner: Inner, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    z = linear(x.double(), weight.double(), None if bias is None else bias.double())
    return evaluate(inner.name, "value", z, inner.a, inner.b), z


@DTYPES
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_number_of_16_bits_is_within_an_ulp(row, dtype):
    """As products with the identity matrix, whose sums are these numbers."""
    inner = inner_of(row)
    x = numbers(dtype)
    y, z = act(inner, x.view(-1, 64), torch.eye(64, device="cuda", dtype=dtype), None, stores=True)
    assert torch.equal(z.view(-1), x)
    off = accuracy.errors(y.view(-1), accuracy.truth_of(row, "value", x, inner.a, inner.b))
    worst = off.argmax()
    assert off[worst] <= 1, f"{off[worst]} ulp at {x[worst]}"


@DTYPES
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "rows, depth, cols",
    [(1, 8, 8), (127, 64, 136), (257, 72, 128), (1000, 256, 264), (300, 520, 1000), (20_000, 264, 1032)],
    ids=str,
)
def test_edges_in_every_direction(rows, depth, cols, with_bias, dtype):
    x, weight, bias = made(rows, depth, cols, dtype)
    given = x, weight, bias if with_bias else None
    value, sums = exactly(SILU, *given)
    for stores in (True, False):
        y, z = act(SILU, *given, stores=stores)
        torch.testing.assert_close(y.double(), value, rtol=2**-7, atol=1e-3)
        assert z is y if not stores else torch.allclose(z.double(), sums, rtol=2**-7, atol=1e-3)
        assert torch.equal(y, act(SILU, *given, stores=stores)[0])


@pytest.mark.parametrize("name", ["gelu", "mish", "relu_squared", "silu"])
def test_no_less_exact_than_cublas_in_float32(name):
    inner = Inner(name, 0.0, 0.0)
    given = made(4096, 768, 3072)
    value, _ = exactly(inner, *given)
    theirs = evaluate(name, "value", linear(*(one.float() for one in given)), 0.0, 0.0).bfloat16()
    ours, _ = act(inner, *given)
    error, allowed = ((one.double() - value).abs() for one in (ours, theirs))
    assert error.mean() <= 1.02 * allowed.mean() and error.max() <= 1.1 * allowed.max()


def test_nan_and_infinity_stay_in_their_rows():
    x, weight, bias = made(300, 128, 256)
    x[7, 3], x[150, 0] = torch.nan, torch.inf
    y, _ = act(SILU, x, weight, bias)
    expected = torch.nn.functional.silu(linear(x.float(), weight.float(), bias.float()))
    whole = [row for row in range(300) if row not in (7, 150)]
    assert y[7].isnan().all() and torch.equal(y[150].isinf(), expected[150].isinf())
    torch.testing.assert_close(y[whole].float(), expected[whole], rtol=2**-7, atol=1e-3)


def test_more_than_two_billion_results():
    x, weight, bias = made(2**17 + 8, 8, 2**14 + 8)
    y, _ = act(SILU, x, weight, bias)
    for part in (slice(0, 100), slice(2**17 - 50, None)):
        value, _ = exactly(SILU, x[part], weight, bias)
        torch.testing.assert_close(y[part].double(), value, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("name", ["silu", "gelu", "relu"])
def test_public_calls_go_by_it_and_have_its_gradients(name):
    given = [one.requires_grad_() for one in made(8192, 256, 1024)]
    y = F.linear_act(*given, activation=name)
    wide = [one.detach().double().requires_grad_() for one in given]
    expected = getattr(torch.nn.functional, name)(linear(*wide))
    torch.testing.assert_close(y.double(), expected, rtol=2**-7, atol=1e-3)
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, given, grad, retain_graph=True)
    assert all(map(torch.equal, found, torch.autograd.grad(y, given, grad)))
    for one, other in zip(found, torch.autograd.grad(expected, wide, grad.double()), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-2, atol=2e-2 * other.abs().max().item())


def test_who_is_served(monkeypatch):
    from nnkernels.cuda import linear as kernels

    served: list[object] = []
    product = kernels.product_act
    monkeypatch.setattr(kernels, "product_act", lambda *told: served.append(told) or product(*told))

    def is_served(*given: Tensor | None, **told: object) -> bool:
        served.clear()
        F.linear_act(*given, **told)
        return bool(served)

    given = made(8192, 256, 1024)
    assert is_served(*given, activation="silu")
    assert not is_served(*given, activation="silu", round_preact=True)
    assert not is_served(*given, activation="identity")
    assert not is_served(*(one[:64] for one in given[:2]), None, activation="silu")  # cuBLAS's
    assert not is_served(*(one.float() for one in given), activation="silu")
    assert not is_served(given[0][:, :252], given[1][:, :252], activation="silu")  # rows lie apart
    shifted = torch.empty(1025, device="cuda", dtype=torch.bfloat16)[1:].copy_(given[2])
    assert not is_served(*given[:2], shifted, activation="silu")
    with nnkernels.backend("triton"):
        assert not is_served(*given, activation="silu")
    with nnkernels.backend("cuda"):
        assert is_served(*given, activation="silu")


def test_repeated_calls_graphs_and_streams():
    given = made(4096, 256, 1024)
    expected = F.linear_act(*given, activation="silu")
    for _ in range(6):  # which the C++ node repeats from the fourth on
        assert torch.equal(F.linear_act(*given, activation="silu"), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = F.linear_act(*given, activation="silu")
    given[0].neg_()
    graph.replay()
    assert torch.equal(y, F.linear_act(*given, activation="silu"))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        on_side = F.linear_act(*given, activation="silu")
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(on_side, y)


@pytest.mark.parametrize("name", ["relu", "silu"])
def test_what_is_kept(name):
    inner = Inner(name, 0.0, 0.0)
    from nnkernels.contracts.linear import Ending
    from nnkernels.cuda.linear import linear_act

    given = made(8192, 256, 1024)
    y, kept = linear_act(Ending(inner, False), *given, True)
    assert (kept is y) == keeps_result(inner)
    y, kept = linear_act(Ending(inner, False), *given, False)
    assert kept is y


SLOPES = ["relu", "silu", "gelu_tanh", "mish", "sigmoid", "hardswish", "leaky_relu"]


def slope(inner: Inner, *tensors: Tensor, sums: bool = True, again: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    from nnkernels.cuda.linear import product_slope

    return product_slope(inner, *tensors, sums, again)  # type: ignore[arg-type, return-value]


def inner_called(name: str) -> Inner:
    return inner_of(next(row for row in ROWS if row.name == name))


@DTYPES
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_derivative_of_every_number_is_within_an_ulp(row, dtype):
    from nnkernels.cuda.linear import _has_slope

    if not _has_slope(row.name):
        pytest.skip("its derivative has a pass of its own")
    inner = inner_of(row)
    z = numbers(dtype)
    ones = torch.zeros(len(z) // 64, 8, device="cuda", dtype=dtype)
    ones[:, 0] = 1
    weight = torch.zeros(8, 64, device="cuda", dtype=dtype)
    weight[0] = 1  # so that every sum is 1
    d, _, h = slope(inner, ones, weight, z.view(-1, 64))
    for order, found in (("d1", d), ("value", h)):
        if order == "value" and keeps_result(inner):
            continue
        off = accuracy.errors(found.view(-1), accuracy.truth_of(row, order, z, inner.a, inner.b))
        worst = off.argmax()
        assert off[worst] <= 1, f"{order}: {off[worst]} ulp at {z[worst]}"


@DTYPES
@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize(
    "rows, depth, cols", [(1, 8, 8), (257, 72, 136), (300, 256, 264), (1000, 520, 1000), (20_000, 64, 1032)], ids=str
)
def test_a_derivative_behind_a_product(rows, depth, cols, name, dtype):
    inner = inner_called(name)
    grad, weight, _ = made(rows, depth, cols, dtype)
    weight = weight.t().contiguous()
    z = 2 * torch.randn(rows, cols, device="cuda", generator=torch.Generator("cuda").manual_seed(3)).to(dtype)
    d, total, h = slope(inner, grad, weight, z)
    slopes = evaluate(name, "d1", z.double(), inner.a, inner.b)
    expected = (grad.double() @ weight.double()) * slopes
    torch.testing.assert_close(d.double(), expected, rtol=2**-7, atol=2e-3)
    torch.testing.assert_close(total.double(), expected.sum(0), rtol=1e-3, atol=1e-3 * rows**0.5)
    values = z if keeps_result(inner) else evaluate(name, "value", z.double(), inner.a, inner.b)
    torch.testing.assert_close(h.double(), values.double(), rtol=2**-7, atol=1e-3)
    alone, nothing, no_more = slope(inner, grad, weight, z, sums=False, again=False)
    assert nothing is no_more is None and torch.equal(alone, d)
    assert torch.equal(slope(inner, grad, weight, z)[1], total)


@pytest.mark.parametrize("name", ["silu", "relu", "gelu_tanh", "gelu"])
def test_blocks_go_by_both_kernels(name):
    x, w1, b1 = made(8192, 256, 1024)
    _, w2, b2 = made(8, 1024, 256)
    given = [one.requires_grad_() for one in (x, w1, b1, w2, b2)]
    wide = [one.detach().double().requires_grad_() for one in given]
    f = {"gelu_tanh": lambda z: torch.nn.functional.gelu(z, approximate="tanh")}.get(
        name, getattr(torch.nn.functional, name, None)
    )
    expected = linear(f(linear(*wide[:3])), *wide[3:])
    grad = torch.randn_like(x)
    for _ in range(6):
        y = F.mlp(*given, activation=name)
        torch.testing.assert_close(y.double(), expected, rtol=2**-6, atol=2e-2)
        found = torch.autograd.grad(y, given, grad)
        for one, other in zip(
            found, torch.autograd.grad(expected, wide, grad.double(), retain_graph=True), strict=True
        ):
            assert (one - other).norm() <= 2e-2 * other.norm()


@pytest.mark.parametrize("what", ["float32", "depth", "cols", "shape", "start", "bias", "activation"])
def test_the_operator_refuses_what_the_kernel_cannot_take(what):
    x, weight, bias = made(64, 12 if what == "depth" else 64, 12 if what == "cols" else 64)
    y = x.new_empty(64, len(weight))
    told, index = "multiples of 8", native.index_of("silu")
    if what == "float32":
        x, told = x.float(), "x is float32"
    elif what == "shape":
        y, told = y[:3], "y has shape [3, 64]"
    elif what == "start":
        y, told = x.new_empty(64 * 64 + 1)[1:].view(64, 64), "16 bytes"
    elif what == "bias":
        bias, told = x.new_empty(65)[1:], "4 bytes"
    elif what == "activation":
        index, told = 1000, "1000"
    with pytest.raises(RuntimeError) as refused:
        torch.ops.nnkernels.linear_act(y, None, x, weight, bias, index, 0.0, 0.0)
    assert told in str(refused.value)
