"""How training spreads over processes: DDP, FSDP2 and tensor-parallel MLPs, with these kernels and with torch's.

    torchrun --nproc-per-node 2 benchmarks/distributed.py            # NCCL if each process has a GPU, else gloo
    torchrun --nproc-per-node 8 benchmarks/distributed.py --out docs/benchmarks/distributed    # .json and .png
    torchrun --nproc-per-node 2 benchmarks/distributed.py --simulate 8 64 512

Measured on 1, 2, 4, ... of the processes, the others waiting, up to all of them: a step of a Llama-like model under
weak scaling (each process has the same batch, however many there are) and strong scaling (they share that batch), and
forward and backward of feed-forward blocks whose features are split. Efficiency is the time of one process, which
communicates nothing, over that of N: weak t1 / tN, strong t1 / (N tN). Exposed is the share of a step in which
collectives run and nothing else does, in a torch.profiler trace. The largest batch is what memory leaves room for, on
the line through the peaks of this batch and half of it. Memory of a CPU's process is all that it holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.functional import rms_norm

sys.path.insert(0, str(Path(__file__).parent))

from scaling import models, simulating
from scaling.measuring import communication, peak_bytes, reset_peak, step_seconds, synchronize
from scaling.picture import draw

from nnkernels.train.parallel import blocks_of, copied, sharded

KINDS = ("ddp", "fsdp")


class Team:
    """The processes of this run, and the first so many of them at a time."""

    def __init__(self) -> None:
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # NVLink multicast, which not every lent machine has
        local, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        on_gpu = torch.cuda.device_count() >= here
        self.device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
        if "RANK" not in os.environ:  # started without torchrun
            os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
        if on_gpu:
            torch.cuda.set_device(self.device)
        else:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=120))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.waiting = dist.new_group(backend="gloo")
        self.sizes = sorted(
            {*(2**power for power in range(self.size.bit_length()) if 2**power <= self.size), self.size}
        )
        self.meshes = {size: DeviceMesh(self.device.type, list(range(size))) for size in self.sizes}

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)

    def among(self, size: int, measure: Callable[[DeviceMesh | None], dict[str, Any]]) -> dict[str, Any]:
        """What the first `size` processes measure, the slowest's and the largest of each; the others wait."""
        mesh = self.meshes[size] if size > 1 else None
        found = measure(mesh) if self.rank < size else None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, found, group=self.waiting)
        those = [one for one in gathered if one is not None]
        return {key: max((one[key] for one in those), default=None) for key in those[0]}


@dataclass(frozen=True)
class Run:
    """One line of the first table: on `processes` processes, each with `batch` texts."""

    activations: str
    processes: int
    kind: str
    scaling: str
    batch: int


