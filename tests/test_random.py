"""Random numbers: the right distribution, the right source, and the same ones in forward and backward."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from test_triton import INTERPRETED, faithful_interpreter  # noqa: F401  (an autouse fixture)
from torch import Tensor

import nnkernels
import nnkernels.functional as F
import nnkernels.nn as ours
from nnkernels import dispatch, native
from nnkernels.reference import random as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOWER, UPPER = 0.125, 1 / 3


def draw(function: str, x: Tensor, p: float = 0.3) -> Tensor:
    return F.rrelu(x, LOWER, UPPER, training=True) if function == "rrelu" else F.dropout(x, p)


def drawn_slopes(count: int, dtype: torch.dtype = torch.float32, lower: float = 0.0, upper: float = 1.0) -> Tensor:
    return -F.rrelu(torch.full((count,), -1.0, dtype=dtype, device=DEVICE), lower, upper, training=True).double()


FUNCTIONS = pytest.mark.parametrize("function", ["rrelu", "dropout"])
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
BACKENDS = pytest.mark.parametrize("name", ["cpu", "triton", "reference"])


def require(name: str) -> None:
    found = dispatch.named(name)
    reason = found if isinstance(found, str) else found.unavailable(torch.device(DEVICE))
    if reason:
        pytest.skip(reason)


def kernels(name: str):
    require(name)
    with nnkernels.backend(name):
        return dispatch.kernels("random", torch.empty(0, device=DEVICE))


def philox(c: list[int], k: list[int]) -> list[int]:
    """Seven rounds, in Python's integers."""
    for _ in range(7):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


# counter, key, words: the authors' known answers for Philox4x32-7 (Random123, kat_vectors)
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
]


@pytest.mark.parametrize("known", KNOWN, ids=["zeros", "ones", "pi"])
def test_the_authors_known_answers(known):
    counter, key, words = ([int(word, 16) for word in line.split()] for line in known)
    assert philox(counter, key) == words


@BACKENDS
@pytest.mark.parametrize("seed", [0, 1, -1, 0x299F31D0A4093822, -(2**63)])
def test_every_backend_draws_the_words_of_philox(name, seed):
    """A float64 slope from [0, 2^32] is a word and a half."""
    x = torch.full((70,), -1.0, dtype=torch.float64, device=DEVICE)
    y = kernels(name).rrelu(x, torch.tensor(seed, device=DEVICE), 0.0, 2.0**32)
    key = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    expected = [word + 0.5 for counter in range(18) for word in philox([counter, 0, 0, 0], key)]
    assert (-y).tolist() == expected[:70]


@BACKENDS
@EVERY_DTYPE
@pytest.mark.parametrize("bounds", [(LOWER, UPPER), (-0.5, 0.5), (0.25, 0.25)], ids=str)
def test_every_backend_gives_what_the_reference_gives(name, dtype, bounds):
    x, grad = (torch.randn(3, 701, device=DEVICE).to(dtype) for _ in range(2))
    seed = torch.tensor(-(2**60) - 12345, device=DEVICE)
    mine = kernels(name)
    # Of a slope at most 1: its last bit or, where 16 bits were drawn, half a step between slopes.
    tolerance = {torch.float64: 2.0**-52, torch.float32: 2.0**-23}.get(dtype, 2.0**-17)
    for got, wanted in (
        (mine.rrelu(x, seed, *bounds), reference.rrelu(x, seed, *bounds)),
        (
            mine.rrelu_backward(grad, x, seed, x.stride(), *bounds),
            reference.rrelu_backward(grad, x, seed, x.stride(), *bounds),
        ),
        (mine.dropout(x, seed, 0.3), reference.dropout(x, seed, 0.3)),
        (mine.dropout(x[:, :64], seed, 0.3), reference.dropout(x[:, :64], seed, 0.3)),
        (mine.rrelu(x[:, :64], seed, *bounds), reference.rrelu(x[:, :64], seed, *bounds)),
    ):
        rounding = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0.0  # a tie may fall to either side
        torch.testing.assert_close(got, wanted, rtol=rounding, atol=5 * tolerance)


# The distribution


