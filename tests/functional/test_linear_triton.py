"""Products and what stands behind them in one kernel of Triton's: interpreted, compiled ahead of time, and chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from triton_tools import DEVICE, NVIDIA, compile_ahead, compiles, executes, interpret, spills

import nnkernels
import nnkernels.functional as F
from nnkernels.contracts.inner import Inner
from nnkernels.contracts.linear import keeps_result
from nnkernels.reference.pooling import _unpacked
from nnkernels.registry import Activation, catalogue

TILES = {  # small ones, which all have edges in the matrices below
    "whole": (16, 32, 16, 2, 1, False, 4, 2, 1),
    "in two parts": (16, 32, 16, 1, 2, False, 4, 2, 1),
    "in four parts": (32, 64, 32, 4, 4, True, 4, 2, 2),
}
SILU = Inner("silu", 0.0, 0.0)


@pytest.fixture(params=TILES.values(), ids=TILES)
def tiles(request):
    from nnkernels.triton.linear_table import Tiles

    return Tiles(*request.param)


def made(rows: int, cols: int, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, depth), (cols, depth), (cols,))
    x, weight, bias = (torch.randn(shape, generator=generator).to(DEVICE, torch.float16) for shape in shapes)
    return x, weight / depth**0.5, bias


def as_torch_rounds(inner: Inner, z: Tensor) -> Tensor:
    from nnkernels.reference import evaluate

    return evaluate(inner.name, "value", z, inner.a, inner.b).half()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@executes
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("stores", [True, False], ids=["kept", "not kept"])
def test_an_activation_behind_a_product(tiles, stores, with_bias):
    from nnkernels.triton import linear as kernels

    x, weight, bias = made(50, 72, 40)
    given = bias if with_bias else None
    y, kept = kernels.product_act(tiles, SILU, x.view(2, 25, 40), weight, given, stores)
    z = linear(x.float(), weight.float(), None if given is None else given.float())
    close(y, as_torch_rounds(SILU, z).view(2, 25, 72))
    close(kept, (z.half() if stores else as_torch_rounds(SILU, z)).view(2, 25, 72))


@executes
@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_the_greatest_of_some_columns_and_which_it_was(tiles, pieces):
    from nnkernels.triton import linear as kernels

    x, weight, bias = made(50, 24 * pieces, 40)
    bias[1], weight[pieces + 1] = torch.nan, weight[pieces]  # NaN wins, and of equal pieces the first
    bias[pieces + 1] = bias[pieces] = 30
    tiles = tiles._replace(cols=128, parts=min(tiles.parts, 2))
    y, packed = kernels.product_maxout(tiles, x, weight, bias, pieces, True)
    values, index = linear(x.float(), weight.float(), bias.float()).view(50, 24, pieces).max(-1)
    torch.testing.assert_close(y, values.half(), rtol=2e-3, atol=2e-3, equal_nan=True)
    assert packed is not None and torch.equal(_unpacked(packed, y.numel(), pieces).view_as(index), index)
    alone, nothing = kernels.product_maxout(tiles, x, weight, bias, pieces, False)
    assert nothing is None and torch.equal(alone.nan_to_num(7), y.nan_to_num(7))


@executes
def test_calls_go_by_them_where_the_table_says_so(monkeypatch):
    """As on a chip that it knows: values and gradients of the public functions, with what is kept."""
    from nnkernels.triton import linear_table as table

    served = []
    cut = table.Tiles(*TILES["in two parts"])
    monkeypatch.setattr(table, "knows", lambda device: True)
    monkeypatch.setattr(table, "of_activation", lambda *told: served.append(told) or cut)
    monkeypatch.setattr(table, "of_maxout", lambda *told: served.append(told) or cut._replace(cols=128))
    given = [tensor.requires_grad_() for tensor in made(20, 32, 24)]
    wide = [tensor.detach().double().requires_grad_() for tensor in given]
    calls = [
        (lambda x, w, b: F.linear_act(x, w, b, "silu"), lambda x, w, b: linear(x, w, b).sigmoid() * linear(x, w, b)),
        (lambda x, w, b: F.linear_act(x, w, b, "relu"), lambda x, w, b: linear(x, w, b).relu()),
        (
            lambda x, w, b: F.mlp(x, w, b, w.t(), None, "silu"),
            lambda x, w, b: linear(linear(x, w, b).sigmoid() * linear(x, w, b), w.t()),
        ),
        (lambda x, w, b: F.maxout_linear(x, w, b, 4), lambda x, w, b: linear(x, w, b).view(20, 8, 4).amax(-1)),
    ]
    with nnkernels.backend("triton"):
        for ours, theirs in calls:
            y, expected = ours(*given), theirs(*wide)
            torch.testing.assert_close(y.double(), expected, rtol=4e-3, atol=4e-3)
            grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
            found = torch.autograd.grad(y, given, grad.half())
            for one, other in zip(found, torch.autograd.grad(expected, wide, grad.double()), strict=True):
                torch.testing.assert_close(one.double(), other, rtol=1e-2, atol=2e-2)
        assert len(served) == 3  # cuBLAS ends with relu itself
        before = len(served)
        F.linear_act(*given, activation="silu", round_preact=True)
        assert len(served) == before
        F.linear_act(given[0][:, :20], given[1][:, :20], None, "silu")  # rows apart
        F.linear_act(*(tensor.float() for tensor in given), activation="silu")
        assert len(served) == before


@executes
@pytest.mark.parametrize("depth, cols", [(24, 36), (20, 32), (24, 7)], ids=str)
def test_rows_that_the_copy_engine_cannot_fetch_are_right(depth, cols, monkeypatch):
    from nnkernels.triton import linear_table as table

    monkeypatch.setattr(table, "knows", lambda device: True)
    monkeypatch.setattr(table, "of_activation", lambda *told: pytest.fail("these go by torch's product"))
    x, weight, bias = made(20, cols, depth)
    with nnkernels.backend("triton"):
        close(
            F.linear_act(x, weight, bias, "silu"),
            as_torch_rounds(SILU, linear(x.float(), weight.float(), bias.float())),
        )


@executes
@pytest.mark.parametrize("wants_sums", [True, False], ids=["sums", "no sums"])
def test_backward_gives_the_activation_again(wants_sums):
    """In the pass that multiplies by the derivative, for both of its kernels."""
    from nnkernels.triton import linear as kernels

    grad, z, _ = made(70, 70, 40)
    for name in ("silu", "gelu", "relu"):
        inner = Inner(name, 0.0, 0.0)
        kept = as_torch_rounds(inner, z.float()) if keeps_result(inner) else z
        d, sums, h = kernels.activation_backward(inner, grad, kept, wants_sums, True)
        leaf = z.float().requires_grad_()
        y = getattr(torch.nn.functional, name)(leaf)
        (slope,) = torch.autograd.grad(y, leaf, grad.float())
        close(d, slope.half())
        close(h, y.detach().half())
        assert (sums is not None) == wants_sums
        if wants_sums:
            torch.testing.assert_close(sums.float(), slope.sum(0), rtol=1e-3, atol=1e-2)


@executes
@pytest.mark.parametrize("layout", ["two", "halves", "pairs"])
def test_backward_gives_the_gated_activation_again(layout):
    from nnkernels.contracts.gated import gate_and_up
    from nnkernels.functional.gated import gating
    from nnkernels.triton import linear as kernels

    chosen = gating("silu", -1, layout == "pairs", True, 1.5, 0.5, {})
    grad, x, _ = made(30, 24, 24)[0], torch.randn(30, 48, device=DEVICE).half(), None
    gate, up = (x[:, :24].contiguous(), x[:, 24:].contiguous()) if layout == "two" else (x, None)
    *found, h = kernels.gated_backward(chosen, grad, gate, up)
    expected = kernels.gates.gated_backward(chosen, grad, gate, up)
    assert all(one is other is None or torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(h, kernels.gated(chosen, gate, up)) and h.shape == gate_and_up(chosen, gate, up)[0].shape


@compiles
def test_memory_that_a_kernel_asks_for_is_recorded_and_asked_of_nobody_else():
    """As Triton's launcher asks for it, of whichever allocator the context has."""
    from types import SimpleNamespace

    from triton.runtime import _allocation

    from nnkernels import recording

    def launched(*arguments: Any, **options: Any) -> Any:
        asked.append(_allocation._allocator.get()(256, 128, 0))
        return SimpleNamespace(
            metadata=SimpleNamespace(
                launch_cooperative_grid=False, launch_pdl=False, num_ctas=1, global_scratch_size=128,
                profile_scratch_size=0, num_warps=4, shared=0,
            ),
            src=SimpleNamespace(signature={"x_ptr": "*fp16"}), function=7,
        )  # fmt: skip

    class Kernel:
        arg_names = ("x_ptr",)

        def __getitem__(self, grid: Any) -> Any:
            return launched

    asked: list[Tensor] = []
    before, x = _allocation._allocator.get(), torch.zeros(8).half()
    with recording.Recorder() as watching:
        recording.launch(Kernel(), (2,), scratches=True)(x)
    assert _allocation._allocator.get() is before
    assert watching.events is not None
    *operators, (kind, function, grid, *_, told) = watching.events
    assert (kind, function, grid) == ("launch", 7, (2,)) and told[2] == ("*i8", None)
    assert told[1][1] is asked[0] and asked[0].numel() == 256
    assert operators[0][1] == "aten::empty" and any(asked[0] is result for event in operators for result in event[-1])


