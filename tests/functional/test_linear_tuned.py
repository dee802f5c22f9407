"""Products that users had measured: which answer a call gets, in this process and in later ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import DEVICE
from measured_products import BF16, GELU, KIND, RELU, SHAPE, SILU, answer, cache_in, fresh, keep, make_up, plain
from torch.nn.functional import linear
from triton_tools import NVIDIA, compile_ahead, compiles

from nnkernels import stored
from nnkernels.contracts.inner import Inner
from nnkernels.contracts.linear import Ending
from nnkernels.triton import linear_table, linear_tuned
from nnkernels.triton.linear_tuned import CANDIDATES, Tuned


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    return cache_in(tmp_path, monkeypatch)


@pytest.fixture
def gpu(monkeypatch) -> None:
    make_up(monkeypatch)


class TestAnswers:
    def test_are_of_classes_of_rows_and_of_nothing_else(self, gpu):
        keep(Tuned(CANDIDATES[4]))
        assert [answer(rows=rows) for rows in (32, 33, 64, 65)] == [None, *[Tuned(CANDIDATES[4])] * 2, None]
        assert answer(GELU) is answer(stores=True) is answer(dtype=torch.float16) is None

    def test_are_those_of_later_processes_too(self, gpu, cache):
        keep(Tuned(CANDIDATES[4]))
        keep(Tuned(None), GELU, True)
        keep(Tuned(CANDIDATES[0]))
        assert fresh() == linear_tuned.of_device(torch.device(DEVICE)) and len(fresh()) == 2
        (file,) = cache.glob("*.json")
        assert file.name == "products-NVIDIA-Made-Up-9-80-GB--8.0.json"
        found = json.loads(file.read_text())
        assert found["gpu"] == KIND.name and found["rows"][1]["way"] is None
        assert found["rows"][0]["rows"] == 64 and found["rows"][0]["in"] == 40 and found["rows"][0]["out"] == 72

    def test_of_another_compiler_stay_in_the_table_and_serve_nobody_here(self, gpu):
        keep(Tuned(CANDIDATES[4]))
        assert not fresh(KIND._replace(triton="3.9.0")) and fresh()

    @pytest.mark.parametrize(
        "change",
        [
            {"way": {"rows": 7}},
            {"way": {**CANDIDATES[4]._asdict(), "stages": 90}},
            {"way": "large"},
            {"dtype": "float64"},
            {"rows": [64]},
        ],
        ids=str,
    )
    def test_that_nobody_here_has_written_are_not_believed(self, gpu, cache, change):
        keep(Tuned(CANDIDATES[4]))
        (file,) = cache.glob("*.json")
        found = json.loads(file.read_text())
        found["rows"] = [found["rows"][0] | change, {}, found["rows"][0] | {"activation": "gelu"}]
        file.write_text(json.dumps(found))
        assert [which.activation for which in fresh()] == ["gelu"]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there the device is what it is")
    def test_are_read_once_for_all_gpus_of_a_kind(self, monkeypatch):
        reads = []
        monkeypatch.setattr(linear_tuned, "chip", lambda device: KIND)
        monkeypatch.setattr(stored, "read", lambda *told: reads.append(told) or [])
        linear_tuned.of_device.cache_clear(), linear_tuned._of_chip.cache_clear()
        try:
            for index in (0, 1, 0):
                for _ in range(3):
                    assert linear_tuned.of_activation(torch.device("cuda", index), BF16, SILU, False, 8, 8, 8) is None
            assert len(reads) == 1
        finally:
            linear_tuned.of_device.cache_clear(), linear_tuned._of_chip.cache_clear()


@plain
class TestWhichWayACallGoes:
    @pytest.fixture(autouse=True)
    def ways(self, monkeypatch, gpu) -> None:
        from nnkernels.triton import linear as kernels

        monkeypatch.setattr(kernels, "product_act", lambda tiles, *told: tiles)
        monkeypatch.setattr(kernels, "_PAIR", SimpleNamespace(linear_act=lambda *told: "pair"))
        monkeypatch.setattr(kernels._torch, "linear_relu", lambda x, w, b: linear(x, w, b).relu_())
        monkeypatch.setattr(linear_table, "knows", lambda device: self.is_known)
        monkeypatch.setattr(linear_table, "of_activation", lambda *told: linear_table.LARGE)

    is_known = False

    def way(self, inner: Inner = SILU, keeps: bool = False, exact: bool = False, with_bias: bool = True) -> Any:
        from nnkernels.triton import linear as kernels

        rows, depth, cols = SHAPE
        x, weight, bias = (torch.ones(shape, dtype=BF16) for shape in ((rows, depth), (cols, depth), (cols,)))
        return kernels.linear_act(Ending(inner, exact), x, weight, bias if with_bias else None, keeps)

    def test_on_a_chip_without_a_table_of_ours(self):
        assert self.way() == "pair" == self.way(RELU)
        keep(Tuned(CANDIDATES[4]))
        keep(Tuned(None), SILU, stores=True)
        assert self.way() == CANDIDATES[4] and self.way(keeps=True) == "pair" == self.way(GELU)
        assert self.way(exact=True) == "pair"

    def test_on_the_chip_of_our_table(self):
        self.is_known = True
        assert self.way() == self.way(keeps=True) == linear_table.LARGE
        keep(Tuned(CANDIDATES[4]))
        keep(Tuned(None), SILU, stores=True)
        assert self.way() == CANDIDATES[4] and self.way(keeps=True) == "pair"

    def test_what_torch_ends_itself_is_the_pair_there(self):
        def ends() -> bool:
            return isinstance(self.way(RELU), tuple)

        assert not ends()
        keep(Tuned(None), RELU)
        assert ends() and self.way(RELU, with_bias=False) == "pair"
        keep(Tuned(CANDIDATES[4]), RELU)
        assert self.way(RELU) == CANDIDATES[4]
        self.is_known = True
        assert self.way(RELU, keeps=True) == CANDIDATES[4]

    def test_maxout_goes_by_our_table_alone(self, monkeypatch):
        from nnkernels.triton import linear as kernels

        monkeypatch.setattr(kernels, "_PAIR", SimpleNamespace(linear_maxout=lambda *told: "pair"))
        keep(Tuned(CANDIDATES[4]))
        assert (
            kernels.linear_maxout(torch.ones(2**11, 512, dtype=BF16), torch.ones(2**12, 512).bfloat16(), None, 4, True)
            == "pair"
        )


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_candidates_compile_for_every_gpu(arch, fresh_cache):
    """Those for chips without the copy engine need no more shared memory than the smallest of them has."""
    from nnkernels.triton import linear_kernels as kernels
    from nnkernels.triton.activations import FORMULAS

    for at, tiles in enumerate(CANDIDATES):
        constants = {"VALUE": FORMULAS["gelu"].value, "KEEPS": True}
        constants |= {name.upper(): value for name, value in tiles._asdict().items()}
        compiled = compile_ahead(kernels.forward, arch, "bf16", constants, tiles.warps, num_stages=tiles.stages)
        if arch == "sm_80":
            assert compiled.metadata.shared <= (163 if at < 3 else 99) * 1024
            assert "cp.async.cg.shared" in compiled.asm["ptx"] and "mma.sync" in compiled.asm["ptx"]
