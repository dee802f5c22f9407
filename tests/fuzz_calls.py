"""Random legal calls of the whole family, each compared with float64 on memory that is guarded on both sides.

A call is what its seed makes it: `run(seed)` again is the same call.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from guards import LAYOUTS, Guarded, guarded
from torch import Tensor

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy
from nnkernels.registry import Activation, catalogue

DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)
_SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 33, 64, 100, 129, 257, 1025)
_CONSTANTS = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0)
_MOST = 6000
_SPECIAL = (0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 20.0, -20.0, 88.0, -88.0, 3e4, -3e4)
_NOT_FINITE = (float("inf"), float("-inf"), float("nan"))

# ulp that a value and a gradient may be off, on top of the promised ones: what a call rounds more than once.
_MORE = {torch.float64: 64.0, torch.float32: 12.0, torch.bfloat16: 2.0, torch.float16: 2.0}


class Failure(AssertionError):
    """A call that did not do what it promises; the message is one line."""


@dataclass
class Call:
    """`function(*operands)`, whose floating operands may require a gradient.

    `exact` says that values are element by element, so that each counts by its own size; else by their mean square.
    """

    text: str
    function: Callable[..., Tensor]
    operands: list[Tensor]
    exact: bool = False
    inplace: bool = False
    layouts: tuple[str, ...] = LAYOUTS
    together: int = 0
    """How many numbers are normalised together."""
    weight: float = 0.0
    """How steep the gradient may be, for a value of 1."""
    fixed: set[int] = field(default_factory=set)
    """Operands that are contiguous and have no gradient."""


def shape_of(rng: random.Random, least: int = 0, most: int = 5) -> list[int]:
    dims = rng.randint(least, most)
    if least == 0 and rng.random() < 0.04:
        dims = rng.choice((8, 20, 63, 64))
    shape: list[int] = []
    left = rng.choice((12, 200, 200, _MOST, _MOST, 40_000))
    for _ in range(dims):
        size = rng.choice([size for size in _SIZES if size <= max(left, 1)])
        if dims > 6:
            size = rng.choice((1, 1, 1, 2)) if left > 1 else 1
        shape.append(0 if rng.random() < 0.015 else size)
        left //= max(size, 1)
    rng.shuffle(shape)
    return shape


def values(rng: random.Random, shape: list[int], dtype: torch.dtype, wild: bool = False) -> Tensor:
    """Numbers of mixed size; `wild` ones are also huge, tiny and not finite."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * rng.choice((0.3, 1.0, 3.0))
    if wild and x.numel():
        flat = x.flatten()
        for _ in range(rng.randint(0, 12)):
            pool = _NOT_FINITE if rng.random() < 0.15 else _SPECIAL
            flat[rng.randrange(flat.numel())] = rng.choice(pool)
        x = flat.view(shape)
    return x.to(dtype)


def _constants(rng: random.Random, row: Activation) -> dict[str, float]:
    found = {name: rng.choice(_CONSTANTS) for name in row.parameters}
    if "min_val" in found:
        found["min_val"], found["max_val"] = sorted((-found["min_val"], found["max_val"]))
    if "value" in found:
        found["value"] = -found["value"]
    return found if rng.random() < 0.7 or any(v != v for v in row.parameters.values()) else {}


def _row(rng: random.Random) -> tuple[str, dict[str, float]]:
    row = rng.choice(catalogue(Activation))
    return row.name, _constants(rng, row)


