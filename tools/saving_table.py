"""Rewrites the table of docs/saving.md: the bytes that backward keeps, seen by saved-tensor hooks, and the errors.

python tools/saving_table.py
"""

from __future__ import annotations

from pathlib import Path

import torch

import nnkernels
from nnkernels import accuracy, policies
from nnkernels.benchmark import ours
from nnkernels.registry import Activation, catalogue

PAGE = Path(__file__).parent.parent / "docs/saving.md"
START, END = "<!-- bytes: written by tools/saving_table.py -->", "<!-- end of bytes -->"
COUNT = 4096
POLICIES = ("auto", "input", "output", "bits", "compressed", "compressed4")


def kept_bytes(row: Activation, policy: str, dtype: torch.dtype = torch.bfloat16) -> float | None:
    """Bytes for each element that backward keeps and nobody else does; None where the policy cannot serve the row."""
    x = torch.linspace(-4, 4, COUNT, dtype=dtype).requires_grad_()
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), nnkernels.saving(policy):
            ours(row)(x)
    except ValueError:
        return None
    return sum(kept.values()) / COUNT


def errors(row: Activation, policy: str) -> tuple[float, float] | None:
    """The worst and the mean error of the derivative for standard normal inputs, or None where it is exact."""
    a, b = accuracy.constants_of(row)
    x = torch.randn(10**5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    try:
        with nnkernels.saving(policy):
            (found,) = torch.autograd.grad(ours(row)(x).sum(), x)
    except ValueError:
        return None
    off = (found - accuracy.truth_of(row, "d1", x.detach(), a, b)).abs()
    return (off.max().item(), off.mean().item()) if off.max() > 1e-9 else None


def cell(row: Activation, policy: str) -> str:
    found = kept_bytes(row, policy)
    if found is None:
        return ""
    text = f"{found:g}"
    if policy == "auto" and row.keeps_output(*accuracy.constants_of(row)):
        text += " (output)"
    off = errors(row, policy) if policy.startswith("compressed") else None
    return f"{text} ({off[0]:.1e}, {off[1]:.1e})" if off else text


def table() -> str:
    lines = ["| | " + " | ".join(f"`{policy}`" for policy in POLICIES) + " |", "|---" * (len(POLICIES) + 1) + "|"]
    for row in catalogue(Activation):
        lines.append(f"| `{row.name}` | " + " | ".join(cell(row, policy) for policy in POLICIES) + " |")
    return "\n".join(lines)


def rewritten(page: str) -> str:
    head, rest = page.split(START)
    return f"{head}{START}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    assert policies.chosen() == "auto"
    PAGE.write_text(rewritten(PAGE.read_text()))