@EVERY_DTYPE
def test_slopes_are_uniform(dtype):
    torch.manual_seed(1)
    n = 2**18
    u = drawn_slopes(n, dtype)
    assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    counts = torch.histc(u.clamp(max=1 - 2**-10), 64, 0, 1) if dtype != torch.bfloat16 else bfloat16_counts(u)
    chi_square = ((counts - n / len(counts)) ** 2 / (n / len(counts))).sum()
    freedom = len(counts) - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def bfloat16_counts(u: Tensor) -> Tensor:
    """Sixteen bins whose edges lie between two roundings: slopes that were rounded onto an edge would tell nothing."""
    return torch.histc((u - 2**-10).clamp(0, 1 - 2**-10), 16, 0, 1)


def test_slopes_have_all_their_bits():
    torch.manual_seed(2)
    u = (drawn_slopes(2**16) * 2**23).long()
    for bit in range(23):
        ones = (u >> bit & 1).double().mean()
        assert abs(ones - 0.5) < 5 * 0.5 / 2**8, bit


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 16, 64, 512])
def test_neighbours_and_calls_are_independent(lag):
    torch.manual_seed(3)
    n = 2**17
    first, second = drawn_slopes(n) - 0.5, drawn_slopes(n) - 0.5
    for a, b in ((first[:-lag], first[lag:]), (first, second), (first[:-lag], second[lag:])):
        assert abs((a * b).mean()) < 5 / 12 / math.sqrt(n)
        assert abs(((a.abs() - 0.25) * (b.abs() - 0.25)).mean()) < 5 / 48 / math.sqrt(n)


@EVERY_DTYPE
def test_slopes_stay_between_the_bounds(dtype):
    eps = torch.finfo(dtype).eps
    for lower, upper in ((LOWER, UPPER), (0.0, 1.0), (-0.5, -0.25), (1e-6, 1.0), (0.3, 0.3), (0.5, 0.5 + 2**-9)):
        u = drawn_slopes(2**15, dtype, lower, upper)
        slack = eps * max(abs(lower), abs(upper))
        assert u.min() >= lower - slack and u.max() <= upper + slack
        if upper - lower > 0.1:
            assert u.max() - u.min() > 0.99 * (upper - lower)


@EVERY_DTYPE
@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(dtype, p):
    torch.manual_seed(4)
    n = 2**17
    y = F.dropout(torch.ones(n, dtype=dtype, device=DEVICE), p)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}
    assert abs((y == 0).double().mean() - p) < 5 * math.sqrt(p * (1 - p) / n)


# Where the numbers come from


@FUNCTIONS
def test_manual_seed_decides(function):
    x = torch.randn(1000, device=DEVICE)
    torch.manual_seed(5)
    first, second = draw(function, x), draw(function, x)
    torch.manual_seed(5)
    again = draw(function, x)
    assert torch.equal(first, again) and not torch.equal(first, second)


@FUNCTIONS
def test_fork_rng(function):
    x = torch.randn(1000, device=DEVICE)
    torch.manual_seed(6)
    with torch.random.fork_rng():
        inside = draw(function, x)
    assert torch.equal(inside, draw(function, x))


@FUNCTIONS
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_draws_the_same_again(function, use_reentrant):
    x = torch.randn(1000, device=DEVICE, requires_grad=True)
    torch.manual_seed(7)
    y = torch.utils.checkpoint.checkpoint(lambda t: draw(function, t).square(), x, use_reentrant=use_reentrant)
    torch.manual_seed(99)
    (got,) = torch.autograd.grad(y.sum(), x) if not use_reentrant else (backward_into(x, y),)
    torch.manual_seed(7)
    (wanted,) = torch.autograd.grad(draw(function, x).square().sum(), x)
    assert torch.equal(got, wanted)


def backward_into(x: Tensor, y: Tensor) -> Tensor:
    y.sum().backward()
    return x.grad


