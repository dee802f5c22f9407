"""`nnkernels info`: what is here, what is missing, and the one command that mends it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform

import torch

from .. import __version__, autograd, dispatch, native


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _backend(name: str) -> str:
    """ "usable", or one sentence why not."""
    found = dispatch.named(name)
    if isinstance(found, str):
        return found
    if name not in ("cuda", "triton"):
        return "usable"
    return "usable" if torch.cuda.is_available() else "installed, but torch finds no GPU here"


def _cpp_node() -> str:
    if autograd.has_cpp_node():
        return "in use"
    built = native.node_versions()
    if built and not native.node_file(torch.__version__):
        return (
            f"not in use: built for torch {', '.join(built)}, not {torch.__version__}; the Python routes serve instead"
        )
    if os.environ.get("NNKERNELS_AUTOGRAD") == "python":
        return "not in use: switched off with NNKERNELS_AUTOGRAD=python"
    return f"not in use: {native.missing().get('autograd', 'it could not be loaded')}; the Python routes serve instead"


def _advice() -> list[str]:
    """For each thing that is missing and can be had, the command that mends it."""
    advice = []
    if stale := native.stale():
        advice.append(stale)
    parts: dict[str, list[str]] = {}
    for part, reason in native.missing().items():
        parts.setdefault(reason, []).append(part)
    for reason, names in parts.items():
        which = f"the {names[0]} part is" if len(names) == 1 else f"the parts {', '.join(names)} are"
        advice.append(f"{which} missing: {reason}. Then run: {native.MEND}")
    if _version("triton") == "not installed":
        advice.append("Triton is missing. Run: pip install triton")
    return advice


def collect() -> dict:
    gpus = [
        {"name": torch.cuda.get_device_name(i), "capability": ".".join(map(str, torch.cuda.get_device_capability(i)))}
        for i in range(torch.cuda.device_count())
    ]
    return {
        "versions": {
            "nnkernels": __version__,
            "torch": torch.__version__,
            "triton": _version("triton"),
            "python": platform.python_version(),
        },
        "backends": {name: _backend(name) for name in dispatch.NAMES if name != "auto"},
        "instruction_set": native.instruction_set(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "autograd_node": _cpp_node(),
        "build": native.build_info(),
        "mend": _advice(),
    }


def run(args: argparse.Namespace) -> int:
    found = collect()
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print("  ".join(f"{name} {version}" for name, version in found["versions"].items()))
    print("\nbackends")
    for name, state in found["backends"].items():
        print(f"  {name:10} {state}")
    print(f"\ninstruction set     {found['instruction_set']}, {found['threads']} threads")
    print(f"C++ autograd node   {found['autograd_node']}")
    gpus = ", ".join(f"{gpu['name']} (sm_{gpu['capability'].replace('.', '')})" for gpu in found["gpus"])
    print(f"GPU                 {gpus or 'none'}")
    for name, value in found["build"].items():
        print(f"{name.replace('_', ' '):19} {value}")
    for line in found["mend"]:
        print(f"\n{line}")
    return 0
