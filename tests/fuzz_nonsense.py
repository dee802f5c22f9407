"""Random illegal calls of the public functions, the modules and the raw operators: each raises, none crashes.

They run in a process of their own, which says which call it is about to make, so that a crash is seen and
attributed: `python tools/fuzz.py --nonsense --seed N --calls 1` makes that call again. Legal calls that come about by
chance may return; what lies around the operands of a raw operator is left alone in any case.
"""

from __future__ import annotations

import faulthandler
import math
import os
import random
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from guards import LAYOUTS, Guarded, guarded
from operator_calls import CALLS, run
from torch import Tensor

import nnkernels
import nnkernels.functional as F

Made = tuple[str, Callable[[], None]]
"""A call as text, and what makes it."""

EXPECTED = (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError)
_SECONDS = 60
"""How long one call may take."""

_NUMBERS = (0, 1, 2, 3, 4, 7, -1, -2, 64, 255, 256, 257, 2**40, -(2**33), 2**62, -(2**63), 0.0, 0.5, 1.0, 1.5)
_WRAPPING = (2**31, 2**32, 2**32 + 1)
_ODD = (math.nan, math.inf, -math.inf, 1e300, 1e-300, 1e38, 2**63, 1j, True, None, "", "silu", "nope", b"x")
_OTHER = ([], (), {}, [1, 2], (2, 3), [[1]], {"a": 1}, torch.float32, torch.int8, torch.device("cpu"), object, len, ...)
_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.int8, torch.bool,
    torch.complex64, torch.float8_e4m3fn,
)  # fmt: skip
_SHAPES = ((), (0,), (1,), (4,), (24,), (2, 4, 3), (4, 3), (3, 4), (0, 3), (2, 0, 4), (1, 1, 1, 1), (2, 4, 3, 2), (37,))


def tensor(rng: random.Random) -> Tensor:
    """Of any type, shape and kind."""
    kind = rng.random()
    dtype = rng.choice(_DTYPES) if rng.random() < 0.6 else torch.float32
    shape = rng.choice(_SHAPES)
    if kind < 0.04:
        return torch.zeros(1).expand(2**44)  # of another type torch's own functions would go through it
    if kind < 0.08:
        return torch.zeros([1] * 70, dtype=dtype)
    if kind < 0.12:
        return torch.zeros(shape, dtype=dtype, device="meta")
    if kind < 0.16:
        return torch.eye(3).to_sparse()
    if kind < 0.18:
        return torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)])
    if kind < 0.2:
        return torch.quantize_per_tensor(torch.zeros(4, 3), 0.1, 0, torch.quint8)
    if kind < 0.22:
        return torch._neg_view(torch.zeros(2, 4, 3))
    if kind < 0.24:
        return torch.empty((4, 0, 2**40), dtype=dtype)
    x = (torch.rand(shape) * 4 - 2).to(dtype)
    if kind < 0.45:
        return guarded(x, rng.choice(LAYOUTS), rng).tensor
    if kind < 0.55 and dtype.is_floating_point and dtype.itemsize > 1:
        return x.requires_grad_()
    return x


def thing(rng: random.Random) -> Any:
    pool = rng.random()
    if pool < 0.35:
        return tensor(rng)
    return rng.choice(_NUMBERS if pool < 0.7 else _ODD if pool < 0.9 else _OTHER)


def _function(rng: random.Random) -> Made:
    name = rng.choice(F.__all__)
    arguments = [tensor(rng) if rng.random() < 0.9 else thing(rng), *(thing(rng) for _ in range(rng.randint(0, 4)))]
    keywords = {}
    for keyword in ("activation", "residual", "up", "dim", "mask", "scale", "limit", "granularity", "inplace", "dtype"):
        if rng.random() < 0.06:
            keywords[keyword] = thing(rng)
    text = f"F.{name}({', '.join(map(_described, arguments))}{_named(keywords)})"
    return text, lambda: _use(getattr(F, name)(*arguments, **keywords))


def _module(rng: random.Random) -> Made:
    kind = getattr(nnkernels.nn, rng.choice(nnkernels.nn.__all__))
    arguments, x = [thing(rng) for _ in range(rng.randint(0, 3))], tensor(rng)

    def make() -> None:
        module = kind(*arguments)
        if isinstance(module, torch.nn.Module):
            _use(module(x))

    return f"nn.{kind.__name__}({', '.join(map(_described, arguments))})({_described(x)})", make