@pytest.mark.parametrize("threads", [1, 2, 3])
@FUNCTIONS
def test_threads_draw_the_same(function, threads):
    x, grad = torch.randn(2, 200_003)
    seed = torch.tensor(8)
    if isinstance(dispatch.named("cpu"), str):
        pytest.skip("the C++ kernels were not built")
    mine = importlib.import_module("nnkernels.cpu.random")
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            if function == "rrelu":
                results.append(
                    mine.rrelu(x, seed, LOWER, UPPER) + mine.rrelu_backward(grad, x, seed, (1,), LOWER, UPPER)
                )
            else:
                results.append(mine.dropout(x, seed, 0.5))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_instruction_sets_draw_the_same():
    code = (
        "import torch, nnkernels.functional as F; torch.manual_seed(9); x = torch.linspace(-2, 1, 3001);"
        "y = [F.rrelu(x.to(t), training=True).double().sum().item() for t in (torch.float64, torch.bfloat16)];"
        "print(y, F.dropout(x).sum().item())"
    )
    if native.instruction_set() == "none":
        pytest.skip("the C++ kernels were not built")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])}
    said = {
        subprocess.check_output([sys.executable, "-c", code], env={**env, "NNKERNELS_ISA": isa}, text=True)
        for isa in ("baseline", "avx2", "avx512")
    }
    assert len(said) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@FUNCTIONS
def test_each_replay_of_a_graph_draws_anew(function):
    x = torch.randn(4096, device="cuda")
    draw(function, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = draw(function, x)
    graph.replay()
    first = y.clone()
    graph.replay()
    assert not torch.equal(first, y)


# Gradients


LAYOUTS = {
    "0-dim": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
    "contiguous": lambda: torch.randn(3, 5, 7),
    "several tiles": lambda: torch.randn(70_001),
    "channels_last": lambda: torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last),
    "permuted": lambda: torch.randn(3, 5, 7).permute(2, 0, 1),
    "half": lambda: torch.randn(5, 6, 64).chunk(2, -1)[1],
    "odd half": lambda: torch.randn(5, 6, 14).chunk(2, -1)[1],
    "wide half": lambda: torch.randn(3, 4000).chunk(2, -1)[0],
    "every other": lambda: torch.randn(5, 14)[:, ::2],
    "expanded": lambda: torch.randn(7).expand(5, 7),
    "size one with odd stride": lambda: torch.randn(6, 7).as_strided((6, 1, 7), (7, 3, 1)),
    "misaligned": lambda: torch.randn(1025)[1:],
}
GRADS = {
    "alike": torch.ones_like,
    "expanded": lambda y: torch.ones((), device=y.device, dtype=y.dtype).expand(y.shape),
    "transposed": lambda y: torch.ones(y.shape[::-1], device=y.device, dtype=y.dtype).permute([*range(y.dim())][::-1]),
    "rows": lambda y: (
        torch.ones(*y.shape[:-1], 16 * y.shape[-1], device=y.device)[..., : y.shape[-1]] if y.dim() else y * 0 + 1
    ),
}


def meaningful_strides(x: Tensor) -> list[int]:
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1 and x.numel()]


@FUNCTIONS
@pytest.mark.parametrize("grad_layout", GRADS)
@pytest.mark.parametrize("layout", LAYOUTS)
@BACKENDS
def test_backward_draws_what_forward_drew(name, layout, grad_layout, function):
    """With a gradient of ones, the gradient is y / x: for any layout of either, in PyTorch's strides."""
    require(name)
    with nnkernels.backend(name):
        x = LAYOUTS[layout]().to(DEVICE)
        kept = x.clone()
        x.requires_grad_()
        y = draw(function, x)
        (slope,) = torch.autograd.grad(y, x, GRADS[grad_layout](y).detach())
        assert torch.equal(x, kept)
        torch.testing.assert_close(slope * x, y, rtol=3e-7, atol=0)
        assert meaningful_strides(y) == meaningful_strides(slope) == meaningful_strides(torch.empty_like(x))
        if function == "rrelu" and x.numel() > 8:
            below = slope[x < 0]
            assert (slope[x > 0] == 1).all() and below.min() >= LOWER and below.max() <= UPPER
            assert len(below.unique()) > 0.8 * len(below) if layout != "expanded" else True


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=0, max_size=4),
    order=st.randoms(use_true_random=False),
    steps=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    pad=st.integers(0, 3),
    inplace=st.booleans(),
)
def test_any_strided_view(sizes, order, steps, pad, inplace):
    dims = list(range(len(sizes)))
    order.shuffle(dims)
    base = torch.randn([sizes[d] * steps[d] + (pad if sizes[d] else 0) for d in dims])
    x = base.permute([dims.index(d) for d in range(len(sizes))])
    for d, size in enumerate(sizes):
        x = x.narrow(d, 0, size * steps[d])[(slice(None),) * d + (slice(None, None, steps[d]),)]
    start = x.clone(memory_format=torch.preserve_format)
    scale = torch.ones((), requires_grad=True)
    leaf = torch.ones_like(x).requires_grad_() if not inplace else scale
    if inplace:
        target = x.detach()
        work = target.mul_(scale)
        y = F.rrelu_(work, 0.1, 0.9, training=True)
        assert y.data_ptr() == x.data_ptr()
        (got,) = torch.autograd.grad(y.sum(), scale)
        torch.testing.assert_close(got, y.detach().sum(), rtol=1e-4, atol=1e-5)
    else:
        y = F.rrelu(x * leaf, 0.1, 0.9, training=True)
        (got,) = torch.autograd.grad(y.sum(), leaf)
        torch.testing.assert_close(got, y.detach())
    assert ((y >= 0) == (start >= 0)).all()


