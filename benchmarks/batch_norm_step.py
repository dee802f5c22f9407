"""batch norm + SiLU as a training step meets it: forward and backward in an ordinary loop, the host included.

    python benchmarks/batch_norm_step.py

bfloat16, channels_last, on a GPU; beside the wall time stands that of the kernels alone, from the profiler.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

import nnkernels.functional as ours
from nnkernels.benchmark import best_of_rounds

eager = torch.nn.functional
SHAPES = (
    *((256, 64, side, side) for side in (14, 28, 56, 112)),
    (256, 240, 28, 28),
    (256, 480, 14, 14),
    (256, 960, 7, 7),
)
_ROUNDS, _CALLS = 15, 10


def kernel_ms(call: Callable[[], object]) -> float:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(_CALLS):
            call()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / _CALLS / 1e3


def main() -> int:
    if not torch.cuda.is_available():
        print("this benchmark needs a CUDA device")
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; milliseconds: eager, ours, times as fast")
    for shape in SHAPES:
        x = torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        x.requires_grad_()
        weight, bias = (torch.rand(shape[1], device="cuda", requires_grad=True) for _ in range(2))
        mean, var = torch.zeros(shape[1], device="cuda"), torch.ones(shape[1], device="cuda")
        grad = torch.randn_like(x)

        def theirs(x: Tensor = x, state: tuple[Tensor, ...] = (mean, var, weight, bias)) -> Tensor:
            return eager.silu(eager.batch_norm(x, *state, training=True))

        def mine(x: Tensor = x, state: tuple[Tensor, ...] = (mean, var, weight, bias)) -> Tensor:
            return ours.batch_norm_act(x, *state, training=True, activation="silu")

        def step(
            side: Callable[[], Tensor], leaves: tuple[Tensor, ...] = (x, weight, bias), grad: Tensor = grad
        ) -> object:
            return torch.autograd.grad(side(), leaves, grad)

        calls = [lambda side=side: step(side) for side in (theirs, mine)]
        for call in calls:
            for _ in range(4):
                call()
        wall = [1e3 * seconds for seconds in best_of_rounds(calls, _ROUNDS, "cuda")]
        kernels = [kernel_ms(call) for call in calls]
        shown = "   ".join(f"{a:6.3f} {b:6.3f} {a / b:5.2f}" for a, b in (wall, kernels))
        print(f"{'x'.join(map(str, shape)):18} wall, kernels: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
