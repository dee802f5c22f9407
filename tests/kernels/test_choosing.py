"""`backend` and `saving` as context managers: used twice, nested, and overlapping in threads, tasks and generators."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

import nnkernels
import nnkernels.functional as F
from nnkernels import dispatch, policies

BOTH = pytest.mark.parametrize(
    ("context", "chosen", "one", "other"),
    [
        (nnkernels.backend, dispatch.chosen, "reference", "triton"),
        (nnkernels.saving, policies.chosen, "compressed", "bits"),
    ],
    ids=["backend", "saving"],
)


@BOTH
def test_an_object_serves_again_and_inside_itself(context, chosen, one, other):
    again = context(one)
    for _ in range(2):
        with again:
            assert chosen() == one
            with context(other), again:
                assert chosen() == one
            assert chosen() == one
        assert chosen() == "auto"


@BOTH
def test_a_bare_call_holds_until_the_end_of_the_statement_around_it(context, chosen, one, other):
    with context("auto"):
        context(one)
        assert chosen() == one
        with context(other):
            context("auto")
            assert chosen() == "auto"
        assert chosen() == one
    assert chosen() == "auto"


@BOTH
def test_overlapping_threads_see_their_own_and_leave_nothing(context, chosen, one, other):
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    seen = {}

    def first():
        with context(one):
            first_is_in.set()
            second_is_in.wait(10)
            seen["first"] = chosen()
        first_is_out.set()

    def second():
        first_is_in.wait(10)
        with context(other):
            second_is_in.set()
            first_is_out.wait(10)
            seen["second"] = chosen()
        seen["after"] = chosen()

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": one, "second": other, "after": "auto"} and chosen() == "auto"


@BOTH
def test_overlapping_tasks_see_their_own_and_leave_nothing(context, chosen, one, other):
    async def hold(name, steps):
        with context(name):
            for _ in range(steps):
                await asyncio.sleep(0)
                assert chosen() == name
        return chosen()

    async def main():
        return await asyncio.gather(hold(one, 2), hold(other, 5), hold("auto", 3))

    assert asyncio.run(main()) == ["auto"] * 3 and chosen() == "auto"


@BOTH
def test_generators_that_end_in_another_order_leave_nothing(context, chosen, one, other):
    def hold(name):
        with context(name):
            yield

    generators = [hold(one), hold(other)]
    for generator in generators:
        next(generator)
    assert chosen() == other
    for generator in generators:
        next(generator, None)
    assert chosen() == "auto"


@BOTH
def test_an_end_in_another_thread_takes_the_choice_back(context, chosen, one, other):
    held = context(one)
    thread = threading.Thread(target=held.__enter__)
    thread.start()
    thread.join()
    held.__exit__(None, None, None)
    assert chosen() == "auto" and chosen.is_untouched


def test_a_bare_call_outside_of_statements_holds_for_the_process():
    script = """
import threading, torch, nnkernels
from nnkernels import dispatch
nnkernels.backend("reference")
seen = []
thread = threading.Thread(target=lambda: seen.append(dispatch.chosen()))
thread.start(); thread.join()
print(seen[0], dispatch.chosen())
"""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["reference", "reference"]


def test_a_thread_beside_a_statement_keeps_exact_gradients():
    x = torch.randn(4096, requires_grad=True)
    exact = torch.autograd.grad(F.silu(x).sum(), x)[0]
    found = []
    with nnkernels.saving("compressed4"):
        thread = threading.Thread(target=lambda: found.append(torch.autograd.grad(F.silu(x).sum(), x)[0]))
        thread.start()
        thread.join()
        assert not torch.equal(torch.autograd.grad(F.silu(x).sum(), x)[0], exact)
    assert torch.equal(found[0], exact)


@BOTH
def test_a_name_that_is_unknown_chooses_nothing(context, chosen, one, other):
    with pytest.raises(ValueError, match="nothing"):
        context("nothing")
    assert chosen() == "auto" and chosen.is_untouched
