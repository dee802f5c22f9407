"""Random numbers: the right ones on every backend, the right distribution, the right source."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from draws import (
    BACKENDS,
    DEVICE,
    EVERY_DTYPE,
    FUNCTIONS,
    LOWER,
    UPPER,
    draw,
    kernels,
    small_tiles,  # noqa: F401  (autouse fixtures)
)
from torch import Tensor
from triton_tools import compiles, interpret

import nnkernels.functional as F
from nnkernels import dispatch, native
from nnkernels.reference import random as reference


def drawn_slopes(count: int, dtype: torch.dtype = torch.float32, lower: float = 0.0, upper: float = 1.0) -> Tensor:
    return -F.rrelu(torch.full((count,), -1.0, dtype=dtype, device=DEVICE), lower, upper, training=True).double()


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


@BACKENDS
@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 7), (3, 701), (2, 512), (2, 3, 4, 130)], ids=str)
def test_dropout_decides_again_as_before(name, dtype, shape):
    """From what was kept of the decisions as from the seed, whatever the layout of the gradient."""
    x, grad = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(2))
    seed, mine = torch.tensor(2**61 + 77, device=DEVICE), kernels(name)
    y, *packed = mine.dropout_kept(x, seed, 0.3)
    assert torch.equal(y, mine.dropout(x, seed, 0.3))
    drawn = mine.dropout(grad, seed, 0.3, y.stride())
    assert torch.equal(mine.dropout_again(grad, 0.3, y.stride(), seed, *packed), drawn)
    turned = grad.movedim(0, -1).contiguous().movedim(-1, 0) if grad.dim() else grad
    assert torch.equal(mine.dropout_again(turned, 0.3, y.stride(), seed, *packed), drawn)
    assert torch.equal(mine.dropout_again(grad, 0.3, y.stride(), seed), drawn)


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


@BACKENDS
def test_decisions_in_16_bits_have_all_digits_of_p(name):
    """The words of a counter's eight elements overlap by a half, which decides once in 2^16 times."""
    seed, elements = torch.tensor(2**61 + 77), 2**19
    x = torch.ones(elements, dtype=torch.bfloat16, device=DEVICE)
    halves = reference.philox(seed, elements // 8).view(-1, 4, 1) >> torch.tensor([0, 16]) & 0xFFFF
    own = halves.view(-1, 8).roll(-1, 1).flatten()
    half = 2**14 + 3
    decided = own != half
    for low in (0, 2**15, 2**16 - 1):
        kept = kernels(name).dropout(x, seed.to(DEVICE), (half * 2**16 + low) / 2**32).cpu() != 0
        assert torch.equal(kept[decided], (own > half)[decided])
        ties = kept[~decided]
        assert len(ties) > 0 and (low != 0 or ties.all())
        assert low != 2**15 or (halves.view(-1, 8).flatten()[~decided] >= low).eq(ties).all()


@pytest.mark.parametrize("lag", [1, 2, 4, 7, 8])
def test_decisions_of_neighbours_in_16_bits_are_independent(lag):
    torch.manual_seed(5)
    n = 2**19
    kept = (F.dropout(torch.ones(n, dtype=torch.float16, device=DEVICE), 0.3) != 0).double() - 0.7
    assert abs((kept[:-lag] * kept[lag:]).mean()) < 5 * 0.21 / math.sqrt(n)


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
                y, *packed = mine.dropout_kept(x, seed, 0.5)
                results.append(y + mine.dropout_again(grad, 0.5, (1,), seed, *packed))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_instruction_sets_draw_the_same():
    code = (
        "import torch, nnkernels.functional as F; torch.manual_seed(9); x = torch.linspace(-2, 1, 3001);"
        "y = [F.rrelu(x.to(t), training=True).double().sum().item() for t in (torch.float64, torch.bfloat16)];"
        "y += [F.dropout(x.to(t)).double().sum().item() for t in (torch.float32, torch.bfloat16)]"
    )
    if native.instruction_set() in ("none", "baseline", "neon"):
        pytest.skip("there is one instruction set only")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    env |= {"NNKERNELS_ISA": "baseline"}
    least = subprocess.check_output([sys.executable, "-c", code + "; print(y)"], env=env, text=True)
    here: dict = {}
    exec(code, here)
    assert least.strip() == str(here["y"])


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


@compiles
def test_under_the_interpreter():
    interpret(__file__, str(Path(__file__).with_name("test_random_gradients.py")))
