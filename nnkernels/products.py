"""`tune_products`: which way products with an activation behind them are fastest on this GPU, measured and kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .ahead import compiled_ahead
from .arguments import integer
from .autograd.linear import choose_anew
from .benchmark import best_of_rounds
from .contracts.inner import Inner
from .contracts.linear import keeps_result
from .fusing import inner
from .merging import merge
from .registry import IDENTITY
from .triton import backend, hardware, linear_tuned
from .triton.linear_table import Tiles

_ROUNDS = 7
_LEAST_GAIN = 0.03
"""Below it a kernel of both is not chosen: as much as two readings of one side may differ."""

_CALLER = "tune_products"
Operands = tuple[Tensor, Tensor, Tensor]
Way = Callable[[], tuple[Tensor, Tensor]]


class TunedProduct(NamedTuple):
    """What was found for f(x W^T + b).

    Attributes:
        shape: rows of x, in and out.
        activation: f's name.
        stores: whether the pre-activation is stored as well, as for a backward pass.
        pair: microseconds of torch's product and what stands behind it.
        best: microseconds of the way that was chosen.
        way: how Triton's kernel of both is cut, or "cuda"; None where the pair was chosen.
    """

    shape: tuple[int, int, int]
    activation: str
    stores: bool
    pair: float
    best: float
    way: Tiles | str | None

    def __str__(self) -> str:
        shape, stores = "x".join(map(str, self.shape)), "yes" if self.stores else "no"
        times = f"{self.pair:8.1f} {self.best:8.1f} {self.best / self.pair:5.2f}"
        return f"{shape:20} {self.activation:16} {stores:6} {times}  {_shown(self.way)}"


class TunedProducts(list[TunedProduct]):
    """What was found, a list; printed, it is a table."""

    def __str__(self) -> str:
        times = f"{'pair, us':>8} {'best, us':>8} {'ratio':>5}"
        head = f"{'rows x in x out':20} {'activation':16} {'stores':6} {times}  chosen"
        return "\n".join([head, *map(str, self)])


class _Case(NamedTuple):
    shape: tuple[int, int, int]
    inner: Inner
    stores: bool

    def product(self, dtype: torch.dtype) -> linear_tuned.Product:
        rows, depth, cols = self.shape
        return linear_tuned.product(dtype, self.inner, self.stores, rows, cols, depth)


def tune_products(
    shapes: Iterable[Sequence[int]],
    activations: str | Iterable[str] = ("gelu", "silu"),
    dtype: torch.dtype = torch.bfloat16,
    *,
    device: torch.device | str | int | None = None,
    training: bool = True,
) -> TunedProducts:
    """Measures whether one kernel of a product and its activation is faster on this GPU, for `linear_act` and `mlp`.

    Calls of such products take the fastest way from here on, in this process and, by a table in the user's cache
    directory, in later ones on such GPUs. Without it they go by what was measured on an H200, on GPUs of compute
    capability 9.0, and elsewhere by torch's product and a kernel behind it. Nothing is measured unless it is asked for
    here; what else the GPU has to do meanwhile falsifies it. A few seconds for each shape and activation.

    The table is in `$NNKERNELS_CACHE`, else in `$XDG_CACHE_HOME/nnkernels`, else in `~/.cache/nnkernels`. Whoever
    deletes it forgets what it says.

    Args:
        shapes: `(rows, in, out)` of each product: all but the last dimension of the input multiplied, and its weight's.
            `in` and `out` are multiples of 8. What is found serves inputs of fewer rows too, down to the next power of
            two below.
        activations: names of stateless activations.
        dtype: bfloat16 or float16.
        device: a GPU; by default the current one.
        training: whether calls that keep the pre-activation for a backward pass are measured as well.

    Returns:
        What was found, one `TunedProduct` for each shape, activation and whether the pre-activation is stored.

    Raises:
        ValueError: a shape is not three positive multiples of 8 (rows: numbers), an activation is unknown or has no
            kernel in Triton, the type has not 16 bits, or `device` is no GPU.
        TypeError: a shape is no sequence of whole numbers.
        RuntimeError: there is no GPU, or Triton is missing.

    Source: Whaley & Dongarra 1998, Automatically Tuned Linear Algebra Software.

    Example:
        >>> import nnkernels
        >>> nnkernels.tune_products([(8192, 1024, 4095)])
        Traceback (most recent call last):
        ValueError: tune_products(): in and out are multiples of 8, got the shape (8192, 1024, 4095)
    """
    cases = _cases(shapes, activations, dtype, bool(training))
    gpu = _gpu(device)
    found = TunedProducts()
    with torch.no_grad(), hardware.guard(gpu):
        _compile(cases, dtype, gpu)
        try:
            for case in cases:
                found.append(_measured(case, dtype, gpu))
                _keep(case, found[-1], dtype, gpu)
        finally:
            choose_anew()
    return found


def _cases(shapes: Any, activations: Any, dtype: Any, training: bool) -> list[_Case]:
    """Shapes by activations by whether the pre-activation is stored."""
    if dtype not in linear_tuned.DTYPES.values():
        raise ValueError(f"{_CALLER}(): dtype must be torch.bfloat16 or torch.float16, got {dtype!r}")
    names = [activations] if isinstance(activations, str) else list(activations)
    inners = [inner(_CALLER, name, {}) for name in names]
    for one in inners:
        if one.name == IDENTITY.name:
            raise ValueError(f"{_CALLER}(): behind a product, 'identity' is the product")
        if hardware.has_triton() and not backend.TritonBackend().has(one.name):
            raise ValueError(f"{_CALLER}(): {one.name!r} has no formula in Triton, so that torch's product serves it")
    return [
        _Case(shape, one, stores)
        for shape in map(_shape, shapes)
        for one in inners
        for stores in ((False, True) if training and not keeps_result(one) else (False,))
    ]


def _shape(given: Any) -> tuple[int, int, int]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"{_CALLER}(): a shape is (rows, in, out), got {given!r}")
    shape = tuple(integer(_CALLER, "each number of a shape", one) for one in given)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{_CALLER}(): a shape is (rows, in, out), three positive numbers, got {given!r}")
    rows, depth, cols = shape
    if depth % 8 or cols % 8:
        raise ValueError(f"{_CALLER}(): in and out are multiples of 8, got the shape {shape}")
    return rows, depth, cols


def _gpu(device: Any) -> torch.device:
    wanted = torch.device("cuda", device) if isinstance(device, int) else torch.device(device or "cuda")
    if wanted.type != "cuda":
        raise ValueError(f"{_CALLER}() needs a GPU, got the device {str(wanted)!r}")
    if not torch.cuda.is_available():
        raise RuntimeError(f"{_CALLER}() needs a GPU, and torch finds none here")
    if not hardware.has_triton():
        raise RuntimeError(f"{_CALLER}() needs Triton: {backend.MISSING}")
    if hardware.interpreted():
        raise RuntimeError(f"{_CALLER}() needs a GPU's own time, but TRITON_INTERPRET is set")
    index = torch.cuda.current_device() if wanted.index is None else wanted.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"{_CALLER}(): there are {torch.cuda.device_count()} GPUs, got the device {str(wanted)!r}")
    return torch.device("cuda", index)


def _operands(case: _Case, dtype: torch.dtype, device: torch.device) -> Operands:
    """Numbers as in networks: powers of two and zeros would take less current, and so less time."""
    rows, depth, cols = case.shape
    generator = torch.Generator(device).manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, device=device, dtype=dtype, generator=generator)
        for shape in ((rows, depth), (cols, depth), (cols,))
    )
    return x, weight / depth**0.5, bias


def _ways(case: _Case, given: Operands) -> Iterator[tuple[Tiles | str, Way]]:
    from .cuda import linear as cuda
    from .triton.linear import product_act

    for tiles in linear_tuned.CANDIDATES:
        yield tiles, partial(product_act, tiles, case.inner, *given, case.stores)
    if cuda.serves(case.inner, *given):
        yield linear_tuned.CUDA, partial(cuda.product_act, case.inner, *given, case.stores)


def _compile(cases: list[_Case], dtype: torch.dtype, device: torch.device) -> None:
    """All kernels side by side; of those that cannot be compiled we hear when they are called."""
    with compiled_ahead():
        for case in cases:
            for _, way in _ways(case, _operands(case, dtype, device)):
                with suppress(*_unfit()):
                    way()


def _measured(case: _Case, dtype: torch.dtype, device: torch.device) -> TunedProduct:
    from .triton.linear import torch_act

    given = _operands(case, dtype, device)
    right = _Right(case, *given)
    ways = [(name, way) for name, way in _ways(case, given) if right.is_made_by(way)]
    del right  # which is larger than what is measured
    pair = partial(torch_act, case.inner, *given, case.stores)
    pair()  # compiles what is not compiled
    times = best_of_rounds([pair, *(way for _, way in ways)], _ROUNDS, device.type, queued=True)
    of_pair, *of_ways = (1e6 * seconds for seconds in times)
    names = (name for name, _ in ways)
    best, way = min(zip(of_ways, names, strict=True), key=itemgetter(0), default=(of_pair, None))
    if best > (1 - _LEAST_GAIN) * of_pair:
        best, way = of_pair, None
    return TunedProduct(case.shape, case.inner.name, case.stores, of_pair, best, way)


class _Right:
    """What is right for a kernel of both.

    The pre-activation is not rounded before the activation sees it, so that a result lies between those of the rounded
    one's neighbours: where the activation jumps, on either side.
    """

    def __init__(self, case: _Case, x: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.stores, self.eps = case.stores, torch.finfo(x.dtype).eps
        z = torch.nn.functional.linear(x.float(), weight.float(), bias.float()).to(x.dtype)
        name, a, b = case.inner
        value = backend.TritonBackend().forward
        near = [value(name, z * (1 + step), a, b).float() for step in (-self.eps, 0.0, self.eps)]
        slack = self.eps * (1 + near[1].abs())
        self.low = torch.minimum(torch.minimum(near[0], near[1]), near[2]) - slack
        self.high = torch.maximum(torch.maximum(near[0], near[1]), near[2]) + slack
        self.z = z.float()

    def is_made_by(self, way: Way) -> bool:
        """Whether it can be launched on this GPU, and gives that."""
        try:
            y, kept = way()
            holds = ((y >= self.low) & (y <= self.high)).all()
            if self.stores:
                holds &= ((kept - self.z).abs() <= self.eps * (1 + self.z.abs())).all()
            return bool(holds)
        except torch.OutOfMemoryError:
            raise
        except _unfit():
            return False


def _unfit() -> tuple[type[Exception], ...]:
    """What Triton raises of a kernel that it cannot compile, or that asks for more than the GPU has."""
    from triton.errors import TritonError

    return TritonError, RuntimeError


def _keep(case: _Case, found: TunedProduct, dtype: torch.dtype, device: torch.device) -> None:
    """In this process, and in the table, which shows what was measured as well."""
    which, tuned, kind = case.product(dtype), linear_tuned.Tuned(found.way), linear_tuned.chip(device)
    linear_tuned.of_device(device)[which] = tuned
    shown = {"pair_us": round(found.pair, 2), "best_us": round(found.best, 2)}
    try:
        merge(kind.file, kind.head, [linear_tuned.row(which, tuned, kind) | shown], linear_tuned.identity)
    except OSError as error:
        told = f"what was measured serves this process alone: {error}; NNKERNELS_CACHE can name another folder"
        warnings.warn(f"{_CALLER}(): {told}", stacklevel=3)


def _shown(tiles: Tiles | str | None) -> str:
    if not isinstance(tiles, Tiles):
        return tiles or "the pair"
    return f"{tiles.rows}x{tiles.cols}x{tiles.depth}, {tiles.warps} warps, {tiles.stages} stages"