def runs(sizes: list[int], batch: int) -> Iterator[Run]:
    """Every kind and scaling on every number of processes; torch's activations beside ours under weak scaling."""
    for processes in sizes:
        for kind in KINDS if processes > 1 else ("one",):
            for activations in ("nnkernels", "torch"):
                yield Run(activations, processes, kind, "weak", batch)
            if processes > 1:
                yield Run("nnkernels", processes, kind, "strong", max(1, batch // processes))


def training(team: Team, size: models.Size, run: Run, repeats: int, mesh: DeviceMesh | None) -> dict[str, Any]:
    """A model's step: forward, backward and AdamW, in bfloat16 with float32 weights on a GPU."""
    device = team.device
    low = torch.bfloat16 if device.type == "cuda" else None
    with device:
        model = models.llama(size, run.activations)
    if mesh is not None:
        if run.kind == "ddp":
            model = copied(model, mesh)
        else:
            sharded(model, mesh, low)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    generator = torch.Generator(device).manual_seed(team.rank)
    shape = (run.batch, size.context)
    inputs, targets = (torch.randint(size.vocabulary, shape, device=device, generator=generator) for _ in range(2))

    def step() -> None:
        with torch.autocast(device.type, low) if low else nullcontext():
            loss = models.loss_of(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    reset_peak(device)
    for _ in range(3):
        step()
    synchronize(device)
    peak = peak_bytes(device)
    seconds = step_seconds(step, device, repeats)
    talk = communication(step, device)
    inputs, targets = inputs[: run.batch // 2], targets[: run.batch // 2]
    reset_peak(device)
    if run.batch > 1:
        step()
    synchronize(device)
    return {
        "step_seconds": seconds,
        "peak_bytes": peak,
        "half_peak_bytes": peak_bytes(device),
        "collectives": talk.collectives,
        "communication_seconds": talk.seconds,
        "exposed_seconds": talk.exposed,
        "exposed_share": talk.share,
    }


def model_rows(team: Team, size: models.Size, repeats: int) -> list[dict[str, Any]]:
    """What each run gave."""
    team.say(
        f"\n{'model':>6} {'scaling':>7} {'activations':>11} {'processes':>9} {'batch':>5} {'step ms':>9} "
        f"{'texts/s':>8} {'eff.':>5} {'exposed':>7} {'collectives':>11} {'peak MiB':>8} {'largest':>7}"
    )
    rows: list[dict[str, Any]] = []
    alone: dict[str, float] = {}
    for run in runs(team.sizes, size.batch):
        row = team.among(run.processes, partial(training, team, size, run, repeats))
        seconds = row["step_seconds"]
        alone.setdefault(run.activations, seconds)
        row |= dataclasses.asdict(run) | {
            "samples_per_second": run.batch * run.processes / seconds,
            "efficiency": run.batch / size.batch * alone[run.activations] / seconds,
            "largest_batch": largest_batch(row, run.batch, team.device),
        }
        rows.append(row)
        team.say(
            f"{run.kind:>6} {run.scaling:>7} {run.activations:>11} {run.processes:>9} {run.batch:>5} "
            f"{seconds * 1e3:>9.2f} {row['samples_per_second']:>8.1f} {row['efficiency']:>5.3f} "
            f"{row['exposed_share']:>7.1%} {row['collectives']:>11.1f} {(row['peak_bytes'] or 0) >> 20:>8} "
            f"{row['largest_batch'] or '-':>7}"
        )
    return rows


def largest_batch(row: dict[str, Any], batch: int, device: torch.device) -> int | None:
    """The batch that fills the GPU, on the line through the peaks of this batch and half of it; None on a CPU."""
    if device.type != "cuda" or batch < 2:
        return None
    half = batch // 2
    each = (row["peak_bytes"] - row["half_peak_bytes"]) / (batch - half)
    free = torch.cuda.get_device_properties(device).total_memory - row["peak_bytes"]
    return batch + int(free / each) if each > 0 else None


def split(team: Team, size: models.Size, names: list[str], repeats: int, mesh: DeviceMesh | None) -> dict[str, Any]:
    """Forward and backward of the blocks, behind a norm and added to its input, each kind by turns.

    The norm and the sum use what the first and the last collective bring, so that a step contains both.
    """
    device = team.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = torch.randn(size.tokens, size.width, device=device, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(x)
    found: dict[str, Any] = {}
    steps = {}
    for name in names:
        model = models.mlps(size, name, device, dtype, mesh)

        def step(model: torch.nn.Module = model) -> None:
            (x + model(rms_norm(x, x.shape[-1:]))).backward(grad)
            model.zero_grad()
            x.grad = None

        reset_peak(device)
        step()
        step()
        synchronize(device)
        found[f"{name}: peak_bytes"] = peak_bytes(device)
        found[f"{name}: collectives"] = 0
        if mesh is not None:
            with CommDebugMode() as counted:
                step()
            found[f"{name}: collectives"] = counted.get_total_counts()
        steps[name] = step
    for _ in range(3):
        for name, step in steps.items():
            key = f"{name}: step_seconds"
            found[key] = min(found.get(key, float("inf")), step_seconds(step, device, repeats))
    for name, step in steps.items():
        found[f"{name}: exposed_share"] = communication(step, device).share
    return found


def mlp_rows(team: Team, size: models.Size, names: list[str], repeats: int) -> list[dict[str, Any]]:
    """Each kind of block on each number of processes, and how much faster than torch's of the same kind."""
    team.say(
        f"\n{size.mlps} MLPs of {size.width} features, {size.tokens} tokens{'':8} {'processes':>9} {'step ms':>9} "
        f"{'tokens/s':>10} {'x torch':>7} {'exposed':>7} {'collectives':>11} {'peak MiB':>8}"
    )
    rows: list[dict[str, Any]] = []
    for processes in team.sizes:
        found = team.among(processes, partial(split, team, size, names, repeats))
        for name in names:
            row = {key.removeprefix(f"{name}: "): one for key, one in found.items() if key.startswith(f"{name}: ")}
            theirs = found[f"{name.split(' in one')[0].split(',')[0]}, torch: step_seconds"]
            row |= {"name": name, "width": size.width, "tokens": size.tokens, "processes": processes}
            row |= {"tokens_per_second": size.tokens / row["step_seconds"], "speedup": theirs / row["step_seconds"]}
            rows.append(row)
            team.say(
                f"{name:46} {processes:>9} {row['step_seconds'] * 1e3:>9.3f} {row['tokens_per_second']:>10.0f} "
                f"{row['speedup']:>7.3f} {row['exposed_share']:>7.1%} {row['collectives']:>11} "
                f"{(row['peak_bytes'] or 0) >> 20:>8}"
            )
    return rows


def links_of(team: Team, args: argparse.Namespace) -> simulating.Links:
    """As told, or from all-reduces among all processes."""
    if args.alpha_us is not None and args.gigabytes is not None:
        return simulating.Links(args.alpha_us * 1e-6, args.gigabytes * 1e9, "as given on the command line")
    if team.size == 1:
        raise SystemExit("one process has no links to measure: give --alpha-us and --gigabytes, or start with torchrun")
    sizes = [4**power for power in range(5, 14 if team.device.type == "cuda" else 12)]
    seconds = []
    for size in sizes:
        block = torch.zeros(size // 4, device=team.device)
        for _ in range(3):
            dist.all_reduce(block)
        dist.barrier()
        seconds.append(step_seconds(lambda block=block: dist.all_reduce(block), team.device, 20))
    return simulating.Links.fitted(sizes, seconds, team.size)


def simulated(team: Team, size: models.Size, found: dict[str, Any], args: argparse.Namespace) -> list[dict]:
    model = models.llama(size, "nnkernels")
    low = team.device.type == "cuda"
    work = simulating.Work(
        seconds=next(row["step_seconds"] for row in found["models"] if row["processes"] == 1),
        parameters=sum(one.numel() for one in model.parameters()),
        blocks=len(blocks_of(model)),
        grad_bytes=4,
        weight_bytes=2 if low else 4,
    )
    links = links_of(team, args)
    alone = next(row for row in found["mlps"] if row["processes"] == 1 and row["name"] == "swiglu, nnkernels")
    each = alone["tokens"] * alone["width"] * work.weight_bytes
    mlp = lambda n: simulating.mlps(alone["step_seconds"], size.mlps, each, links, n)  # noqa: E731
    return simulating.simulate(work, links, args.simulate, mlp, team.say)


def write(team: Team, out: Path | None, found: dict[str, Any]) -> None:
    """After each table, so that nothing is lost if a later one fails."""
    if out is not None and team.rank == 0:
        out.with_suffix(".json").write_text(json.dumps(found, indent=1))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="PATH", help="writes PATH.json and PATH.png")
    parser.add_argument("--batch", type=int, help="texts of a step of one process (default: 16 on a GPU, 8 on a CPU)")
    parser.add_argument("--repeats", type=int, help="timed steps (default: 20 on a GPU, 8 on a CPU)")
    parser.add_argument(
        "--mlp-widths", type=int, nargs="+", help="features of the feed-forward blocks (default: the model's)"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile of torch's activation as well")
    parser.add_argument("--simulate", type=int, nargs="+", default=[], metavar="N", help="extrapolates to N processes")
    parser.add_argument("--alpha-us", type=float, help="with --simulate: microseconds before a message moves")
    parser.add_argument("--gigabytes", type=float, help="with --simulate: GB/s of a link, each way")
    args = parser.parse_args()
    for name in ("batch", "repeats", "mlp_widths", "simulate"):
        given = getattr(args, name)
        if any(one < 1 for one in (given if isinstance(given, list) else [given]) if one is not None):
            parser.error(f"--{name.replace('_', '-')} has to be at least 1, got {given}")
    if args.out is not None and not args.out.parent.is_dir():
        parser.error(f"--out: there is no folder {args.out.parent}")
    return args


def main() -> int:
    args = options()
    team = Team()
    on_gpu = team.device.type == "cuda"
    size = models.GPU if on_gpu else models.CPU
    size = dataclasses.replace(size, batch=args.batch or size.batch)
    repeats = args.repeats or (20 if on_gpu else 8)
    machine = (
        torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {torch.get_num_threads()} threads each"
    )
    backend = "NCCL" if on_gpu else "gloo"
    found: dict[str, Any] = {
        "machine": f"{team.size} x {machine}, torch {torch.__version__}, {backend}",
        "model": dataclasses.asdict(size),
        "sizes": team.sizes,
    }
    team.say(found["machine"])
    team.say(f"{size.depth} blocks of {size.width} features, {size.vocabulary} words, texts of {size.context}")
    keep = partial(write, team, args.out, found)
    found["models"] = model_rows(team, size, repeats)
    keep()
    names = [name for name in models.MLPS if args.compile or "compiled" not in name]
    found["mlps"] = []
    for width in args.mlp_widths or [size.width]:
        tokens = size.tokens * size.width // width
        found["mlps"] += mlp_rows(
            team, dataclasses.replace(size, width=width, tokens=tokens), names, max(1, repeats // 2)
        )
        keep()
    if args.simulate:
        found["simulated"] = simulated(team, size, found, args)
    keep()
    if args.out is not None and team.rank == 0:
        draw(found, args.out.with_suffix(".png"))
        team.say(f"\n{args.out}.json and .png")
    dist.barrier(group=team.waiting)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