@FUNCTIONS
@EVERY_DTYPE
def test_gradients_of_every_dtype(function, dtype):
    x = torch.full((4000,), -1.0, dtype=dtype, device=DEVICE, requires_grad=True)
    y = draw(function, x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(slope, -y)


def seeded(function: str, inplace: bool = False):
    def call(x: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            return draw(function, x) if not inplace else F.rrelu_(x * 1, -0.5, 0.5, training=True)

    return call


@FUNCTIONS
def test_gradcheck(function):
    x = torch.randn(3, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    assert torch.autograd.gradcheck(seeded(function), x, check_batched_grad=True, check_forward_ad=False)
    assert torch.autograd.gradgradcheck(seeded(function), x, check_batched_grad=True)


def test_gradcheck_in_place_with_negative_slopes():
    x = torch.randn(3, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    assert torch.autograd.gradcheck(seeded("rrelu", inplace=True), x)
    assert torch.autograd.gradgradcheck(seeded("rrelu", inplace=True), x)


@FUNCTIONS
def test_forward_mode(function):
    x = torch.randn(50, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        y = draw(function, torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        value, slope = torch.autograd.forward_ad.unpack_dual(y)
    torch.testing.assert_close(value, slope * x)


@FUNCTIONS
def test_a_second_backward_gives_the_same(function):
    x = torch.randn(100, device=DEVICE, requires_grad=True)
    y = draw(function, x)
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y.sum(), x)[0])


@pytest.mark.parametrize("inplace", [False, True])
@FUNCTIONS
def test_backward_keeps_a_seed_and_at_most_one_tensor(function, inplace):
    kept = []
    x = torch.randn(1000, device=DEVICE, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = F.rrelu(x, training=True, inplace=inplace) if function == "rrelu" else F.dropout(x, inplace=inplace)
    assert sorted(t.numel() for t in kept) == ([1, 1000] if function == "rrelu" else [1])
    if function == "rrelu":
        assert next(t for t in kept if t.numel() > 1).data_ptr() == x.data_ptr()
    assert (y is x) == inplace


@pytest.mark.parametrize("layout", ["channels_last", "permuted", "half"])
def test_hooks_may_hand_the_input_back_in_other_strides(layout):
    x = LAYOUTS[layout]().to(DEVICE).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous()):
        y = F.rrelu(x, training=True)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope * x, y)


# PyTorch's semantics


@EVERY_DTYPE
def test_evaluation_is_a_leaky_relu(dtype):
    x = torch.randn(1000, device=DEVICE).to(dtype).requires_grad_()
    theirs = x.detach().clone().requires_grad_()
    wide = theirs.float() if dtype == torch.float16 else theirs
    y, expected = F.rrelu(x, 0.1, 0.3), torch.nn.functional.rrelu(wide, 0.1, 0.3).to(dtype)
    assert torch.equal(y, expected)
    assert torch.equal(*(torch.autograd.grad(out.sum(), leaf)[0] for out, leaf in ((y, x), (expected, theirs))))


@BACKENDS
def test_zero_infinity_and_nan(name):
    require(name)
    with nnkernels.backend(name):
        x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0], device=DEVICE, requires_grad=True)
        y = F.rrelu(x, training=True)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert y[0].isnan() and y[1:].tolist() == [math.inf, -math.inf, 0.0, -0.0]
        assert y[4].signbit() and not y[3].signbit()
        assert slope[:2].tolist() == [1.0, 1.0] and (slope[2:] < 0.4).all()  # at 0 as below, as in torch
        assert F.dropout(torch.full((64,), math.nan, device=DEVICE)).isnan().all()


def test_dropout_of_nothing_and_of_everything():
    x = torch.randn(9, device=DEVICE, requires_grad=True)
    assert F.dropout(x, 0.0) is x and F.dropout(x, 0.5, training=False) is x
    y = F.dropout(x, 1.0)
    assert torch.equal(y, torch.zeros_like(x))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))
    filled = torch.ones(9)
    assert F.dropout(filled, 1.0, inplace=True) is filled and not filled.any()


