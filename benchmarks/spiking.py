"""Leaky integrate-and-fire neurons over time beside snntorch's and spikingjelly's: forward and backward together.

    pip install snntorch spikingjelly
    python benchmarks/spiking.py            # on a GPU if there is one, where spikingjelly has kernels of its own

Sixteen steps, decay 1/2, soft reset that is not differentiated, each library's own surrogate gradient. The sides take
turns, the host included; a figure is the best round's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import nnkernels.functional as F
from nnkernels.benchmark import best_of_rounds

SHAPES = {"cpu": [(16, 32, 128), (16, 128, 512)], "cuda": [(16, 128, 4096), (16, 64, 128, 16, 16)]}


def by_snntorch() -> Callable[[Tensor], Tensor]:
    import snntorch

    leaky = snntorch.Leaky(0.5, spike_grad=snntorch.surrogate.fast_sigmoid(slope=5), reset_mechanism="subtract")

    def run(x: Tensor) -> Tensor:
        potential, spikes = torch.zeros_like(x[0]), []
        for received in x.unbind(0):
            spike, potential = leaky(received, potential)
            spikes.append(spike)
        return torch.stack(spikes)

    return run


def by_spikingjelly() -> Callable[[Tensor], Tensor]:
    from spikingjelly.activation_based import neuron, surrogate

    cells = neuron.LIFNode(
        tau=2.0, decay_input=False, v_threshold=1.0, v_reset=None, surrogate_function=surrogate.ATan(),
        detach_reset=True, step_mode="m",
    )  # fmt: skip

    def run(x: Tensor) -> Tensor:
        cells.reset()
        return cells(x)

    return run


def sides() -> dict[str, Callable[[Tensor], Tensor]]:
    """Ours, and those of the others that are installed."""
    found: dict[str, Callable[[Tensor], Tensor]] = {"nnkernels": partial(F.lif, decay=0.5)}
    for name, make in {"snntorch": by_snntorch, "spikingjelly": by_spikingjelly}.items():
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def gradient(call: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> None:
    torch.autograd.grad(call(x), x, grad)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads; microseconds")
    for shape in SHAPES[device]:
        x = torch.randn(shape, device=device, requires_grad=True)
        grad = torch.randn(shape, device=device)
        calls = sides()
        runs = [partial(gradient, call, x, grad) for call in calls.values()]
        for name, seconds in zip(calls, best_of_rounds(runs, 7, device), strict=True):
            print(f"{'x'.join(map(str, shape)):20}{name:24}{1e6 * seconds:10.0f}", flush=True)


if __name__ == "__main__":
    main()