def _named(constants: dict[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in constants.items())


def _elementwise(rng: random.Random, dtype: torch.dtype) -> Call:
    row = rng.choice(catalogue(Activation))
    constants: dict[str, Any] = dict(_constants(rng, row))
    x = values(rng, shape_of(rng), dtype, wild=True)
    inplace = row.inplace and rng.random() < 0.25
    function = F.function_of(row)
    if inplace:
        constants["inplace"] = True
    layouts = tuple(name for name in LAYOUTS if name != "expanded") if inplace else LAYOUTS
    return Call(f"F.{row.name}(x{_named(constants)})", lambda x: function(x, **constants), [x], True, inplace, layouts)


def _gated(rng: random.Random, dtype: torch.dtype) -> Call:
    shape = shape_of(rng, 1)
    name, constants = _row(rng)
    options: dict[str, Any] = dict(constants)
    options["activation"] = name
    if rng.random() < 0.3:
        options["limit"] = rng.choice((1.0, 7.0))
    if rng.random() < 0.3:
        options["offset"] = 1.0
    if rng.random() < 0.4:
        operands = [values(rng, shape, dtype), values(rng, shape, dtype)]
        return Call(f"F.gated(x, up=y{_named(options)})", lambda x, y: F.gated(x, up=y, **options), operands)
    dim = rng.randrange(-len(shape), len(shape))
    shape[dim] *= 2
    options |= {"dim": dim, "interleaved": rng.random() < 0.3, "gate_first": rng.random() < 0.7}
    return Call(f"F.gated(x{_named(options)})", lambda x: F.gated(x, **options), [values(rng, shape, dtype)])


def _fused(rng: random.Random, dtype: torch.dtype) -> Call:
    shape = shape_of(rng, 1)
    name, constants = _row(rng) if rng.random() < 0.9 else ("identity", {})
    dim = rng.randrange(len(shape)) if rng.random() < 0.5 else len(shape) - 1
    bias_shape = [shape[dim]] + [1] * (len(shape) - 1 - dim)
    operands = [values(rng, shape, dtype), values(rng, bias_shape, dtype)]
    has_residual = rng.random() < 0.5
    if has_residual:
        operands.append(values(rng, shape, dtype))

    def function(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
        return F.bias_act(x, bias, name, residual=residual, **constants)

    return Call(
        f"F.bias_act(x, y, {name!r}{', residual=z' * has_residual}{_named(constants)})", function, operands,
        fixed={1} if rng.random() < 0.5 else set(),
    )  # fmt: skip


def _normalized(rng: random.Random, dtype: torch.dtype) -> Call:
    name, constants = _row(rng) if rng.random() < 0.8 else ("identity", {})
    form = rng.choice(("layer_norm_act", "rms_norm_act", "batch_norm_act", "group_norm_act"))
    shape = shape_of(rng, 1 if form[0] in "lr" else 2, 4)
    extra: dict[str, Any] = {}
    groups = rng.choice((1, 2, 3))
    if form in ("layer_norm_act", "rms_norm_act"):
        dims = rng.randint(1, min(2, len(shape)))
        given: Any = shape[len(shape) - dims :]
        if rng.random() < 0.3:
            extra = {"dim": rng.randrange(-len(shape), len(shape))}
            given = [shape[extra["dim"]]]
        weight_shape = given
    else:
        shape = [size or 2 for size in shape]
        shape[0] += 1  # torch refuses one value for each channel
        shape[1] *= groups if form == "group_norm_act" else 1
        given, weight_shape = groups, [shape[1]]
    x = values(rng, shape, dtype) + 0.5
    operands, names = [x], ["input"]
    for what, likes in (("weight", weight_shape), ("bias", weight_shape), ("residual", shape)):
        if rng.random() < 0.6 and not (form == "rms_norm_act" and what == "bias"):
            operands.append(values(rng, likes, dtype))
            names.append(what)
    running = [values(rng, [shape[1]], torch.float32) for _ in range(2)] if form == "batch_norm_act" else []
    evaluates = form == "batch_norm_act" and rng.random() < 0.4

    def function(*tensors: Tensor) -> Tensor:
        keywords: dict[str, Any] = dict(zip(names, tensors, strict=True), activation=name, **constants)
        if form == "batch_norm_act":
            mean, var = running[0].clone(), running[1].abs() + 0.5
            return F.batch_norm_act(running_mean=mean, running_var=var, training=not evaluates, **keywords)
        keywords["eps"] = 1e-5  # rms norm's own depends on the type
        keywords["num_groups" if form == "group_norm_act" else "normalized_shape"] = given
        return getattr(F, form)(**keywords, **extra)

    told = {"given": given, **extra} | ({"training": False} if evaluates else {})
    together = torch.Size(given).numel() if isinstance(given, list) else x.numel() // (shape[1] or 1)
    if form == "group_norm_act":
        together = x.numel() // (shape[0] * groups)
    return Call(
        f"F.{form}({', '.join(names)}, {name!r}{_named(told | constants)})", function, operands,
        together=together,
    )  # fmt: skip


def _learned(rng: random.Random, dtype: torch.dtype) -> Call:
    shape = shape_of(rng, 1)
    channels = shape[1] if len(shape) > 1 and rng.random() < 0.6 else 1
    form = rng.choice(("prelu", "swish", "apl", "xielu", "starrelu"))
    if channels == 0:
        channels = 1
    x = values(rng, shape, dtype)
    function = getattr(F, form)
    if form in ("xielu", "starrelu"):
        one, other = (values(rng, [rng.choice((1, channels))], dtype) for _ in range(2))
        return Call(f"F.{form}(x, y, z)", function, [x, one, other])
    if form != "apl":
        return Call(f"F.{form}(x, y)", function, [x, values(rng, [channels], dtype)])
    many = [rng.randint(1, 4), channels]
    return Call("F.apl(x, y, z)", F.apl, [x, values(rng, many, dtype), values(rng, many, dtype)])


def _maxout(rng: random.Random, dtype: torch.dtype) -> Call:
    shape = shape_of(rng, 1, 4)
    dim, pieces = rng.randrange(len(shape)), rng.choice((1, 2, 3, 4, 5, 16, 17))
    shape[dim] *= pieces
    return Call(f"F.maxout(x, {pieces}, {dim})", lambda x: F.maxout(x, pieces, dim), [values(rng, shape, dtype)])


def _softmax(rng: random.Random, dtype: torch.dtype) -> Call:
    shape = shape_of(rng, 0, 4)
    dim = rng.randrange(-len(shape), len(shape)) if shape else 0
    form = rng.choice(("softmax", "log_softmax", "softmin"))
    options: dict[str, Any] = {"scale": rng.choice(_CONSTANTS)} if rng.random() < 0.4 else {}
    function = getattr(F, form)
    x = values(rng, shape, dtype)
    weight = 4 * options.get("scale", 1.0)
    return Call(f"F.{form}(x, {dim}{_named(options)})", lambda x: function(x, dim, **options), [x], weight=weight)


def _rrelu(rng: random.Random, dtype: torch.dtype) -> Call:
    slope = rng.choice((0.125, 0.5))
    x = values(rng, shape_of(rng), dtype)
    return Call(f"F.rrelu(x, {slope}, {slope}, True)", lambda x: F.rrelu(x, slope, slope, True), [x], True)


def _dropout(rng: random.Random, dtype: torch.dtype) -> Call:
    """Of dense tensors in their own order; what is exact has to keep what this type, which draws in its way, keeps."""
    p, x = rng.choice((0.1, 0.5, 0.9)), values(rng, shape_of(rng), dtype)

    def drawn(x: Tensor) -> Tensor:
        torch.manual_seed(11)
        return F.dropout(x, p)

    def function(x: Tensor) -> Tensor:
        return drawn(x) if x.dtype == dtype else x * (drawn(torch.ones_like(x, dtype=dtype)) != 0) / (1 - p)

    return Call(f"F.dropout(x, {p})", function, [x], True, layouts=("contiguous",))


def _kept_otherwise(rng: random.Random, dtype: torch.dtype) -> Call:
    call = _elementwise(rng, dtype)
    policy = rng.choice(("input", "recompute"))

    def function(*operands: Tensor) -> Tensor:
        with nnkernels.saving(policy):
            return call.function(*operands)

    return replace(call, text=f"{call.text} under saving({policy!r})", function=function)


_FORMS = (_elementwise,) * 4 + (_gated,) * 2 + (_fused,) * 2 + (_normalized,) * 3 + (_learned,) * 2
_FORMS = (*_FORMS, _maxout, _softmax, _rrelu, _dropout, _kept_otherwise)


def run(seed: int) -> str:
    """Makes the call of this number and checks it; returns what was called.

    Raises:
        Failure: with the call's text, if it raised, was wrong, or touched what is not its own.
    """
    rng = random.Random(seed)
    dtype = rng.choice(DTYPES)
    call = rng.choice(_FORMS)(rng, dtype)
    held = [guarded(t, "contiguous" if at in call.fixed else rng.choice(call.layouts), rng)
            for at, t in enumerate(call.operands)]  # fmt: skip
    wants = [not call.inplace and at not in call.fixed and rng.random() < 0.8 for at in range(len(held))]
    text = f"{call.text} with {', '.join(_described(one.tensor) for one in held)}; gradients for {wants}"
    try:
        _check(call, held, wants, rng)
    except Failure as failure:
        raise Failure(f"{text}: {failure}") from None
    except Exception as error:
        raise Failure(f"{text}: {type(error).__name__}: {error}") from error
    return text


def _described(t: Tensor) -> str:
    return f"{str(t.dtype)[6:]}{list(t.shape)} strides {list(t.stride())}"


def _check(call: Call, held: list[Guarded], wants: list[bool], rng: random.Random) -> None:
    own = [one.tensor.requires_grad_(wanted) for one, wanted in zip(held, wants, strict=True)]
    versions = [tensor._version for tensor in own]
    wide = _copies(own, torch.float64)
    with nnkernels.backend("reference"):
        truth = call.function(*wide)
    y = call.function(*own)
    if y.shape != truth.shape or y.dtype != own[0].dtype:
        raise Failure(f"returned {_described(y)} for {_described(truth)}")
    if call.inplace:
        if y is not own[0]:
            raise Failure("returned another tensor than its input")
    elif call.exact and y.stride() != torch.empty_like(own[0]).stride():
        raise Failure(f"returned strides {y.stride()} for {torch.empty_like(own[0]).stride()}")
    grad = guarded(values(rng, list(y.shape), y.dtype), rng.choice(LAYOUTS), rng)
    found, sought = _gradients(y, own, grad.tensor), _gradients(truth, wide, grad.tensor)
    for at, (got, source) in enumerate(zip(found, [t for t in own if t.requires_grad], strict=True)):
        if got.dtype != source.dtype or got.shape != source.shape:
            raise Failure(f"gradient {at} is {_described(got)} for {_described(source)}")
    for at, one in enumerate([*held, grad]):
        if one.intruded(written=call.inplace and at == 0):
            raise Failure(f"operand {at} or the memory around it was written")
    if not call.inplace and versions != [tensor._version for tensor in own]:
        raise Failure("an operand's version was raised")
    if call.exact:
        _compare([y, *found], [truth, *sought], [0.0, grad.tensor.double().abs() / 64], exact=True)
        return
    steepest = grad.tensor.double().abs().max() * truth.detach().abs().max() if y.numel() else 0.0
    floors = [0.0, steepest * call.weight]
    try:
        _compare([y, *found], [truth, *sought], floors)
    except Failure:
        if 0 < call.together < 8 or (call.together and 0 in own[0].stride()):
            return  # what is left of nearly equal numbers is rounding
        _compare([y, *found], [truth, *sought], floors, moved=_moved(call, wide, grad.tensor, rng))


_STEP = 2.0**-34


def _moved(call: Call, wide: list[Tensor], grad: Tensor, rng: random.Random) -> list[Tensor]:
    """The results where every number moved by about 2^-34 of itself: how much they hang on the last digits."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))

    def moved(t: Tensor) -> Tensor:
        noise = torch.randn(t.shape, generator=generator, dtype=torch.float64)
        return (t.detach() * (1 + _STEP * noise)).requires_grad_(t.requires_grad)

    others = [moved(t) for t in wide]
    with nnkernels.backend("reference"):
        y = call.function(*others)
        return [y.detach(), *_gradients(y, others, moved(grad.double()))]


def _copies(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    contiguous = torch.contiguous_format
    return [t.detach().to(dtype).clone(memory_format=contiguous).requires_grad_(t.requires_grad) for t in tensors]


def _gradients(y: Tensor, operands: list[Tensor], grad: Tensor) -> list[Tensor]:
    wanted = [operand for operand in operands if operand.requires_grad]
    return list(torch.autograd.grad(y, wanted, grad.to(y.dtype))) if wanted else []


def _compare(
    results: list[Tensor],
    truths: list[Tensor],
    floors: list[Any],
    exact: bool = False,
    moved: list[Tensor] | None = None,
) -> None:
    """Errors in ulp of the truth, or of the floor if that is greater, or unless `exact` of the truth's mean square."""
    for at, (got, truth) in enumerate(zip(results, truths, strict=True)):
        got, truth = got.detach(), truth.detach()
        if not got.numel():
            continue
        finite = truth[truth.isfinite()]
        mean = finite.square().mean().sqrt() if finite.numel() else torch.zeros(())
        floor = floors[min(at, 1)] if exact else mean.maximum(torch.as_tensor(floors[min(at, 1)]))
        off = accuracy.errors(got, truth, floor)
        limit = accuracy.LIMITS[got.dtype] + _MORE[got.dtype]
        if moved is not None:
            hangs = (moved[at] - truth).abs().nan_to_num(0.0).max() / _STEP * torch.finfo(got.dtype).eps
            limit += (64 * hangs / accuracy.ulp(torch.as_tensor(floor), got.dtype)).max().item()
        if not off.max() <= limit:
            where = int(off.nan_to_num(torch.inf).argmax())
            pair = got.flatten()[where].item(), truth.flatten()[where].item()
            what = f"gradient {at - 1}" if at else "the value"
            raise Failure(f"{what} is {pair[0]!r} at {where}, expected {pair[1]!r} ({off.max().item():.1f} ulp)")