@FUNCTIONS
@pytest.mark.parametrize("layout", ["0-dim", "empty", "contiguous", "channels_last", "half", "odd half", "every other"])
def test_in_place_is_out_of_place(layout, function):
    x = LAYOUTS[layout]().to(DEVICE)
    torch.manual_seed(12)
    expected = draw(function, x)
    torch.manual_seed(12)
    y = (
        F.rrelu(x, LOWER, UPPER, training=True, inplace=True)
        if function == "rrelu"
        else F.dropout(x, 0.3, inplace=True)
    )
    assert y is x and torch.equal(y, expected)


def test_refusals():
    x = torch.randn(3, requires_grad=True)
    for training in (False, True):
        with pytest.raises(ValueError, match=r"0\.5.*0\.2"):
            F.rrelu(x, 0.5, 0.2, training)
        for bounds in ((math.nan, 1.0), (0.0, math.inf)):
            with pytest.raises(ValueError, match="finite"):
                F.rrelu(x, *bounds, training)
        with pytest.raises(RuntimeError, match="leaf"):
            F.rrelu_(x, training=training)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=str(p)):
            F.dropout(x, p)
    with pytest.raises(RuntimeError, match="leaf"):
        F.dropout(x, inplace=True)
    for training in (False, True):
        with pytest.raises(NotImplementedError, match=r"int64.*\(2,\)"):
            F.rrelu(torch.tensor([1, 2]), training=training)
    with pytest.raises(RuntimeError, match=r"int64.*\(2,\)"):
        F.dropout(torch.tensor([1, 2]))
    for function in (F.rrelu, F.dropout):
        with pytest.raises(TypeError, match="list"):
            function([1.0])


def test_a_chosen_backend_is_honoured_or_refused():
    with nnkernels.backend("cuda"), pytest.raises(RuntimeError, match="random"):
        F.rrelu(torch.randn(3), training=True)


@pytest.mark.parametrize("made", [ours.RReLU(0.1, 0.4), ours.RReLU(inplace=True), ours.Dropout(0.3)], ids=repr)
def test_modules_are_those_of_torch(made):
    base = type(made).__mro__[1]
    assert base is getattr(torch.nn, type(made).__name__)
    x = torch.randn(500)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(twin) is type(made) and repr(twin) == repr(made) and twin.state_dict() == {}
        torch.manual_seed(13)
        expected = made(x.clone())
        torch.manual_seed(13)
        assert torch.equal(twin(x.clone()), expected) and not torch.equal(expected, x)
        assert torch.equal(twin.eval()(x.clone()), base.forward(twin, x.clone()))


# Compilers, transforms, modes


@FUNCTIONS
@pytest.mark.parametrize("engine", ["aot_eager", "inductor"])
def test_fullgraph_compile(function, engine):
    if engine == "inductor" and DEVICE == "cpu" and INTERPRETED:
        pytest.skip("not a matter of Triton")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: draw(function, x), fullgraph=True, backend=engine)
    x = torch.full((2**15,), -1.0, device=DEVICE, requires_grad=True)
    y, other = compiled(x), compiled(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, -y)
    assert not torch.equal(y, other)
    if function == "rrelu":
        u = (slope - LOWER) / (UPPER - LOWER)
        assert u.min() > -1e-6 and u.max() < 1 + 1e-6
        assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.005
    else:
        assert abs((y == 0).double().mean() - 0.3) < 0.02 and y.unique().numel() == 2


def test_fullgraph_compile_in_evaluation_is_exact():
    torch._dynamo.reset()
    model = torch.nn.Sequential(ours.RReLU(0.1, 0.3), ours.Dropout()).eval()
    x = torch.randn(100)
    torch.testing.assert_close(
        torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x), rtol=2e-7, atol=0
    )


