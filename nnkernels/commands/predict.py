"""`nnkernels predict`: classes and probabilities, values or text, from a checkpoint."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cli import missing
from ..train.predictor import Predictor

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def inputs_in(path: str, channels: int = 3) -> Tensor:
    """The numbers in a file, in float64: NumPy's .npy, a picture, or else CSV; "-" reads CSV from the standard input.

    Args:
        path: of the file.
        channels: of a picture: 1 makes it grey.

    Raises:
        ValueError: the file holds something else, or nothing.
        OSError: it cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return _array(path)
    if suffix in PICTURES:
        return _picture(path, channels)
    try:
        with sys.stdin if path == "-" else open(path, newline="", encoding="utf-8-sig") as file:
            return _table(path, file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV of numbers: {error}") from error


def _array(path: str) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # whatever damaged bytes make NumPy raise
        raise ValueError(f"{path} is not a .npy file of numbers, or is cut short") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        held = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(f"{path} holds {held}; numbers are needed")
    return torch.from_numpy(array.astype(np.float64))


def _picture(path: str, channels: int) -> Tensor:
    if missing("PIL"):
        raise ValueError(f"reading {path} needs Pillow; run: pip install pillow")
    from PIL import Image

    try:
        pixels = np.array(Image.open(path).convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # whatever damaged bytes make Pillow raise
        if isinstance(error, OSError) and error.filename:
            raise
        raise ValueError(f"{path} is not a picture that can be read: {error}") from error
    return torch.from_numpy(pixels).double().view(*pixels.shape[:2], -1).permute(2, 0, 1) / 255


def _table(path: str, lines: Iterable[str]) -> Tensor:
    """Lines of numbers, below a line of names where the first holds no number."""
    rows = csv.reader(lines)
    found: list[list[float]] = []
    for cells in rows:
        numbers = [_number(cell) for cell in cells]
        names = rows.line_num == 1 and all(number is None for number in numbers)
        if names or not any(cell.strip() for cell in cells):
            continue
        if None in numbers:
            raise ValueError(f"{path}, line {rows.line_num}: {cells[numbers.index(None)]!r} is not a number")
        if found and len(numbers) != len(found[0]):
            raise ValueError(
                f"{path}, line {rows.line_num} has {len(numbers)} numbers, the lines before have {len(found[0])}"
            )
        found.append([number for number in numbers if number is not None])
    if not found:
        raise ValueError(f"{path} holds no numbers")
    return torch.tensor(found, dtype=torch.float64)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def run(args: argparse.Namespace) -> int:
    try:
        predictor = Predictor.load(args.checkpoint)
        problem = predictor.problem
        if problem.kind == "characters":
            print(predictor.write(args.prompt, args.length, args.temperature, args.seed))
            return 0
        if args.input is None:
            raise ValueError(f"which inputs? --input FILE with numbers of the shape {problem.shape}, .npy or CSV")
        channels = problem.shape[0] if len(problem.shape) == 3 else 1
        with torch.no_grad():
            answers = predictor(predictor.check(inputs_in(args.input, channels)))
    except (ValueError, RuntimeError) as error:  # of which CheckpointError is one
        print(f"nnkernels predict: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    for answer in answers:
        if problem.kind == "values":
            print(" ".join(f"{value:.6g}" for value in answer.tolist()))
        else:
            likely = int(answer.argmax())
            name = problem.classes[likely] if problem.classes else likely
            print(f"{name}\t{answer[likely].item():.4f}")
    return 0
