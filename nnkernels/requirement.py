"""Which torch is needed, checked without importing it, so that a missing or old one is named before all else."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

OLDEST = (2, 11)
_MEND = f"run: pip install --upgrade 'torch>={OLDEST[0]}.{OLDEST[1]}'"


def check_torch() -> None:
    """Raises ImportError, which says what would do, where torch is missing or older than `OLDEST`."""
    needs = f"nnkernels needs PyTorch {OLDEST[0]}.{OLDEST[1]} or later"
    if (version := _version()) is None:
        raise ModuleNotFoundError(f"{needs}, and there is none; {_MEND}", name="torch")
    if (found := re.match(r"(\d+)\.(\d+)", version)) and tuple(map(int, found.groups())) < OLDEST:
        raise ImportError(f"{needs}, and there is {version}; {_MEND}", name="torch")


def _version() -> str | None:
    """The installed version, "" where it cannot be told; None if there is no torch."""
    if (loaded := sys.modules.get("torch")) is not None:
        return str(getattr(loaded, "__version__", ""))
    spec = importlib.util.find_spec("torch")
    if spec is None:
        return None
    try:
        told = Path(spec.origin or "").with_name("version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    match = re.search(r"^__version__ = ['\"](.+?)['\"]", told, re.MULTILINE)
    return match[1] if match else ""
