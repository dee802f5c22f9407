"""The command line: `nnkernels info | check | demo | bench | products | gallery | networks | train | tune | ...`.

It needs no torch until a command computes: help and refusals come at once.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from .names import BACKENDS, unknown
from .registry import Activation, catalogue

COMMANDS = ("info", "check", "demo", "bench", "products", "gallery", "networks", "train", "tune", "predict", "export")
OWN_OPTIONS = ("train", "tune")
"""The commands that read their options themselves."""

WAYS = ("kernels", "inplace", "compiled")
"""What `check` checks: the backends, calls that write into their argument, calls under torch.compile."""

NARROW = ("bfloat16", "float16")
DTYPES = ("float32", "bfloat16", "float16", "float64")


def positive(text: str) -> int:
    """A whole number of at least 1, as argparse's `type`."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"it has to be a whole number of at least 1, got {text!r}")
    return number


def shape(text: str) -> tuple[int, ...]:
    """Rows, in and out of a product, as 8192x1024x4096, as argparse's `type`."""
    numbers = text.split("x")
    if len(numbers) != 3 or not all(one.isdecimal() and int(one) for one in numbers):
        raise argparse.ArgumentTypeError(f"a shape is ROWSxINxOUT, as 8192x1024x4096, got {text!r}")
    return tuple(map(int, numbers))


def seed(text: str) -> int:
    """A whole number that a generator of torch starts from, as argparse's `type`."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < 2**64:
        raise argparse.ArgumentTypeError(f"it has to be a whole number from 0 to 2^64 - 1, got {text!r}")
    return number


def temperature(text: str) -> float:
    """A finite number of at least 0, as argparse's `type`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"it has to be a number of at least 0, got {text!r}")
    return number


def one_of(what: str, known: Iterable[str]) -> Callable[[str], str]:
    """A known name, as argparse's `type`; another one is answered with the nearest, and all there are."""
    listed = tuple(known)

    def named(text: str) -> str:
        if text not in listed:
            raise argparse.ArgumentTypeError(str(unknown(what, text, listed)))
        return text

    return named


def json_file(text: str) -> Path:
    """A file that can be written, so that no measurement is lost for want of it, as argparse's `type`."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file in a folder that exists")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def stem(text: str) -> Path:
    """A file's path without its suffix, as argparse's `type`."""
    path = Path(text)
    if path.name in ("", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} names no file")
    return path


def folder(text: str) -> Path:
    """A folder that can be written or made, as argparse's `type`."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file, not a folder")
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be made or written: see {str(there)!r}")
    return path