@FUNCTIONS
def test_vmap_draws_as_torchs_random_functions_do(function):
    x = torch.full((4, 100), -1.0)
    different = torch.func.vmap(lambda row: draw(function, row), randomness="different")(x)
    same = torch.func.vmap(lambda row: draw(function, row), randomness="same")(x)
    assert not torch.equal(different[0], different[1])
    assert all(torch.equal(same[0], row) for row in same)
    with pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(lambda row: draw(function, row))(x)


@FUNCTIONS
def test_transforms(function):
    x = torch.full((20,), -1.0, dtype=torch.float64)
    slope, y = torch.func.grad_and_value(lambda t: draw(function, t).sum())(x)
    torch.testing.assert_close(-slope.sum(), y)
    value, tangent = torch.func.jvp(lambda t: draw(function, t), (x,), (x,))
    torch.testing.assert_close(value, tangent)


@FUNCTIONS
def test_modes_proxies_and_meta_tensors(function):
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with FakeTensorMode():
        assert draw(function, torch.empty(2, 3)).shape == (2, 3)
    assert draw(function, torch.empty(2, 3, device="meta")).device.type == "meta"
    x = torch.full((50,), -1.0)
    assert make_fx(lambda t: draw(function, t))(x)(x).shape == x.shape
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(ours.RReLU(), ours.Dropout()))
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert targets == [F.rrelu, F.dropout]


def test_subclasses_keep_their_type():
    class Tagged(Tensor):
        pass

    x = torch.randn(3).as_subclass(Tagged)
    assert type(F.rrelu(x, training=True)) is Tagged and type(F.dropout(x)) is Tagged


# Triton


def test_under_the_interpreter():
    if INTERPRETED or importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton's compiler")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(Path(__file__)),
        "-k",
        "triton",
    ]
    root = Path(__file__).parent.parent
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def compiled(kernel_name: str, dtype: str, arch: int, flat: bool):
    """What `triton/random.py` would have compiled for aligned tensors."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nnkernels.triton import backend, random_kernels

    kernel = getattr(random_kernels, kernel_name)
    block = backend._TILE_BYTES // (2 if kernel_name == "rrelu_backward" else 1) // (2 if dtype == "bf16" else 4)
    tile = (1, block) if flat else (block // backend._ROW_TILE, backend._ROW_TILE)
    constants = {"FLAT": flat, "EVEN": True, "BLOCK_ROWS": tile[0], "BLOCK_COLS": tile[1]} | (
        {"rows": 1} if flat else {}
    )
    kinds = {"seed_ptr": "*i64", "scale": "fp64", "offset": "fp64", "threshold": "i64"}
    signature, divisible = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        pointer = f"*{dtype}" if argument.endswith("_ptr") else "i32"
        signature[argument] = "constexpr" if argument in constants else kinds.get(argument, pointer)
        if signature[argument][0] in "*i" and argument not in ("rows", "threshold"):
            divisible[i,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": backend._NUM_WARPS}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options), block // 128


@pytest.mark.skipif(INTERPRETED or importlib.util.find_spec("triton") is None, reason="needs Triton's compiler")
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "rows"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", ["rrelu", "rrelu_backward", "dropout"])
def test_kernels_share_calls_and_load_16_bytes(kernel, dtype, flat, monkeypatch, tmp_path):
    """Two products a round for 8 elements of 16-bit slopes, else for 4; no exchange between threads; no spills."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for arch in (80, 90, 100) if flat and dtype == "bf16" else (90,):
        made, elements = compiled(kernel, dtype, arch, flat)
        ptx = made.asm["ptx"]
        assert "shared" not in ptx and "local" not in ptx
        for access in ("ld", "st"):
            assert len(re.findall(rf"{access}\.global\.v4\.b32", ptx)) >= 2, access
        assert not re.findall(r"(?:ld|st)\.global\.b(?:16|32)", ptx)
        calls = elements / (8 if dtype == "bf16" and kernel != "dropout" else 4)
        assert len(re.findall(r"mul\.wide\.u32|mul\.hi\.u32", ptx)) <= (2 * reference.ROUNDS - 1) * calls + 4
