"""The activation inside a fused form."""

from __future__ import annotations

from typing import NamedTuple


class Inner(NamedTuple):
    """A stateless activation by name, or "identity", with its two constants (0 where it has fewer)."""

    name: str
    a: float
    b: float