def _use(y: Any) -> None:
    if isinstance(y, Tensor) and y.requires_grad and y.numel() < 10**6:
        y.sum().backward()


def _operator(rng: random.Random) -> Made:
    """A legal call of which one or two arguments are others, on guarded memory."""
    name = rng.choice(list(CALLS))
    arguments = CALLS[name]()
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(arguments))
        old = arguments[at]
        if isinstance(old, Tensor) and rng.random() < 0.9:
            arguments[at] = _mutated(old, rng) if rng.random() < 0.6 else tensor(rng)
        elif isinstance(old, list) and old and rng.random() < 0.8:
            arguments[at] = [_mutated(one, rng) if isinstance(one, Tensor) else rng.choice(_NUMBERS) for one in old]
        elif isinstance(old, (bool, int, float)) and rng.random() < 0.9:
            arguments[at] = rng.choice((*_NUMBERS, *_WRAPPING))
        else:
            arguments[at] = thing(rng)
    held: list[Guarded] = []
    for at, argument in enumerate(arguments):
        if isinstance(argument, Tensor) and argument.layout == torch.strided and argument.numel() < 10**5:
            plain = argument.device.type == "cpu" and not argument.is_quantized and not argument.is_neg()
            if plain and not argument.requires_grad and not argument.is_nested:
                layout = rng.choice(LAYOUTS) if rng.random() < 0.3 else "contiguous"
                held.append(guarded(argument, layout, rng))
                arguments[at] = held[-1].tensor

    def make() -> None:
        try:
            run(name, arguments)
        finally:
            if any(one.intruded(written=True) for one in held):
                raise AssertionError("memory around an operand was written")

    return f"torch.ops.nnkernels.{name}({', '.join(map(_described, arguments))})", make


def _described(argument: Any) -> str:
    if isinstance(argument, list):
        return f"[{', '.join(map(_described, argument))}]"
    if not isinstance(argument, Tensor):
        return repr(argument)
    lies = f" strides {list(argument.stride())}" if argument.layout == torch.strided and not argument.is_nested else ""
    shape = "nested" if argument.is_nested else list(argument.shape)
    return f"{str(argument.dtype)[6:]}{shape}{lies}"


def _named(keywords: dict[str, Any]) -> str:
    return "".join(f", {name}={_described(value)}" for name, value in keywords.items())


def _mutated(t: Tensor, rng: random.Random) -> Tensor:
    """Nearly the same tensor."""
    if t.numel() > 10**5:
        return t
    choice = rng.randrange(6)
    if choice == 0 and t.dim():
        return t.narrow(rng.randrange(t.dim()), 0, 0) if rng.random() < 0.3 else t[:1]
    if choice == 1 and t.dim():
        return torch.cat([t, t], rng.randrange(t.dim()))
    if choice == 2:
        return t.to(rng.choice(_DTYPES))
    if choice == 3:
        return t.flatten()
    if choice == 4 and t.dim() > 1:
        return t.transpose(0, -1)
    return t.unsqueeze(rng.randrange(t.dim() + 1))


def call(seed: int) -> str | None:
    """Makes the call of this number; a line if it raised what it should not."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    text, make = rng.choice((_function, _module, _operator, _operator))(rng)
    print(seed, text.replace("\n", " "), flush=True)
    try:
        make()
    except EXPECTED:
        return None
    except Exception as error:
        if isinstance(error, AssertionError) and "max_val" in str(error):
            return None  # as torch.nn.Hardtanh does
        return f"{text} raised {type(error).__name__}: {error}".replace("\n", " ")
    return None


def failures(seeds: range) -> Iterator[str]:
    """One line for each call that crashed or raised what it should not."""
    paths = [str(Path(nnkernels.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    first = seeds.start
    while first < seeds.stop:
        command = [sys.executable, "-W", "ignore", str(Path(__file__)), str(first), str(seeds.stop)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        last = f"{first} (being made)"
        for line in done.stdout.splitlines():
            if line.startswith("! "):
                yield f"seed {last.split()[0]}: {line[2:]}"
            else:
                last = line
        if done.returncode == 0:
            return
        yield f"seed {last}: the process ended with status {done.returncode} {done.stderr.strip()[-300:]}"
        first = int(last.split()[0]) + 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))  # so that absurd sizes are refused, not written
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        faulthandler.dump_traceback_later(_SECONDS, exit=True)
        if (complaint := call(number)) is not None:
            print("!", complaint, flush=True)
