"""Rewrites the table of docs/saving.md: the bytes that backward keeps, seen by saved-tensor hooks, and the errors.

python tools/saving_table.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pages import arguments, between
from torch import Tensor

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, policies
from nnkernels.benchmark import ours
from nnkernels.registry import Activation, catalogue

PAGE = Path(__file__).parent.parent / "docs/saving.md"
START, END = "<!-- bytes: written by tools/saving_table.py -->", "<!-- end of bytes -->"
COUNT = 2**16
POLICIES = ("auto", "input", "output", "bits", "compressed", "compressed4")

_WEIGHT, _LEARNED = torch.tensor([0.25]), torch.tensor([0.25], requires_grad=True)
WITH_MORE: dict[str, Callable[[Tensor], Tensor]] = {
    "`rrelu` in training": lambda x: F.rrelu(x, training=True),
    "`prelu`, frozen weight": lambda x: F.prelu(x, _WEIGHT),
    "`prelu`": lambda x: F.prelu(x, _LEARNED),
    "`swish`, learned beta": lambda x: F.swish(x, _LEARNED),
    "`apl`": lambda x: F.apl(x, _LEARNED, _LEARNED),
}
"""Calls that keep a seed or parameters as well, too few bytes to show."""


def kept_bytes(
    call: Callable[[Tensor], Tensor], policy: str, dtype: torch.dtype = torch.bfloat16, count: int = COUNT
) -> float | None:
    """Bytes for each element that backward keeps and nobody else does; None where the policy cannot serve the call."""
    x = torch.linspace(-4, 4, count, dtype=dtype).requires_grad_()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), nnkernels.saving(policy):
            call(x)
    except ValueError:
        return None
    return sum(kept.values()) / count


def shown(found: float | None) -> str:
    return "" if found is None else f"{found:.3g}"


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
    text = shown(kept_bytes(ours(row), policy))
    if policy == "auto" and row.keeps_output(*accuracy.constants_of(row)):
        text += " (output)"
    off = errors(row, policy) if policy.startswith("compressed") else None
    return f"{text} ({off[0]:.1e}, {off[1]:.1e})" if off else text


def table() -> str:
    lines = ["| | " + " | ".join(f"`{policy}`" for policy in POLICIES) + " |", "|---" * (len(POLICIES) + 1) + "|"]
    for row in catalogue(Activation):
        lines.append(f"| `{row.name}` | " + " | ".join(cell(row, policy) for policy in POLICIES) + " |")
    for label, call in WITH_MORE.items():
        lines.append(f"| {label} | " + " | ".join(shown(kept_bytes(call, policy)) for policy in POLICIES) + " |")
    return "\n".join(lines)


def rewritten(page: str) -> str:
    return between(page, "bytes", "saving_table", table())


if __name__ == "__main__":
    arguments(__doc__)
    assert policies.chosen() == "auto"
    PAGE.write_text(rewritten(PAGE.read_text()))
