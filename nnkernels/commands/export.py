"""`nnkernels export`: a checkpoint as an ONNX or torch.export file, which is run and compared before it counts."""

from __future__ import annotations

import argparse
import sys

LARGEST_DIFFERENCE = 1e-4
"""Between the file's answer and the network's, relative to an answer of 1."""


def run(args: argparse.Namespace) -> int:
    from ..train.checkpoint import CheckpointError
    from ..train.exporting import FORMATS, export
    from ..train.predictor import Predictor

    path = args.out.with_suffix(FORMATS[args.format])
    try:
        predictor = Predictor.load(args.checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        apart = export(predictor, path, args.format)
    except ImportError as error:
        print(f"nnkernels export needs {error.name}; run: pip install 'nnkernels[export]'", file=sys.stderr)
        return 2
    except (ValueError, OSError, CheckpointError) as error:
        print(f"nnkernels export: {error}", file=sys.stderr)
        return 2
    print(f"{path}: answers differ from the network's by at most {apart:.1e}")
    return int(not apart <= LARGEST_DIFFERENCE * max(1.0, abs(predictor.problem.target_std)))