@compiles
class TestTable:
    """What was measured on an H200, in shape classes."""

    @pytest.mark.parametrize("name", [row.name for row in catalogue(Activation)])
    def test_small_and_deep_products_are_torchs(self, name):
        from nnkernels.triton.linear_table import of_activation

        inner = Inner(name, 0.0, 0.0)
        for sizes in ((1024, 1024, 1024), (512, 4096, 512), (8192, 16384, 4096), (16384, 512, 128)):
            assert of_activation(inner, False, *sizes) is of_activation(inner, True, *sizes) is None

    def test_what_is_stored_besides_and_long_formulas_need_larger_products(self):
        from nnkernels.triton.linear_table import LARGE, SMALL, THRICE, of_activation, of_maxout

        mish = Inner("mish", 0.0, 0.0)
        assert (
            of_activation(SILU, False, 4096, 3072, 768) == SMALL
            and of_activation(SILU, False, 65536, 1024, 256) == THRICE
            and of_activation(mish, False, 4096, 3072, 768) == LARGE
        )
        assert (
            of_activation(SILU, True, 4096, 3072, 768) is None and of_activation(SILU, True, 8192, 4096, 1024) == SMALL
        )
        assert of_activation(mish, True, 8192, 4096, 1024) is None
        assert of_maxout(4, 8192, 16384, 1024) == LARGE and of_maxout(3, 8192, 12288, 1024) is None

    def test_other_chips_are_not_known(self):
        from nnkernels.triton.linear_table import knows

        assert not knows(torch.device("cpu"))


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu(arch, fresh_cache, tmp_path):
    """As the table cuts them; on its own chip the copy engine serves, and next to nothing spills."""
    from nnkernels.triton import linear_kernels as kernels
    from nnkernels.triton.activations import FORMULAS
    from nnkernels.triton.linear_table import LARGE, SMALL, THRICE

    cases: list[tuple[Any, Any, dict[str, Any]]] = [
        (kernels.forward, SMALL, {"VALUE": FORMULAS["gelu"].value, "KEEPS": True}),
        (kernels.forward, LARGE, {"VALUE": FORMULAS["mish"].value, "KEEPS": False, "bias_ptr": None}),
        (kernels.forward, THRICE, {"VALUE": FORMULAS["gelu"].value, "KEEPS": False}),
        (kernels.maxout, LARGE, {"PIECES": 4, "BITS": 2, "RECORD": True}),
    ]
    for kernel, tiles, constants in cases:
        cut = {name.upper(): value for name, value in tiles._asdict().items()}
        compiled = compile_ahead(
            kernel, arch, "bf16", constants | cut, tiles.warps, {"winners_ptr": "*u8"}, num_stages=tiles.stages
        )
        if arch == "sm_90":
            assert spills(compiled, tmp_path) <= 8, constants  # outside of the loop over what is summed
            assert "wgmma.mma_async" in compiled.asm["ptx"] and "cp.async.bulk.tensor" in compiled.asm["ptx"]


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not compiles")
