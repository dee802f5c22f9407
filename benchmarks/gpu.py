"""What one GPU shows: correctness first, then time as a share of the copy roofline, side by side with eager.

    python benchmarks/gpu.py                      # every activation, bf16, fp16, fp32, 2^27 elements; JSON with --out
    python benchmarks/gpu.py --compile            # torch.compile as well
    compute-sanitizer python benchmarks/gpu.py --memcheck    # small, every layout; no timing
    python benchmarks/gpu.py --large              # more than 2^31 elements

A share of 1.00 means as fast as `y.copy_(x)` of the same tensor in the same run; backward moves three tensors where the
copy moves two, so 1.5 times the copy's time is its 1.00. Times are medians of CUDA events around single launches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import nnkernels
from nnkernels import accuracy, dispatch
from nnkernels.benchmark import backward_of, ours
from nnkernels.counterparts import peer
from nnkernels.registry import Activation, catalogue, elementwise

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
BACKENDS = ("cuda", "triton")
# Triton compiles each of its kernels under the sanitizer, so one type stands for the four.
MEMCHECK_CASES = {
    "cuda": [torch.float64, *DTYPES.values()],
    "triton": [torch.bfloat16],
}


def median_ms(call: Callable[[], object], repeats: int = 15) -> float:
    """Median time of one call on the device, in milliseconds."""
    call()
    warm_up()
    torch.cuda._sleep(20_000_000)  # about 10 ms, in which the host gets ahead: no launch then waits for Python
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in marks:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks)


def warm_up(milliseconds: float = 30.0) -> None:
    """Copies until the device has been at work for that long: after a pause it starts at a lower clock."""
    x = torch.empty(2**24, device="cuda")
    y = torch.empty_like(x)
    torch.cuda.synchronize()
    started = time.perf_counter()
    while time.perf_counter() - started < milliseconds / 1e3:
        for _ in range(20):
            y.copy_(x)
        torch.cuda.synchronize()


def copy_ms(x: torch.Tensor) -> float:
    y = torch.empty_like(x)
    return median_ms(lambda: y.copy_(x), repeats=41)


def peak_bytes(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> int:
    """Memory that forward and backward take beyond what was held before, at its highest."""
    leaf = x.detach().requires_grad_()
    grad = torch.ones_like(x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function(leaf).backward(grad)
    return torch.cuda.max_memory_allocated() - before


def shares(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, grad: torch.Tensor, copy: float
) -> dict[str, float]:
    with torch.no_grad():
        forward = median_ms(lambda: function(x))
    backward = median_ms(backward_of(function, x, grad))
    return {"forward": copy / forward, "backward": 1.5 * copy / backward}


def measure_one(row: Activation, dtype: torch.dtype, size: int, copy: float, compiled: bool) -> list[dict]:
    x = torch.randn(size, device="cuda", dtype=dtype)
    grad = torch.randn(size, device="cuda", dtype=dtype)
    mine = ours(row)
    results = []
    for name in BACKENDS:
        backend = dispatch.named(name)
        if isinstance(backend, str):
            continue
        found = accuracy.measure(row, backend, dtype, "cuda")
        entry = {"backend": name, "ok": found.ok, "value_ulp": found.value, "d1_ulp": found.d1}
        if not found.ok:
            print(f"    {row.name} {name} {dtype}: {found}", flush=True)
        with nnkernels.backend(name):
            entry |= shares(mine, x, grad, copy)
        results.append(entry)
    results.append({"backend": "eager"} | shares(peer(row), x, grad, copy))
    if compiled:
        torch._dynamo.reset()
        results.append({"backend": "compile"} | shares(torch.compile(peer(row)), x, grad, copy))
    memory = {"ours": peak_bytes(mine, x), "eager": peak_bytes(peer(row), x)}
    return [{"activation": row.name, "dtype": str(dtype)[6:], "peak_bytes": memory} | entry for entry in results]


def report(args: argparse.Namespace) -> int:
    where = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "elements": 2**args.log2_size}
    print("{device}, torch {torch}, {elements} elements".format(**where))
    results: list[dict] = []
    left_out: list[str] = []
    ends = time.monotonic() + args.seconds
    for dtype in (DTYPES[name] for name in args.dtypes):
        size = 2**args.log2_size
        copy = copy_ms(torch.randn(size, device="cuda", dtype=dtype))
        moved = 2 * size * dtype.itemsize / copy / 1e9
        print(f"{dtype}: copy {copy:.4f} ms, {moved:.2f} TB/s", flush=True)
        for row in catalogue(Activation):
            if args.activations and row.name not in args.activations:
                continue
            if time.monotonic() > ends:
                left_out.append(f"{row.name} {str(dtype)[6:]}")
                continue
            found = measure_one(row, dtype, size, copy, args.compile)
            results += found
            cells = [f"{e['backend']} {e['forward']:.2f}/{e['backward']:.2f}" for e in found]
            ulps = [f"{e['value_ulp']:.1f}/{e['d1_ulp']:.1f}" for e in found if "ok" in e]
            ratio = found[0]["peak_bytes"]["ours"] / found[0]["peak_bytes"]["eager"]
            print(f"  {row.name:17} {'  '.join(cells)}  ulp {' '.join(ulps)}  memory {ratio:.2f}", flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(where | {"results": results}, indent=1) + "\n")
    for name in BACKENDS:
        mine = [e for e in results if e["backend"] == name]
        if mine:
            forward, backward = min(e["forward"] for e in mine), min(e["backward"] for e in mine)
            wrong = sorted({e["activation"] for e in mine if not e["ok"]})
            print(f"{name}: worst share forward {forward:.2f}, backward {backward:.2f}; wrong: {wrong or 'none'}")
            for way in ("forward", "backward"):
                last = sorted(mine, key=lambda entry: entry[way])[:5]
                cells = [f"{e['activation']} {e['dtype']} {e[way]:.2f}" for e in last]
                print(f"  {way}, worst first: {', '.join(cells)}")
    if left_out:
        print(f"left out after {args.seconds} s: {', '.join(left_out)}")
    return int(any(not e.get("ok", True) for e in results))


def layouts(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", dtype=dtype)

    return {
        "contiguous": make(3, 1023),
        "whole vectors": make(4096),
        "0-dim": make(),
        "empty": make(0, 5),
        "channels_last": make(2, 3, 5, 7).contiguous(memory_format=torch.channels_last),
        "half of a row": make(5, 514).chunk(2, -1)[1],
        "misaligned": make(4097)[1:],
        "transposed": make(33, 65).t(),
        "every other": make(66)[::2],
    }


def memcheck(backends: list[str]) -> int:
    wrong = 0
    for row in catalogue(Activation):
        a, b = accuracy.constants_of(row)
        for name, dtype in ((backend, dtype) for backend in backends for dtype in MEMCHECK_CASES[backend]):
            for layout, x in layouts(dtype).items():
                with nnkernels.backend(name):
                    leaf = x.detach().requires_grad_()
                    y = ours(row)(leaf)
                    (slope,) = torch.autograd.grad(y, leaf, torch.ones_like(y), create_graph=True)
                    if slope.requires_grad:
                        torch.autograd.grad(slope.sum(), leaf)
                # The truth on the CPU: the sanitizer watches our kernels only.
                off = accuracy.errors(y.detach().cpu(), accuracy.truth_of(row, "value", x.cpu(), a, b))
                if (off.numel() and off.max() > accuracy.LIMITS[dtype]) or y.stride() != torch.empty_like(x).stride():
                    wrong += 1
                    print(f"{row.name} {name} {dtype} {layout}: {off.max().item()} ulp, strides {y.stride()}")
    torch.cuda.synchronize()
    print(f"memcheck: {wrong} wrong")
    return int(wrong > 0)


def large() -> int:
    count = 2**31 + 17
    wrong = 0
    for name in BACKENDS:
        for row in (elementwise("relu"), elementwise("silu")):
            a, b = accuracy.constants_of(row)
            x = torch.empty(count, device="cuda", dtype=torch.bfloat16).normal_()
            with nnkernels.backend(name):
                leaf = x.requires_grad_()
                y = ours(row)(leaf)
                (slope,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
            for at in (0, 2**30, 2**31 - 64, count - 64):
                part = x.detach()[at : at + 64]
                for got, order in ((y, "value"), (slope, "d1")):
                    off = accuracy.errors(got.detach()[at : at + 64], accuracy.truth_of(row, order, part, a, b), 2**-6)
                    wrong += int((off > 1).any())
            del leaf, y, slope, x
            print(f"{name} {row.name}: {count} elements, {wrong} wrong so far", flush=True)
    return int(wrong > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log2-size", type=int, default=27)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--activations", nargs="+", choices=[row.name for row in catalogue(Activation)])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=540, help="start no further case after this time")
    parser.add_argument("--memcheck", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS, help="for --memcheck")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("this benchmark needs a CUDA device")
        return 2
    if args.memcheck:
        return memcheck(args.backends)
    return large() if args.large else report(args)


if __name__ == "__main__":
    sys.exit(main())