def _importer() -> argparse.ArgumentParser:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
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


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="nnkernels", description="The activation family for PyTorch.", parents=[_importer()]
    )
    any_activation = one_of("activation", (row.name for row in catalogue()))
    stateless = one_of("stateless activation", (row.name for row in catalogue(Activation)))
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    info = commands.add_parser("info", help="versions, backends, and how to mend what is missing")
    info.add_argument("--json", action="store_true", help="print JSON")

    check = commands.add_parser("check", help="gradcheck and accuracy of every activation on every backend here")
    check.add_argument(
        "--backend", action="append", type=one_of("backend", BACKENDS[1:]), metavar="NAME",
        help=f"only this one ({', '.join(BACKENDS[1:])}); may be repeated",
    )  # fmt: skip
    check.add_argument(
        "--activation", action="append", type=any_activation, metavar="NAME", help="only this one; may be repeated"
    )
    check.add_argument(
        "--only", action="append", type=one_of("kind of check", WAYS), metavar="KIND",
        help="kernels (each backend's, with gradcheck), inplace or compiled (all activations, where otherwise some "
        "stand for their kind); may be repeated",
    )  # fmt: skip
    check.add_argument("--json", type=json_file, metavar="PATH", help="also write the results there")

    demo = commands.add_parser(
        "demo", help="train a small network with torch's Mish and with ours, and time the family"
    )
    demo.add_argument("--out", type=folder, default=Path("demo-output"), help="folder for the picture")
    demo.add_argument("--epochs", type=positive, default=12)

    bench = commands.add_parser("bench", help="time every activation against torch's")
    bench.add_argument(
        "--dtype", nargs="+", default=["float32", "bfloat16"], type=one_of("type", DTYPES), metavar="TYPE",
        help=f"of {', '.join(DTYPES)} (default: float32 bfloat16)",
    )  # fmt: skip
    bench.add_argument(
        "--activation", action="append", type=stateless, metavar="NAME", help="only this one; may be repeated"
    )
    bench.add_argument("--size", type=positive, default=2**17, help="elements (default: 2^17, within the cache)")
    bench.add_argument("--threads", type=positive, default=1)
    bench.add_argument("--device", default="cpu", type=one_of("device", ("cpu", "cuda")), help="cpu (default) or cuda")
    bench.add_argument("--json", type=json_file, metavar="PATH", help="also write the results there")

    products = commands.add_parser(
        "products", help="measure products with an activation behind them on this GPU, and keep the fastest way"
    )
    products.add_argument("shapes", nargs="+", type=shape, metavar="ROWSxINxOUT", help="as 8192x1024x4096")
    products.add_argument(
        "--activation", action="append", type=stateless, metavar="NAME", help="may be repeated (default: gelu, silu)"
    )
    products.add_argument(
        "--dtype", default="bfloat16", type=one_of("type", NARROW), metavar="TYPE", help="bfloat16 (default) or float16"
    )
    products.add_argument("--inference", action="store_true", help="only calls that keep nothing for a backward pass")

    gallery = commands.add_parser("gallery", help="draw every activation and its derivative: pictures and a page")
    gallery.add_argument(
        "--out", type=folder, default=Path("gallery-output"), help="folder for the pictures and the page"
    )
    gallery.add_argument(
        "--activation", action="append", type=any_activation, metavar="NAME", help="only this one; may be repeated"
    )

    networks = commands.add_parser("networks", help="run the networks' recipes: what each reaches, and its limit")
    which = networks.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="the slow ones too")
    which.add_argument("--only", nargs="+", metavar="NAME", help="these recipes")
    networks.add_argument("--seeds", type=positive, help="how many, from 0 on (default: each recipe's own, mostly 3)")
    networks.add_argument("--json", type=json_file, metavar="PATH", help="also write the results there")
    networks.add_argument(
        "--pictures", type=folder, metavar="DIR", help="also draw what was learned, as far as it shows"
    )

    commands.add_parser("train", add_help=False, help="train a network; its options: nnkernels train --help")
    commands.add_parser("tune", add_help=False, help="search for settings; its options: nnkernels tune --help")

    predict = commands.add_parser("predict", help="classes and probabilities, values or text, from a checkpoint")
    predict.add_argument("checkpoint", type=Path, help="a checkpoint, or the folder of a run, whose best is taken")
    predict.add_argument(
        "--input", metavar="FILE", help="numbers: .npy, CSV with or without names on top (- is the standard input), "
        "or a picture",
    )  # fmt: skip
    predict.add_argument("--prompt", default="\n", help="what a network that writes goes on with")
    predict.add_argument("--length", type=positive, default=400, help="characters to write (default: 400)")
    predict.add_argument("--temperature", type=temperature, default=0.8, help="of writing; 0: the likeliest character")
    predict.add_argument("--seed", type=seed, default=0, help="of writing")

    export = commands.add_parser("export", help="a checkpoint as an ONNX or torch.export file, run and compared")
    export.add_argument("checkpoint", type=Path, help="a checkpoint, or the folder of a run, whose best is taken")
    formats = one_of("format", ("onnx", "torch"))
    export.add_argument("--format", type=formats, default="onnx", help="onnx (default) or torch")
    export.add_argument("--out", type=stem, default=Path("network"), help="the file, its suffix aside")
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 for a failed check or run, 2 for what cannot be done as asked.

    Whatever the command is at, Ctrl-C ends it with one line and 130, and a reader that went away (`| head`) with 141.

    Example:
        >>> from nnkernels.cli import main
        >>> main(["check", "--activation", "relu", "--backend", "reference"])  # doctest: +ELLIPSIS
        activation...
        0
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        start = "\n" if sys.stderr.isatty() else ""  # a terminal shows ^C in the middle of a line
        print(f"{start}nnkernels: stopped by Ctrl-C", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be written has no reader either
        return 128 + signal.SIGPIPE


def missing(*packages: str) -> str | None:
    """The first of the packages that is not installed; none of them is imported, which may take seconds."""
    return next((name for name in packages if importlib.util.find_spec(name) is None), None)


def _run(argv: list[str]) -> int:
    known, rest = _importer().parse_known_args(argv)
    try:
        _import(known.modules)  # before the names of activations are listed
    except ImportError as error:
        print(f"nnkernels: --import: {error}", file=sys.stderr)
        return 2
    top = parser()
    if rest and not rest[0].startswith("-") and rest[0] not in COMMANDS:
        top.error(str(unknown("command", rest[0], COMMANDS)))
    args, options = top.parse_known_args(argv)
    if args.command in OWN_OPTIONS:
        args.options = options
    elif options:
        top.error(f"unrecognized arguments: {' '.join(options)}")
    try:
        return importlib.import_module(f".commands.{args.command}", __package__).run(args)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: {error.strerror}" if error.filename else error
        print(f"nnkernels {args.command}: {where}", file=sys.stderr)
        return 2
