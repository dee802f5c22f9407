"""Whole models: a training step as it is, optimised, optimised under saving("recompute"), compiled, and both.

    python benchmarks/models.py                                # every model, on a GPU
    python benchmarks/models.py --models resnet50 llama --compile --out models.json

bfloat16 autocast, images channels last, SGD with momentum. Each model is timed beside a copy of itself in rounds that
alternate, the host included; the figure is the best round's. Memory is the peak above what stands there before a step.
`optimize` is ready once after Triton has compiled what its cache lacks, and a second time without that.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

import nnkernels

_ROUNDS, _STEPS = 6, 4


class Model(NamedTuple):
    """How a model is made, and a batch of it."""

    build: Callable[[], Module]
    batch: int
    example: Callable[[int], Any]


def timm(name: str, batch: int, side: int = 224) -> Model:
    def build() -> Module:
        import timm

        return timm.create_model(name)

    return Model(build, batch, lambda batch: torch.randn(batch, 3, side, side))


def torchvision(name: str, batch: int) -> Model:
    def build() -> Module:
        from torchvision import models

        return getattr(models, name)()

    return Model(build, batch, lambda batch: torch.randn(batch, 3, 224, 224))


def transformers(kind: str, batch: int, length: int, head: str = "ForCausalLM", **options: Any) -> Model:
    def build() -> Module:
        import transformers

        config = getattr(transformers, f"{kind}Config")(**options)
        return getattr(transformers, f"{kind}{head}")(config)

    def example(batch: int) -> dict[str, Tensor]:
        ids = torch.randint(0, options.get("vocab_size", 30000), (batch, length))
        return {"input_ids": ids, "labels": ids}

    return Model(build, batch, example)


def diffusers(batch: int) -> Model:
    def build() -> Module:
        from diffusers.models.resnet import ResnetBlock2D

        class Blocks(torch.nn.ModuleList):
            def forward(self, x: Tensor) -> Tensor:
                for block in self:
                    x = block(x, None)  # without an embedding of time
                return x

        return Blocks(ResnetBlock2D(in_channels=320, temb_channels=None) for _ in range(8))

    return Model(build, batch, lambda batch: torch.randn(batch, 320, 64, 64))


MODELS = {
    "efficientnet_b0": timm("efficientnet_b0", 256),
    "mobilenetv3_large_100": timm("mobilenetv3_large_100", 256),
    "torchvision_mobilenet_v3_large": torchvision("mobilenet_v3_large", 256),
    "cspdarknet53": timm("cspdarknet53", 128),
    "resnet50": torchvision("resnet50", 256),
    "efficientnetv2_s": timm("tf_efficientnetv2_s", 128),
    "convnext_tiny": timm("convnext_tiny", 128),
    "vit_small": timm("vit_small_patch16_224", 256),
    "llama": transformers(
        "Llama", 8, 1024, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=16, vocab_size=32000,
    ),
    "bert_base": transformers("Bert", 64, 256, "ForMaskedLM"),
    "gpt2": transformers("GPT2", 16, 1024, "LMHeadModel"),
    "unet_blocks": diffusers(16),
}  # fmt: skip


def moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: one.to(device) for name, one in value.items()}
    layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
    return value.to(device, memory_format=layout)


def called(model: Module, example: Any) -> Any:
    return model(**example) if isinstance(example, dict) else model(example)


def loss_of(output: Any) -> Tensor:
    loss = getattr(output, "loss", None)
    return loss if loss is not None else output.float().square().mean()


def step_of(model: Module, example: Any, saving: str = "auto") -> Callable[[], Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16), nnkernels.saving(saving):
            loss = loss_of(called(model, example))
        loss.backward()
        optimizer.step()
        return loss

    return step


def milliseconds(steps: dict[str, Callable[[], object]], each: int = _STEPS) -> dict[str, float]:
    """The best of the rounds in which the steps alternate."""
    best = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(each):
                step()
            torch.cuda.synchronize()
            best[name] = min(best[name], (time.perf_counter() - start) / each * 1e3)
    return best


def peak_gib(step: Callable[[], object]) -> float:
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def measure(name: str, compiles: bool, profiles: bool) -> dict[str, Any]:
    device = torch.device("cuda")
    torch.manual_seed(0)
    spec = MODELS[name]
    plain = spec.build().to(device).train()
    example = moved(spec.example(spec.batch), device)
    if not isinstance(example, dict):
        plain = plain.to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    found: dict[str, Any] = {"batch": spec.batch}
    steps = {"eager": step_of(plain, example)}
    found["peak_gib"] = {"eager": peak_gib(steps["eager"])}
    found["ready_s"] = {}
    for when in ("optimize", "again"):
        nnkernels.restore(ours)
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            report = nnkernels.optimize(ours, example, verbose=False)
        found["ready_s"][when] = time.perf_counter() - start
    print(report, file=sys.stderr)
    found["fused"] = {row.shown: [len(row.places), row.gain] for row in report.fused}
    found["report"] = report.step
    steps |= {"optimize": step_of(ours, example), "recompute": step_of(ours, example, "recompute")}
    found["peak_gib"] |= {label: peak_gib(steps[label]) for label in ("optimize", "recompute")}
    if compiles:
        for label, model in (("compile", copy.deepcopy(plain)), ("both", copy.deepcopy(ours))):
            start = time.perf_counter()
            steps[label] = step_of(torch.compile(model), example)  # type: ignore[arg-type]
            steps[label]()
            torch.cuda.synchronize()
            found["ready_s"][label] = time.perf_counter() - start
            found["peak_gib"][label] = peak_gib(steps[label])
    found["step_ms"] = milliseconds(steps)
    if profiles:
        for label in ("eager", "optimize"):
            print(label, profile_of(steps[label]), file=sys.stderr)
    one = moved(spec.example(1), device)
    calls = {label: latency_of(model.eval(), one) for label, model in (("eager", plain), ("optimize", ours))}
    found["latency_ms"] = milliseconds(calls, 20)
    return found


def latency_of(model: Module, example: Any) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            return called(model, example)

    return call


def profile_of(step: Callable[[], object]) -> str:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=22, max_name_column_width=60)


def line(name: str, found: dict[str, Any]) -> str:
    steps, peaks = found["step_ms"], found["peak_gib"]
    gain, room = steps["eager"] / steps["optimize"], peaks["optimize"] / peaks["eager"]
    told = f"{name:32}{steps['eager']:8.1f}{steps['optimize']:9.1f}{gain:7.2f} x"
    told += f"{peaks['eager']:8.1f}{peaks['optimize']:7.1f}{room:7.2f}"
    told += f"{steps['recompute']:9.1f}{peaks['recompute'] / peaks['eager']:7.2f}"
    if "compile" in steps:
        told += f"{steps['compile']:9.1f}{steps['both']:8.1f}"
    latency, ready = found["latency_ms"], found["ready_s"]
    return told + f"{latency['eager']:9.2f}{latency['optimize']:7.2f}{ready['optimize']:7.1f}{ready['again']:6.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--compile", action="store_true", help="beside torch.compile, and of both together")
    parser.add_argument("--profile", action="store_true", help="the kernels that take longest")
    parser.add_argument("--out", help="a JSON file for the figures")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("this benchmark needs a CUDA device")
        return 2
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    print(f"{'':32}{'eager':>8}{'ours ms':>9}{'':>9}{'peak':>8}{'GiB':>7}{'':>7}", end="")
    print(f"{'again ms':>9}{'peak':>7}  compiled, both; latency ms; ready first, again")
    figures: dict[str, Any] = {}
    failed = False
    for name in given.models:
        try:
            figures[name] = measure(name, given.compile, given.profile)
            print(line(name, figures[name]), flush=True)
        except Exception as error:  # one model that fails must not cost the others their machine
            print(f"{name:32}not measured: {type(error).__name__}: {error}")
            failed = True
        gc.collect()
        torch.cuda.empty_cache()
        torch.compiler.reset()
        if given.out:
            machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
            with open(given.out, "w") as file:
                json.dump({**machine, "models": figures}, file, indent=1)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
