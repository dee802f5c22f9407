"""Loss curves of models as they are and optimised, from the same start on the same batches of real data.

    python benchmarks/curves.py                    # writes curves.png: seconds to minutes on a CPU, or on a GPU
    python benchmarks/curves.py --steps 200 --models resnet18 llama --out curves.png

Small models of torchvision, timm and transformers, on handwritten digits and on Python's documentation, by AdamW;
everything that `optimize` knows is fused. What is printed is the greatest distance of the two curves, and how far the
curve of the untouched model moves if rounding errors of its type move its parameters before it starts.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy

import nnkernels
from nnkernels.train.datasets import named

CONTEXT = 64


def image(library: str, name: str, **options: Any) -> Callable[[int], Module]:
    def build(classes: int) -> Module:
        if library == "timm":
            import timm

            return timm.create_model(name, num_classes=classes, in_chans=1, **options)
        from torchvision import models

        model = getattr(models, name)(num_classes=classes)
        model.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        return model

    return build


def language(kind: str, head: str, **options: Any) -> Callable[[int], Module]:
    def build(words: int) -> Module:
        import transformers

        sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 128, "intermediate_size": 352}
        sizes |= {"max_position_embeddings": 2 * CONTEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        config = getattr(transformers, f"{kind}Config")(**sizes, vocab_size=words, **options)
        return getattr(transformers, f"{kind}{head}")(config)

    return build


IMAGES = {
    "resnet18": image("torchvision", "resnet18"),
    "mobilenetv3_small_050": image("timm", "mobilenetv3_small_050"),
    "efficientnet_b0": image("timm", "efficientnet_b0"),
    "convnext_atto": image("timm", "convnext_atto"),
    "vit_tiny": image("timm", "vit_tiny_patch16_224", img_size=32, patch_size=8),
}
TEXTS = {
    "llama": language("Llama", "ForCausalLM", num_key_value_heads=4),
    "bert": language("Bert", "LMHeadModel", is_decoder=True),
    "gpt2": language("GPT2", "LMHeadModel"),
}


def batches(name: str, steps: int, size: int) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """The batches of a run, and how many classes there are."""
    data = named("digits" if name in IMAGES else "pydoc", CONTEXT)
    inputs, targets = data.train.inputs, data.train.targets
    if name in IMAGES:
        pictures = inputs.float().view(-1, 1, 8, 8)
        inputs = torch.nn.functional.interpolate(pictures / pictures.abs().max(), scale_factor=4)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    order = torch.randint(len(inputs), (steps, size), generator=torch.Generator().manual_seed(0))
    return [(inputs[at], targets[at]) for at in order], int(targets.max()) + 1


def losses(model: Module, given: list[tuple[Tensor, Tensor]], device: str) -> list[float]:
    """Of each step, from the same random numbers each time; bfloat16 autocast on a GPU, float32 on a CPU."""
    torch.manual_seed(1)
    optimizer, found = torch.optim.AdamW(model.parameters(), 1e-3), []
    for inputs, targets in given:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            made = model(inputs.to(device))
            made = made if isinstance(made, Tensor) else made.logits
            loss = cross_entropy(made.float().flatten(0, -2), targets.to(device).flatten())
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@torch.no_grad()
def rounded(model: Module, device: str) -> Module:
    """A copy whose parameters have lost, or gained, up to one epsilon of the type that is computed in."""
    moved, eps = copy.deepcopy(model), torch.finfo(torch.bfloat16 if device == "cuda" else torch.float32).eps
    for parameter in moved.parameters():
        wide = parameter.double()
        parameter.copy_(wide * (1 + eps * (2 * torch.rand_like(wide) - 1)))
    return moved


def compared(name: str, steps: int, device: str) -> tuple[list[float], list[float]]:
    given, classes = batches(name, steps, 32)
    torch.manual_seed(0)
    plain = (IMAGES | TEXTS)[name](classes).to(device).train()
    other, ours = rounded(plain, device), copy.deepcopy(plain)
    nnkernels.optimize(ours, always=True, verbose=False)
    before, after, moved = (losses(model, given, device) for model in (plain, ours, other))
    apart, usual = (max(abs(a - b) for a, b in zip(before, curve, strict=True)) for curve in (after, moved))
    print(f"{name:24}{before[0]:8.3f}{before[-1]:8.3f}{after[-1]:8.3f}{apart:12.1e}{usual:12.1e}", flush=True)
    return before, after


def draw(curves: dict[str, tuple[list[float], list[float]]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(curves) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(12, 2.4 * rows), squeeze=False, layout="constrained")
    for one in axes.flat[len(curves) :]:
        one.axis("off")
    for one, (name, (before, after)) in zip(axes.flat, curves.items(), strict=False):
        one.plot(before, color="#0060a0", linewidth=2.5, alpha=0.5, label="as it is")
        one.plot(after, color="#c04000", linewidth=1, linestyle="--", label="optimised")
        one.set_title(name, fontsize=10)
        one.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False)
    figure.supxlabel("step")
    figure.supylabel("cross entropy")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=IMAGES | TEXTS, default=list(IMAGES | TEXTS))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", default="curves.png")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__} on {device}, {given.steps} steps")
    print(f"{'':24}{'first':>8}{'last':>8}{'ours':>8}{'apart':>12}{'by rounding':>12}")
    draw({name: compared(name, given.steps, device) for name in given.models}, given.out)


if __name__ == "__main__":
    main()
