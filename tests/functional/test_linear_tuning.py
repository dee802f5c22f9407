"""`tune_products`: what it measures and keeps, and that calls which were recorded before go by it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import DEVICE
from measured_products import SHAPE, SILU, answer, cache_in, fresh, make_up, plain
from torch import Tensor
from torch.nn.functional import linear
from triton_tools import HAS_TRITON, INTERPRETED, compiles, executes, interpret

import nnkernels
import nnkernels.functional as F
from nnkernels import products
from nnkernels.autograd import has_cpp_node
from nnkernels.autograd.linear import choose_anew
from nnkernels.cli import main
from nnkernels.contracts.inner import Inner
from nnkernels.triton import linear_table, linear_tuned
from nnkernels.triton.linear_tuned import CANDIDATES, Tuned


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    return cache_in(tmp_path, monkeypatch)


@pytest.fixture
def gpu(monkeypatch) -> None:
    make_up(monkeypatch)


@plain
class TestMeasuring:
    """By a clock and kernels that are made up."""

    @pytest.fixture(autouse=True)
    def made_up(self, monkeypatch, gpu) -> None:
        from nnkernels.triton import linear as kernels

        self.launched: list[Any] = []
        self.times: dict[Any, float] = {}
        self.broken: dict[Any, Any] = {}
        monkeypatch.setattr(kernels, "product_act", self.product_act)
        monkeypatch.setattr(kernels, "torch_act", partial(self.product_act, None))
        monkeypatch.setattr(products.backend, "TritonBackend", lambda: nnkernels.dispatch.REFERENCE)
        monkeypatch.setattr(products, "best_of_rounds", self.clock)
        monkeypatch.setattr("nnkernels.cuda.linear.serves", lambda *told: False)

    def product_act(self, tiles: Any, inner: Inner, x: Tensor, w: Tensor, b: Tensor, stores: bool) -> Any:
        self.launched.append((tiles, inner.name, stores))
        if isinstance(error := self.broken.get(tiles), Exception):
            raise error
        z = linear(x.float(), w.float(), b.float())
        y = nnkernels.dispatch.REFERENCE.forward(inner.name, z, inner.a, inner.b)
        y, z = y.to(x.dtype), z.to(x.dtype)
        for one in {"result": [y], "stored": [z]}.get(self.broken.get(tiles), []):
            one[-1, -1] += 0.5
        return y, z if stores else y

    def clock(self, calls: list[Any], rounds: int, device: str, queued: bool) -> list[float]:
        assert queued and rounds >= 5
        timed = [one.args[0] if one.func == self.product_act else None for one in calls]
        assert timed[0] is None and all(timed[1:])
        return [1e-6 * self.times.get(tiles, 100.0) for tiles in timed]

    def test_keeps_the_fastest_if_it_is_faster_enough(self, cache):
        self.times = {CANDIDATES[1]: 90.0, CANDIDATES[5]: 80.0}
        found = nnkernels.tune_products([SHAPE], ["silu"])
        assert [(row.shape, row.activation, row.stores) for row in found] == [
            (SHAPE, "silu", False),
            (SHAPE, "silu", True),
        ]
        assert all(row.way == CANDIDATES[5] and row.pair == pytest.approx(100) for row in found)
        assert answer() == answer(stores=True) == Tuned(CANDIDATES[5]) and fresh()
        self.times = {CANDIDATES[5]: 98.0}
        (row,) = nnkernels.tune_products([SHAPE], "silu", training=False)
        assert row.way is None and row.best == row.pair
        assert answer() == Tuned(None) and answer(stores=True) == Tuned(CANDIDATES[5])
        (file,) = cache.glob("*.json")
        assert '"best_us": 80.0' in file.read_text()

    def test_tells_in_a_table(self):
        self.times = {CANDIDATES[5]: 80.0}
        found = nnkernels.tune_products([SHAPE, (64, 8, 8)], ("gelu", "relu"))
        head, *lines = str(found).splitlines()
        assert len(lines) == len(found) == 6 and "ratio" in head and len({line.index("100.0") for line in lines}) == 1
        assert lines[0] == str(found[0]) and "50x40x72" in lines[0] and "64x128x64" in lines[0] and "0.80" in lines[0]
        assert [row.stores for row in found if row.activation == "relu"] == [False, False]  # its result is kept

    @pytest.mark.parametrize("how", ["result", "stored", RuntimeError("PassManager::run failed"), "resources"], ids=str)
    def test_passes_over_what_is_wrong_or_does_not_fit(self, how):
        if how == "resources":
            from triton.runtime.errors import OutOfResources

            how = OutOfResources(2**18, 2**17, "shared memory")
        self.times = {CANDIDATES[2]: 50.0, CANDIDATES[3]: 70.0}
        self.broken = {CANDIDATES[2]: how}
        *_, stored_too = nnkernels.tune_products([SHAPE], "silu")
        assert stored_too.way == CANDIDATES[3]
        self.broken = dict.fromkeys(CANDIDATES, how)
        *_, stored_too = nnkernels.tune_products([SHAPE], "silu")
        assert stored_too.way is None and stored_too.best == stored_too.pair

    def test_says_that_there_is_no_memory(self):
        self.broken = {CANDIDATES[2]: torch.OutOfMemoryError("CUDA out of memory")}
        with pytest.raises(torch.OutOfMemoryError):
            nnkernels.tune_products([SHAPE], "silu")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("name", ["thresholded_relu", "hardshrink", "relu_squared", "tanhshrink"])
    def test_a_jump_makes_no_right_kernel_wrong(self, name, dtype):
        self.times = {CANDIDATES[0]: 50.0}
        found = nnkernels.tune_products([(512, 64, 512)], name, dtype)
        assert all(row.way == CANDIDATES[0] for row in found)

    def test_a_folder_that_cannot_be_written_leaves_the_answer_to_this_process(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("NNKERNELS_CACHE", str(tmp_path / "file" / "cache"))
        self.times = {CANDIDATES[0]: 50.0}
        with pytest.warns(UserWarning, match="this process alone"):
            nnkernels.tune_products([SHAPE], "silu", training=False)
        assert answer() == Tuned(CANDIDATES[0]) and not fresh()

    def test_leaves_the_generator_of_random_numbers_as_it_was(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        nnkernels.tune_products([SHAPE], "silu")
        assert torch.equal(torch.rand(3), expected)

    def test_what_was_measured_before_an_interruption_is_kept(self, monkeypatch):
        def interrupted(*told: Any, **options: Any) -> list[float]:
            if len(fresh()) == 1:
                raise KeyboardInterrupt
            return self.clock(*told, **options)

        monkeypatch.setattr(products, "best_of_rounds", interrupted)
        with pytest.raises(KeyboardInterrupt):
            nnkernels.tune_products([SHAPE], "silu")
        assert answer() == Tuned(None) and answer(stores=True) is None

    def test_calls_that_were_recorded_ask_again(self, monkeypatch):
        asked = []
        monkeypatch.setattr(products, "choose_anew", lambda: asked.append(dict(fresh())))
        nnkernels.tune_products([SHAPE], "silu", training=False)
        assert len(asked) == 1 and asked[0]


@pytest.mark.skipif(not has_cpp_node() or INTERPRETED, reason="without the C++ node nothing is recorded")
class TestRecordedCalls:
    """On the CPU's kernels, which are recorded alike."""

    CALLS: ClassVar = {
        "linear_act": lambda x, w: F.linear_act(x, w, activation="silu"),
        "mlp": lambda x, w: F.mlp(x, w, None, w.t(), activation="silu"),
        "recomputed mlp": lambda x, w: F.mlp(x, w, None, w.t(), activation="silu", recompute=True),
    }

    @pytest.fixture
    def chosen(self, monkeypatch) -> list[Any]:
        """The calls of kernels that Python makes."""
        from nnkernels.cpu import linear as kernels

        calls, given = [], kernels.linear_act
        monkeypatch.setattr(kernels, "linear_act", lambda *told: calls.append(told) or given(*told))
        return calls

    @pytest.mark.parametrize("name", CALLS)
    def test_go_by_what_is_chosen_now(self, chosen, name):
        call = self.CALLS[name]
        x, w = torch.randn(6, 8, requires_grad=True), torch.randn(16, 8, requires_grad=True)

        def gradients(y: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(y, (x, w), torch.ones_like(y))

        def times() -> int:
            before = len(chosen)
            expected, before_that = gradients(call(x, w)), call(x, w)
            for found in (gradients(call(x, w)), gradients(before_that)):
                torch.testing.assert_close(found, expected)
            return len(chosen) - before

        for _ in range(4):
            times()
        assert times() == 0
        older = call(x, w)
        expected = gradients(call(x, w))
        choose_anew()
        assert times() > 0
        torch.testing.assert_close(gradients(older), expected)
        for _ in range(3):
            times()
        assert times() == 0

    def test_of_other_forms_stay_recorded(self, chosen):
        from nnkernels.autograd import route

        x = torch.randn(6, 8)
        for _ in range(5):
            F.layer_norm_act(x, 8, activation="silu")
        before = dict(route._numbers)
        choose_anew()
        assert all(key in route._numbers for key in before if key[0].family != "linear")


class TestBadInput:
    @pytest.mark.parametrize(
        ("shapes", "options", "error", "named"),
        [
            ([(8, 8)], {}, ValueError, "three positive numbers, got (8, 8)"),
            ([(8, 8, 8, 8)], {}, ValueError, "(8, 8, 8, 8)"),
            ([(0, 8, 8)], {}, ValueError, "(0, 8, 8)"),
            ([(8, -8, 8)], {}, ValueError, "(8, -8, 8)"),
            ([(8, 8, 8.0)], {}, TypeError, "float: 8.0"),
            ([8192], {}, TypeError, "8192"),
            (["8x8x8"], {}, TypeError, "'8x8x8'"),
            ([(8, 12, 8)], {}, ValueError, "multiples of 8, got the shape (8, 12, 8)"),
            ([(8, 8, 7)], {}, ValueError, "(8, 8, 7)"),
            ([(8, 8, 8)], {"activations": ["geluu"]}, ValueError, "geluu"),
            ([(8, 8, 8)], {"activations": "swiglu"}, ValueError, "swiglu"),
            ([(8, 8, 8)], {"activations": "identity"}, ValueError, "identity"),
            ([(8, 8, 8)], {"activations": "threshold"}, TypeError, "threshold"),
            ([(8, 8, 8)], {"activations": [torch.nn.GELU()]}, TypeError, "GELU"),
            ([(8, 8, 8)], {"dtype": torch.float32}, ValueError, "torch.float32"),
            ([(8, 8, 8)], {"dtype": "bfloat16"}, ValueError, "'bfloat16'"),
            ([(8, 8, 8)], {"device": "cpu"}, ValueError, "needs a GPU, got the device 'cpu'"),
        ],
        ids=str,
    )
    def test_is_named(self, shapes, options, error, named):
        with pytest.raises(error) as told:
            nnkernels.tune_products(shapes, **options)
        assert named in str(told.value)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
    @pytest.mark.parametrize("device", [None, "cuda", "cuda:1", 0], ids=str)
    def test_there_is_no_gpu(self, device):
        with pytest.raises(RuntimeError, match="needs a GPU"):
            nnkernels.tune_products([SHAPE], device=device)

    @pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
    def test_an_activation_of_ones_own_without_triton(self, monkeypatch):
        monkeypatch.setattr(products.backend.TritonBackend, "has", lambda self, name: False)
        with pytest.raises(ValueError, match="'silu' has no formula in Triton"):
            nnkernels.tune_products([SHAPE], "silu")


class TestCommand:
    @pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
    def test_needs_a_gpu(self, capsys):
        assert main(["products", "8192x1024x4096"]) == 2
        assert "needs a GPU" in capsys.readouterr().err

    @pytest.mark.parametrize("wrong", ["8192x1024", "8192x1024x0", "axbxc", "8192,1024,4096"])
    def test_refuses_what_is_no_shape(self, capsys, wrong):
        with pytest.raises(SystemExit) as stopped:
            main(["products", wrong])
        assert stopped.value.code == 2 and repr(wrong) in capsys.readouterr().err

    def test_tells_what_was_found(self, capsys, monkeypatch):
        from nnkernels.commands import products as command

        asked = []
        row = products.TunedProduct(SHAPE, "gelu", False, 12.0, 9.0, CANDIDATES[0])
        monkeypatch.setattr(command.torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(command, "tune_products", lambda *told, **more: asked.append((told, more)) or row)
        options = ["--activation", "mish", "--dtype", "float16", "--inference"]
        assert main(["products", "50x40x72", "8x8x8", *options]) == 0
        assert asked == [(([SHAPE, (8, 8, 8)], ["mish"], torch.float16), {"training": False})]
        assert "0.75" in capsys.readouterr().out
        monkeypatch.setattr(command, "tune_products", lambda *told, **more: nnkernels.tune_products(*told, **more))
        assert main(["products", "50x41x72"]) == 2 and "(50, 41, 72)" in capsys.readouterr().err


@executes
def test_kernels_are_measured_and_serve_from_then_on(gpu, monkeypatch):
    """Interpreted, by a clock that is made up; or on the GPU."""
    small = tuple(
        linear_table.Tiles(*one) for one in ((16, 32, 16, 2, 1, False, 4, 2, 1), (32, 64, 32, 4, 2, True, 4, 2, 1))
    )
    monkeypatch.setattr(linear_tuned, "CANDIDATES", small)
    monkeypatch.setattr(products, "best_of_rounds", lambda calls, *told, **more: [1e-3, *[5e-4] * (len(calls) - 1)])
    found = nnkernels.tune_products([SHAPE], ("silu", "gelu"), torch.float16)
    assert len(found) == 4 and all(row.way in small and math.isclose(row.best, 500.0) for row in found)
    assert fresh()
    from nnkernels.triton import linear as kernels

    served, given = [], kernels.product_act
    monkeypatch.setattr(kernels, "product_act", lambda tiles, *told: served.append(tiles) or given(tiles, *told))
    rows, depth, cols = SHAPE
    x, w, b = (torch.randn(size, device=DEVICE).half() for size in ((rows, depth), (cols, depth), (cols,)))
    with nnkernels.backend("triton"):
        y = F.linear_act(x, w / depth**0.5, b, "silu")
    expected = torch.nn.functional.silu(linear(x.float(), w.float() / depth**0.5, b.float()))
    torch.testing.assert_close(y.float(), expected, rtol=4e-3, atol=4e-3)
    assert len(served) == 1


@pytest.mark.skipif(not torch.cuda.is_available() or not HAS_TRITON, reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_on_a_gpu(cache, dtype):
    """By its own clock: the table is written, and every call is right before and after, recorded or not."""
    linear_tuned.of_device.cache_clear(), linear_tuned._of_chip.cache_clear()
    rows, depth, cols = 1000, 512, 1024
    given = [torch.randn(size, device="cuda", dtype=dtype) for size in ((rows, depth), (cols, depth), (cols,))]
    given[1] /= depth**0.5
    for one in given:
        one.requires_grad_()
    wide = [one.detach().double().requires_grad_() for one in given]

    def check() -> None:
        for _ in range(5):
            y, expected = F.linear_act(*given, activation="silu"), torch.nn.functional.silu(linear(*wide))
            slack = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(y.double(), expected, rtol=slack, atol=slack)
            found = torch.autograd.grad(y, given, torch.ones_like(y))
            for one, other in zip(found, torch.autograd.grad(expected, wide, torch.ones_like(expected)), strict=True):
                torch.testing.assert_close(one.double(), other, rtol=0.05, atol=0.05 * other.abs().max().item())

    try:
        check()
        found = nnkernels.tune_products([(rows, depth, cols), (100, 64, 72)], ("silu", "relu"), dtype)
        assert len(found) == 6 and all(0 < row.best <= row.pair for row in found)
        kind = linear_tuned.chip(torch.device("cuda", torch.cuda.current_device()))
        assert (cache / kind.file).exists() and len(fresh(kind)) == 6
        for row in found:
            which = linear_tuned.product(
                dtype, Inner(row.activation, 0.0, 0.0), row.stores, row.shape[0], *row.shape[:0:-1]
            )
            assert fresh(kind)[which] == Tuned(row.way)
        check()
        device = given[0].device
        for tiles in (None, *CANDIDATES):
            for stores in (False, True):
                which = linear_tuned.product(dtype, SILU, stores, rows, cols, depth)
                linear_tuned.of_device(device)[which] = Tuned(tiles)
            choose_anew()
            if tiles is None or tiles in (row.way for row in found):
                check()
    finally:
        linear_tuned.of_device.cache_clear(), linear_tuned._of_chip.cache_clear()
        choose_anew()


def test_examples():
    import doctest

    assert doctest.testmod(products).failed == 0


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="kernels_are_measured")
