"""`nnkernels export`: a checkpoint as an ONNX or torch.export file, which is run and compared before it counts."""

from __future__ import annotations

import argparse
import sys

from ..cli import missing
from ..train.exporting import FORMATS, export
from ..train.predictor import Predictor

LARGEST_DIFFERENCE = 1e-4
"""Between the file's answer and the network's, relative to an answer of 1."""


def run(args: argparse.Namespace) -> int:
    try:
        path = args.out.with_suffix(FORMATS[args.format])
        predictor = Predictor.load(args.checkpoint)
        if args.format == "onnx" and (name := missing("onnx", "onnxscript", "onnxruntime")) is not None:
            print(f"nnkernels export needs {name}; run: pip install 'nnkernels[export]'", file=sys.stderr)
            return 2
        path.parent.mkdir(parents=True, exist_ok=True)
        apart = export(predictor, path, args.format)
    except (ValueError, RuntimeError) as error:  # of which CheckpointError is one
        print(f"nnkernels export: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    print(f"{path}: answers differ from the network's by at most {apart:.1e}")
    return int(not apart <= LARGEST_DIFFERENCE * max(1.0, abs(predictor.problem.target_std)))
