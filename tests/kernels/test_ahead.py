"""Kernels compiled ahead: none is launched, later calls find them, and are repeated without Python as ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial

import pytest
import torch

import nnkernels
import nnkernels.functional as F
from nnkernels.ahead import _Waiting, compiled_ahead, run_in_forks
from nnkernels.autograd import has_cpp_node, node, route

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, for which Triton compiles")


def test_what_needs_no_compiler_computes_as_ever():
    x = torch.randn(5, requires_grad=True)
    with compiled_ahead():
        y = F.silu(x)
        y.sum().backward()
    torch.testing.assert_close(y, torch.nn.functional.silu(x))


def test_an_exception_inside_leaves_nothing_behind():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with pytest.raises(ZeroDivisionError), compiled_ahead():
        raise ZeroDivisionError
    x = torch.randn(3, 8, device=device)
    expected = torch.nn.functional.gelu(torch.nn.functional.layer_norm(x, (8,)))
    torch.testing.assert_close(F.layer_norm_act(x, 8, activation="gelu"), expected)


needs_processors = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)


@needs_processors
def test_calls_are_made_elsewhere_whatever_becomes_of_one(tmp_path):
    def leave(name):
        (tmp_path / str(name)).write_text(str(os.getpid()))

    run_in_forks([lambda: 1 / 0, *(partial(leave, name) for name in range(20)), lambda: os._exit(1)])
    found = {int(file.read_text()) for file in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 20 and os.getpid() not in found


@needs_processors
def test_a_call_that_never_ends_is_ended(tmp_path):
    done = tmp_path / "done"
    began = time.monotonic()
    run_in_forks([partial(time.sleep, 600), done.touch], seconds=4.0)
    assert time.monotonic() - began < 60
    assert done.exists()


@needs_processors
@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_nothing_is_left_of_forks_that_fail_or_are_interrupted(monkeypatch, error, tmp_path):
    fork, forks = os.fork, []

    def second_fails():
        if forks:
            raise error or OSError("no more processes")
        forks.append(fork())
        return forks[0]

    monkeypatch.setattr(os, "fork", second_fails)
    before = set(os.listdir("/proc/self/fd"))
    calls = [partial(time.sleep, 0.1), (tmp_path / "done").touch]
    if error is None:
        run_in_forks(calls)
        assert (tmp_path / "done").exists()
    else:
        with pytest.raises(error):
            run_in_forks(calls)
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(forks[0], os.WNOHANG)


@needs_processors
def test_what_is_still_to_be_printed_is_printed_once():
    program = """
import sys
from nnkernels.ahead import run_in_forks
sys.stdout.write("once")
run_in_forks([sys.stdout.flush] * 4)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "once", done.stderr


@pytest.mark.parametrize("interrupt", [None, KeyboardInterrupt, ValueError])
def test_every_call_is_settled_whatever_happens(interrupt):
    async_compile = pytest.importorskip("triton").AsyncCompileMode
    waiting, finalized = _Waiting(), []
    raised = nullcontext() if interrupt is None else pytest.raises(interrupt)
    with raised, async_compile(waiting, ignore_errors=True) as mode, waiting:
        for key, call in (("a", lambda: 1), ("b", lambda: 1 / 0), ("c", lambda: 3)):
            mode.submit(key, call, finalized.append)
        if interrupt is not None:
            raise interrupt
        waiting.finish()
    assert sorted(finalized) == ([1, 3] if interrupt is None else [])


@pytest.mark.skipif(not has_cpp_node(), reason="the C++ node was not built for this torch")
def test_nobodys_choice_lets_the_node_serve_meanwhile():
    assert node.serves
    with node.bypassed():
        with node.bypassed(), nnkernels.saving("input"):
            assert not node.serves
        with nnkernels.saving("input"):
            assert not node.serves
        assert not node.serves
    assert node.serves


@needs_gpu
def test_later_calls_find_the_kernels_and_are_repeated_without_python(fresh_cache, monkeypatch):
    from triton import knobs

    x, weight = (torch.randn(shape, device="cuda", requires_grad=True) for shape in ((4, 1224), (1224,)))
    compiled, in_python = [], []

    def step() -> list[torch.Tensor]:
        y = F.rms_norm_act(x, 1224, weight, activation="mish")
        return [y, *torch.autograd.grad(y, (x, weight), torch.ones_like(y))]

    with compiled_ahead():
        step()
    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", lambda **told: compiled.append(told["fn"].name))
    forward = route._forward
    monkeypatch.setattr(route, "_forward", lambda *given: in_python.append(1) or forward(*given))
    found = [step() for _ in range(4)]
    assert not compiled
    if has_cpp_node():
        assert len(in_python) == 2
    with nnkernels.backend("reference"):
        expected = step()
    for one in found:
        torch.testing.assert_close(one, expected)
