"""`nnkernels products`: measures products with an activation behind them on this GPU, and keeps the fastest way."""

from __future__ import annotations

import argparse
import sys

import torch

from ..products import tune_products


def run(args: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        print("nnkernels products needs a GPU, and torch finds none here", file=sys.stderr)
        return 2
    try:
        found = tune_products(
            args.shapes, args.activation or ("gelu", "silu"), getattr(torch, args.dtype), training=not args.inference
        )
    except ValueError as error:
        print(f"nnkernels products: {error}", file=sys.stderr)
        return 2
    print(found)
    return 0
