"""softmax and log_softmax over rows of odd length: whole vectors, what lies before and behind them, and no more."""

from __future__ import annotations

import re

import pytest
import torch
from test_reducing import truth
from triton_tools import DEVICE, DTYPES, INTERPRETED, NVIDIA, compile_ahead, compiles, executes, interpret, spills

import nnkernels
import nnkernels.functional as F

FLOATS = {name: DTYPES[name] for name in ("bf16", "fp16", "fp32")}
ROWS = 5
ZONE = 64  # elements before and behind a tensor
POISON = 12345.0  # in 16 bits as well no result


@pytest.mark.skipif(INTERPRETED, reason="is what runs the interpreter")
def test_under_the_interpreter():
    interpret(__file__, only="rows and not fp16")


@pytest.fixture
def taken(monkeypatch):
    """The names of the kernels launched, each of which has to be one for odd rows."""
    from nnkernels.triton import reducing

    names, launch = [], reducing._launch_odd

    def noted(kernels, *arguments):
        names.append(kernels.__name__.rpartition(".")[2])
        launch(kernels, *arguments)

    monkeypatch.setattr(reducing, "_launch_odd", noted)
    return names


def poisoned(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`values` in the midst of larger memory, aligned as an allocation is, and that memory."""
    memory = torch.full((values.numel() + 2 * ZONE,), POISON, dtype=values.dtype, device=values.device)
    inside = memory[ZONE : ZONE + values.numel()].view(values.shape)
    inside.copy_(values)
    return inside, memory


def outside(memory: torch.Tensor) -> torch.Tensor:
    return torch.cat([memory[:ZONE], memory[-ZONE:]])


class Poisoning:
    """torch, but that what it allocates for rows is NaN in the midst of poisoned memory."""

    def __init__(self):
        self.memories = []

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, *shape, **kinds):
        if not isinstance(shape[0], torch.Size):
            return torch.full(shape, torch.nan, **kinds)
        inside, memory = poisoned(torch.full(shape[0], torch.nan, **kinds))
        self.memories.append(memory)
        return inside

    def empty_like(self, x, memory_format):
        return self.empty(x.shape, dtype=x.dtype, device=x.device)


def assert_rows_are_exact(rows, n, dtype, monkeypatch, **options):
    """Forward and backward against float64, all tensors in poisoned memory."""
    from nnkernels.triton import reducing

    torch.manual_seed(n)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    x, x_memory = poisoned((torch.randn(rows, n, device=DEVICE) * 3).to(dtype))
    grad, grad_memory = poisoned(torch.randn(rows, n, device=DEVICE).to(dtype))
    poisoning = Poisoning()
    monkeypatch.setattr(reducing, "torch", poisoning)
    for log, function in ((False, F.softmax), (True, F.log_softmax)):
        x = x.detach().requires_grad_()
        with nnkernels.backend("triton"):
            y = function(x, -1, **options)
            (found,) = torch.autograd.grad(y, x, grad)
        exact, p, g = truth(x.detach(), -1, log, **options), truth(x.detach(), -1, **options), grad.double()
        scale = options.get("scale", 1.0)
        assert ((y - exact).abs() <= 4 * eps * exact.abs() + tiny).all()
        want = scale * (g - p * g.sum(-1, keepdim=True) if log else p * (g - (g * p).sum(-1, keepdim=True)))
        terms = p * g.abs().sum(-1, keepdim=True) + g.abs() * (1 if log else p)
        assert ((found - want).abs() <= 16 * eps * abs(scale) * terms + tiny).all()
    assert len(poisoning.memories) == 4
    for memory in (x_memory, grad_memory, *poisoning.memories):
        assert (outside(memory) == memory.new_tensor(POISON)).all()


@executes
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_every_short_length(dtype, monkeypatch, taken):
    from nnkernels.triton import reducing

    monkeypatch.setattr(reducing, "_LEAST_VECTORS", 2)
    for n in range(1, 41):
        taken.clear()
        assert_rows_are_exact(ROWS, n, FLOATS[dtype], monkeypatch)
        whole = n % 2 and n * FLOATS[dtype].itemsize >= 32
        assert taken == (["reducing_odd", "reducing_odd_backward"] * 2 if whole else [])


@executes
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "n"), [(67, 127), (1, 1001), (3, 4097), (9, 4103), (2, 10_001), (9, 16_385)])
def test_rows_of_odd_length(rows, n, dtype, monkeypatch, taken):
    assert_rows_are_exact(rows, n, FLOATS[dtype], monkeypatch)
    assert taken == ["reducing_odd", "reducing_odd_backward"] * 2


@executes
@pytest.mark.parametrize("scale", [0.3, -2.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_scaled_rows(dtype, scale, monkeypatch, taken):
    assert_rows_are_exact(ROWS, 61, FLOATS[dtype], monkeypatch, scale=scale)
    assert len(taken) == 4


@executes
@pytest.mark.skipif(not INTERPRETED, reason="of one chunk each, as the interpreter runs one program at a time")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [33, 61, 1001])
def test_rows_in_chunks_of_vectors(n, dtype, monkeypatch, taken):
    from nnkernels.triton import reducing

    monkeypatch.setattr(reducing, "_longest", lambda y: 0)
    monkeypatch.setattr(reducing, "_processors", lambda device: 4)
    monkeypatch.setattr(reducing.reducing_odd, "softmax_rows", None)
    monkeypatch.setattr(reducing.reducing_odd_backward, "softmax_rows", None)
    assert_rows_are_exact(9, n, FLOATS[dtype], monkeypatch)
    assert len(taken) == 4


@pytest.mark.skipif(DEVICE == "cpu" or not torch.cuda.is_available(), reason="chunks wait for each other")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "n"), [(300, 20_001), (200, 50_257), (7, 65_543)])
def test_long_rows_of_odd_length(rows, n, dtype, monkeypatch, taken):
    assert_rows_are_exact(rows, n, FLOATS[dtype], monkeypatch)
    assert len(taken) == 4


@executes
def test_rows_with_infinities_and_nan(taken):
    x = torch.randn(6, 61, device=DEVICE).bfloat16()
    x[0], x[1, 0], x[2, 60], x[3, :60], x[4, 1:] = -torch.inf, torch.inf, torch.nan, -torch.inf, -torch.inf
    with nnkernels.backend("triton"):
        for ours, torchs in ((F.softmax, torch.softmax), (F.log_softmax, torch.log_softmax)):
            assert torch.allclose(ours(x, -1).double(), torchs(x.double(), -1), rtol=0.01, equal_nan=True)
    assert len(taken) == 2


@executes
def test_several_rows_that_warps_would_share_take_the_other_path(taken):
    x = torch.randn(9, 1001, device=DEVICE).bfloat16()
    with nnkernels.backend("triton"):
        assert torch.allclose(F.softmax(x, -1).double(), truth(x, -1), rtol=0.01)
    assert not taken


@executes
def test_rows_that_lie_otherwise_take_the_other_path(taken):
    x = torch.randn(5, 122, device=DEVICE).bfloat16()
    with nnkernels.backend("triton"):
        for apart in (x[:, :61], x.t()[:61].t(), x[:, :60].contiguous()):
            assert torch.allclose(F.softmax(apart, -1).double(), truth(apart, -1), rtol=0.01)
        F.softmax(x[:, :61].contiguous(), -1, mask=torch.ones(61, dtype=torch.bool, device=DEVICE))
        F.softmax(x[:, :61].contiguous(), -1, dtype=torch.float32)
    assert not taken


# As launched: the tile of 4097 columns, that of 127, and the longest one of 16 bits.
TILES = {
    "bf16": {"1x4096": (1, 4096, 8, 8), "32x128": (32, 128, 8, 8), "1x16384": (1, 16384, 16, 32)},
    "fp32": {"1x4096": (1, 4096, 8, 8), "16x128": (16, 128, 4, 4)},
}
LONG_WARPS = {"bf16": (4, 8), "fp32": (8, 4)}


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
@pytest.mark.parametrize("tile", ["1x4096", "32x128", "16x128", "1x16384", "long"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])
def test_odd_rows_compile_to_whole_vectors(log, dtype, tile, arch, tmp_path, monkeypatch):
    from nnkernels.triton import reducing_odd, reducing_odd_backward

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    if tile != "long" and tile not in TILES[dtype]:
        pytest.skip("no tile of this type")
    types = {"partial_ptr": "*fp32", "tops_ptr": "*fp32", "norms_ptr": "*fp32", "counts_ptr": "*i32"}
    constants = {"LOG": log, "SCALED": False, "NEGATIVE": False, "KEEPS": log, "FROM_INPUT": log and dtype == "bf16"}
    bits = 16 if dtype == "bf16" else 32
    for backward, module in enumerate((reducing_odd, reducing_odd_backward)):
        if tile == "long":
            elements, kernel, warps = 16384 * 8 // bits, module.softmax_long, LONG_WARPS[dtype][backward]
            constants |= {"BLOCK": elements, "PARTS": 8}
        else:
            rows, cols, *both = TILES[dtype][tile]
            elements, kernel, warps = rows * cols, module.softmax_rows, both[backward]
            constants |= {"BLOCK_ROWS": rows, "BLOCK_COLS": cols}
        uneven = ("rows", "n", "splits")
        compiled = compile_ahead(kernel, arch, dtype, constants, warps, types, uneven, enable_fp_fusion=False)
        vectors = elements // (warps * 32) * bits // 128
        ptx = compiled.asm["ptx"]
        assert len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)) == vectors * (1 + backward)
        assert len(re.findall(r"st\.global\S*\.v4\.b32", ptx)) == vectors
        if bits == 16:  # a thread has few of the ends
            assert len(re.findall(r"ld\.global\S*\.b16", ptx)) <= 2 * (1 + backward)
        assert spills(compiled, tmp_path) == 0
