"""The command line: `nnkernels info | check | demo | bench | gallery | train | tune | predict | export`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from .dispatch import NAMES
from .registry import Activation, activations, catalogue

OWN_OPTIONS = ("train", "tune")
"""The commands that read their options themselves."""

DTYPES = ("float32", "bfloat16", "float16", "float64")


def positive(text: str) -> int:
    """A whole number of at least 1, as argparse's `type`."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"it has to be a whole number of at least 1, got {text!r}")
    return number


def json_file(text: str) -> Path:
    """A path whose folder exists, so that no measurement is lost for want of it, as argparse's `type`."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file in a folder that exists")
    return path


def _importer() -> argparse.ArgumentParser:
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this Python module first, which may register activations of your own; may be repeated",
    )
    return first


def _import(modules: list[str]) -> None:
    sys.path.insert(0, os.getcwd())
    for name in modules:
        importlib.import_module(name)


def folder(text: str) -> Path:
    """A folder that exists or can be made, as argparse's `type`."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file, not a folder")
    return path


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="nnkernels", description="The activation family for PyTorch.", parents=[_importer()]
    )
    names = [row.name for row in catalogue(Activation)]
    commands = top.add_subparsers(dest="command", required=True)

    info = commands.add_parser("info", help="versions, backends, and how to mend what is missing")
    info.add_argument("--json", action="store_true", help="print JSON")

    check = commands.add_parser("check", help="gradcheck and accuracy of every activation on every backend here")
    check.add_argument("--backend", action="append", choices=NAMES[1:], help="only this one; may be repeated")
    check.add_argument("--activation", action="append", choices=activations(), help="only this one; may be repeated")
    check.add_argument("--json", type=json_file, metavar="PATH", help="also write the results there")

    demo = commands.add_parser(
        "demo", help="train a small network with torch's Mish and with ours, and time the family"
    )
    demo.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the picture")
    demo.add_argument("--epochs", type=positive, default=12)

    bench = commands.add_parser("bench", help="time every activation against torch's")
    bench.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    bench.add_argument("--activation", action="append", choices=names, help="only this one; may be repeated")
    bench.add_argument("--size", type=positive, default=2**17, help="elements (default: 2^17, within the cache)")
    bench.add_argument("--threads", type=positive, default=1)
    bench.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    bench.add_argument("--json", type=json_file, metavar="PATH", help="also write the results there")

    gallery = commands.add_parser("gallery", help="draw every activation and its derivative: pictures and a page")
    gallery.add_argument(
        "--out", type=folder, default=Path("gallery-output"), help="folder for the pictures and the page"
    )
    gallery.add_argument("--activation", action="append", choices=activations(), help="only this one; may be repeated")

    commands.add_parser("train", add_help=False, help="train a network; its options: nnkernels train --help")
    commands.add_parser("tune", add_help=False, help="search for settings; its options: nnkernels tune --help")

    predict = commands.add_parser("predict", help="classes and probabilities, values or text, from a checkpoint")
    predict.add_argument("checkpoint", type=Path, help="a checkpoint, or the folder of a run, whose best is taken")
    predict.add_argument("--input", metavar="FILE", help="numbers: .npy, CSV (- is the standard input), or a picture")
    predict.add_argument("--prompt", default="\n", help="what a network that writes goes on with")
    predict.add_argument("--length", type=positive, default=400, help="characters to write (default: 400)")
    predict.add_argument("--temperature", type=float, default=0.8, help="of writing; 0 takes the likeliest character")
    predict.add_argument("--seed", type=int, default=0, help="of writing")

    export = commands.add_parser("export", help="a checkpoint as an ONNX or torch.export file, run and compared")
    export.add_argument("checkpoint", type=Path, help="a checkpoint, or the folder of a run, whose best is taken")
    export.add_argument("--format", choices=["onnx", "torch"], default="onnx")
    export.add_argument("--out", type=Path, default=Path("network"), help="the file, its suffix aside")
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Example:
        >>> from nnkernels.cli import main
        >>> main(["check", "--activation", "relu", "--backend", "reference"])  # doctest: +ELLIPSIS
        activation...
        0
    """
    try:
        _import(_importer().parse_known_args(argv)[0].modules)  # before the names of activations are listed
    except ImportError as error:
        print(f"nnkernels: --import: {error}", file=sys.stderr)
        return 2
    top = parser()
    args, options = top.parse_known_args(argv)
    if args.command in OWN_OPTIONS:
        args.options = options
    elif options:
        top.error(f"unrecognized arguments: {' '.join(options)}")
    return importlib.import_module(f".commands.{args.command}", __package__).run(args)
