"""`nnkernels predict`: classes and probabilities, values or text, from a checkpoint."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def inputs_in(path: str) -> Tensor:
    """The numbers in a file: NumPy's .npy, a picture, or else CSV; "-" reads CSV from the standard input.

    Raises:
        ValueError: the file holds something else.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False)).float()
    if suffix in (".png", ".jpg", ".jpeg", ".bmp", ".gif"):
        from PIL import Image

        pixels = torch.from_numpy(np.array(Image.open(path))).float() / 255
        return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    with sys.stdin if path == "-" else open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    try:
        return torch.tensor([[float(cell) for cell in row] for row in rows])
    except ValueError as error:
        raise ValueError(f"{path} is not a CSV of numbers, the same many in each line: {error}") from error


def run(args: argparse.Namespace) -> int:
    from ..train.checkpoint import CheckpointError
    from ..train.predictor import Predictor

    try:
        predictor = Predictor.load(args.checkpoint)
        problem = predictor.problem
        if problem.kind == "characters":
            print(predictor.write(args.prompt, args.length, args.temperature, args.seed))
            return 0
        if args.input is None:
            raise ValueError(f"which inputs? --input FILE with numbers of the shape {problem.shape}, .npy or CSV")
        with torch.no_grad():
            answers = predictor(predictor.check(inputs_in(args.input)))
    except (ValueError, OSError, CheckpointError) as error:
        print(f"nnkernels predict: {error}", file=sys.stderr)
        return 2
    for answer in answers:
        if problem.kind == "values":
            print(" ".join(f"{value:.6g}" for value in answer.tolist()))
        else:
            likely = int(answer.argmax())
            print(f"{problem.classes[likely]}\t{answer[likely].item():.4f}")
    return 0
