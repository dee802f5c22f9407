"""What `optimize` did, and why not the rest."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch.nn import Module


@dataclass(frozen=True)
class Row:
    """Modules of one kind.

    Attributes:
        shown: their class and configuration.
        places: their names in the model; "" is the model itself.
        fused: whether they have been given the adapter's forward.
        why: what was measured, or why they were left.
        gain: seconds of torch's over seconds of ours, forward and backward; None if it was not measured.
    """

    shown: str
    places: tuple[str, ...]
    fused: bool
    why: str
    gain: float | None = None

    def __str__(self) -> str:
        names = ", ".join(name or "the model" for name in self.places[:3])
        more = f" and {len(self.places) - 3} more" if len(self.places) > 3 else ""
        return f"{'fused' if self.fused else 'left'} {len(self.places):2} {self.shown}  {self.why}  {names}{more}"


@dataclass
class Report:
    """What became of a model.

    Attributes:
        model: the model.
        rows: one for each kind of module that was known.
        before, after: seconds of a step with `example`, None without one.
        step: a sentence about the step, or about why nothing was kept.

    Printed, it is one line for each row, and one about the step.
    """

    model: Module
    rows: list[Row] = field(default_factory=list)
    before: float | None = None
    after: float | None = None
    step: str = ""

    @property
    def fused(self) -> list[Row]:
        """The rows of what was fused."""
        return [row for row in self.rows if row.fused]

    def __str__(self) -> str:
        lines = [str(row) for row in self.rows]
        if not lines:
            lines = [f"nothing to fuse: optimize knows no module of this {type(self.model).__name__}"]
        return "\n".join(lines + ([self.step] if self.step else []))
