"""A few hundred random calls, legal and illegal; `tools/fuzz.py` makes as many as you like."""

from __future__ import annotations

import random

import fuzz_calls
import fuzz_nonsense
import pytest
import torch
from guards import LAYOUTS, guarded
from torch import Tensor

import nnkernels.functional as F
from nnkernels import native

_CHUNK = 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chunk", range(6))
def test_random_calls_are_exact_and_touch_nothing_else(chunk: int) -> None:
    failures = []
    for seed in range(chunk * _CHUNK, (chunk + 1) * _CHUNK):
        try:
            fuzz_calls.run(seed)
        except fuzz_calls.Failure as failure:
            failures.append(f"python tools/fuzz.py --calls 1 --seed {seed}  # {failure}")
    assert not failures, "\n".join(failures)


@pytest.mark.skipif(isinstance(native.library("cpu"), str), reason="the C++ kernels were not built")
def test_nonsense_raises_and_never_crashes() -> None:
    failures = list(fuzz_nonsense.failures(range(400)))
    assert not failures, "\n".join(["python tools/fuzz.py --nonsense --calls 1 --seed N", *failures])


def test_a_seed_is_one_call() -> None:
    assert fuzz_calls.run(3) == fuzz_calls.run(3) != fuzz_calls.run(4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_guards_notice_one_element_beside_a_tensor(layout: str) -> None:
    values = torch.arange(24.0).view(2, 4, 3)
    one = guarded(values, layout, random.Random(1))
    assert layout == "expanded" or torch.equal(one.tensor, values)
    one.memory.mul_(1)
    assert not one.intruded()
    one.memory[one.tensor.storage_offset()] += 1
    assert one.intruded() and not one.intruded(written=True)
    one.memory[one.tensor.storage_offset() - 1] = 0
    assert one.intruded(written=True)


def test_an_error_of_a_few_ulp_and_a_write_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(-2, 2, 20)
    rng = random.Random(0)

    def check(function: object) -> None:
        held = [guarded(x, "contiguous", rng)]
        fuzz_calls._check(fuzz_calls.Call("", function, [x], exact=True), held, [True], rng)  # type: ignore[arg-type]

    def inexact(x: Tensor) -> Tensor:
        return F.silu(x) * (1 + 1e-5 * (x.dtype == torch.float32))

    def writing(x: Tensor) -> Tensor:
        y = F.silu(x)
        x.data[0] = 3
        return y

    check(F.silu)
    for function, told in ((inexact, "the value is"), (writing, "written")):
        with pytest.raises(fuzz_calls.Failure, match=told):
            check(function)
