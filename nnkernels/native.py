"""The compiled parts: finds, loads and describes them, and offers the C++ and CUDA kernels as backends."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import re
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from .layout import plan

_LIB = Path(__file__).parent / "_lib"
_SOURCES = Path(__file__).parent.parent / "csrc"
MEND = "pip install --force-reinstall --no-deps --no-build-isolation ."


@cache
def library(part: str) -> ctypes.CDLL | str:
    """The loaded library of the part called "cpu" or "cuda", or one sentence why there is none."""
    path = _LIB / f"libnnkernels_{part}.so"
    if not path.exists():
        return missing().get(part, f"nnkernels was installed without its {part} kernels")
    if part == "cuda" and not torch.backends.cuda.is_built():
        return "this torch was built without CUDA"
    if part == "cuda" and isinstance(cpu := library("cpu"), str):
        return cpu
    try:
        loaded = ctypes.CDLL(str(path))  # whose message, unlike load_library's, names the missing symbol
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"the {part} kernels could not be loaded ({error}); rebuild them: {MEND}"
    if part == "cpu":
        _describe_operators()
    return loaded


@cache
def missing() -> dict[str, str]:
    """For each part that the build left out, one sentence why."""
    try:
        return json.loads((_LIB / "build.json").read_text())["missing"]
    except (OSError, ValueError, KeyError):
        return dict.fromkeys(("cpu", "cuda", "autograd", "info"), "the native parts have not been built")


def stale() -> str | None:
    """One sentence if the kernels were built from other sources than those beside the package, else None."""
    if not _SOURCES.is_dir() or not (_LIB / "build.json").exists():
        return None
    digest = hashlib.sha256()
    for path in sorted([*_SOURCES.glob("**/*"), _SOURCES.parent / "setup.py"]):
        if path.is_file():
            digest.update(path.relative_to(_SOURCES.parent).as_posix().encode() + b"\0" + path.read_bytes())
    built = json.loads((_LIB / "build.json").read_text()).get("sources")
    return None if built == digest.hexdigest()[:16] else f"csrc/ has changed since the kernels were built; run: {MEND}"


def node_versions() -> dict[str, str]:
    """For each torch that has a C++ autograd node for this Python, the file in which it is."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    files = sorted(path.name for path in _LIB.glob(f"_autograd-*{suffix}"))
    return {name.removeprefix("_autograd-").removesuffix(suffix): name for name in files}


def node_file(running: str) -> str | None:
    """The node that serves the torch whose version is `running`: torch keeps its C++ interface between patches."""
    versions = node_versions()
    alike = [version for version in versions if _release(version) == _release(running)]
    return versions[running if running in versions else alike[-1]] if alike else None


def _release(version: str) -> str:
    """The major and minor version of a release; the whole version of anything else, which has no other like it."""
    release = re.fullmatch(r"(\d+\.\d+)\.\d+(\+[a-z0-9.]+)?", version)
    return release[1] if release else version


def extension(name: str, file: str | None = None) -> ModuleType | None:
    """The Python extension called `name`, if it was built for this Python, from `file` where that has another name."""
    path = _LIB / (file or f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}")
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError:
        return None
    return module


def build_info() -> dict[str, str]:
    """What the native parts were built from and with; empty where no part was built for this Python.

    Example:
        >>> import nnkernels
        >>> isinstance(nnkernels.build_info(), dict)
        True
    """
    module = extension("_build_info")
    return module.build_info() if module else {}


@cache
def activation_names() -> tuple[str, ...]:
    """The C++ rows, in the order of their indices; empty without the C++ part."""
    loaded = library("cpu")
    if isinstance(loaded, str):
        return ()
    loaded.nnk_activation_names.restype = ctypes.c_char_p
    return tuple(loaded.nnk_activation_names().decode().split(","))


@cache
def index_of(name: str) -> int | None:
    """The C++ index of the row called `name`; None if there is no such C++ row."""
    return activation_names().index(name) if name in activation_names() else None


def instruction_set() -> str:
    """The instruction set for which the CPU kernels were chosen, or "none"."""
    loaded = library("cpu")
    if isinstance(loaded, str):
        return "none"
    loaded.nnk_cpu_isa.restype = ctypes.c_char_p
    return loaded.nnk_cpu_isa().decode()


def launcher(part: str) -> int:
    """The address of the part's launch function, for the C++ autograd node; 0 without the part."""
    loaded = library(part)
    if isinstance(loaded, str):
        return 0
    return ctypes.cast(getattr(loaded, f"nnk_{part}_launch"), ctypes.c_void_p).value or 0


def _describe_operators() -> None:
    """Tells torch the shapes of the operators' results, for fake tensors and compilers."""
    names = ("forward", "backward", "double_backward")

    def like_last_tensor(*args: object) -> Tensor:
        return torch.empty_like([arg for arg in args if isinstance(arg, Tensor)][-1])

    def two_like_last_tensor(*args: object) -> tuple[Tensor, Tensor]:
        return like_last_tensor(*args), like_last_tensor(*args)

    for name, fake in zip(names, (like_last_tensor, like_last_tensor, two_like_last_tensor), strict=True):
        torch.library.register_fake(f"nnkernels::{name}", fake)
    torch.library.register_fake("nnkernels::forward_", lambda x, activation, a, b: None)


class Native:
    """The kernels of one library, "cpu" or "cuda", over torch.ops.nnkernels."""

    def __init__(self, name: str) -> None:
        self.name = name

    def unavailable(self, device: torch.device) -> str | None:
        loaded = library(self.name)
        if isinstance(loaded, str):
            return loaded
        return None if device.type == self.name else f"it needs a {self.name} tensor, got one on {device}"

    def has(self, name: str) -> bool:
        return index_of(name) is not None

    def forward(self, name: str, x: Tensor, a: float, b: float, out: Tensor | None = None) -> Tensor:
        if out is None:
            return torch.ops.nnkernels.forward(x, index_of(name), a, b)
        if plan(out) is None:  # and copy_ refuses memory that overlaps
            return out.copy_(torch.ops.nnkernels.forward(x, index_of(name), a, b))
        torch.ops.nnkernels.forward_(out, index_of(name), a, b)
        return out

    def backward(self, name: str, grad: Tensor, x: Tensor, a: float, b: float) -> Tensor:
        return torch.ops.nnkernels.backward(grad, x, index_of(name), a, b)

    def double_backward(
        self, name: str, grad_grad: Tensor, grad: Tensor, x: Tensor, a: float, b: float
    ) -> tuple[Tensor, Tensor]:
        return torch.ops.nnkernels.double_backward(grad_grad, grad, x, index_of(name), a, b)
