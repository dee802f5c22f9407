"""What adapters ask of the modules inside a module: which activation one is, and a norm with what follows it at once.

All of it is asked at each call. Modules may get hooks, other classes or other constants at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .. import _torch, functional, hooks, nn
from ..arguments import SUPPORTED_DTYPES, accepts
from ..contracts.normalization import summed_dtype
from ..functional.elementwise import variant
from ..fusing import inner
from ..hooks import is_plain
from ..nn.batch_normalization import batch_norm_act
from ..registry import Activation, catalogue
from .adapting import once, own_class, source

Named = tuple[str, dict[str, Any]]
"""The name of a row of the catalogue, and constants by name."""

_IDENTITY: Named = ("identity", {})


_GELUS: dict[str, Named] = {approximate: (variant(approximate).name, {}) for approximate in ("none", "tanh")}


def _gelu(module: Any) -> Named | None:
    return _GELUS.get(module.approximate)


def _of_row(row: Activation) -> Callable[[Any], Named | None]:
    names = tuple(row.parameters)
    return lambda module: (row.name, {name: getattr(module, name) for name in names} if names else {})


activations: dict[type[Module], Callable[[Any], Named | None]] = {
    torch.nn.Identity: lambda module: _IDENTITY,
    torch.nn.GELU: _gelu,
    nn.GELU: _gelu,
}
"""Classes of activations, and which of the catalogue's rows a module of the class is."""

activations_of_source: dict[tuple[str, str], Callable[[Any], Named | None]] = {}
"""The same by a library's name and the fingerprint of the class's forward."""

for _row in catalogue(Activation):
    for _library in (torch.nn, nn):
        if (_class := getattr(_library, _row.module, None)) is not None:
            activations.setdefault(_class, _of_row(_row))


def activation(module: Module) -> Named | None:
    """Which stateless activation a module applies, if that is all that a call of it does; None for a mere function."""
    return named(module) if isinstance(module, Module) and is_plain(module) else None


def named(module: Module) -> Named | None:
    """Which stateless activation a module's class is, whatever hooks the module has."""
    known = _known(own_class(module))
    if known is None or module.__dict__.get("saving") is not None:
        return None
    named = known(module)
    if named is None or named is _IDENTITY or not named[1]:
        return named
    return named if all(isinstance(value, (int, float)) for value in named[1].values()) and _fits(named) else None


@once
def _known(kind: type[Any]) -> Callable[[Any], Named | None] | None:
    return activations.get(kind) or activations_of_source.get(source(kind))


def _fits(named: Named) -> bool:
    """Torch's modules take constants of which the formula makes no sense."""
    try:
        inner("optimize", named[0], named[1])
    except (TypeError, ValueError):
        return False
    return True


Apply = Callable[..., Any]
"""Applies a norm, an activation, and a residual before that; the result is of the given type, if one is given.

With an `addend`, of any type and without activation and residual: the norm of their sum, and that sum.
"""


def _batch(
    norm: Any, x: Tensor, named: Named, residual: Tensor | None, dtype: torch.dtype | None, addend: Tensor | None = None
) -> Any:
    if dtype not in (None, x.dtype) or addend is not None:
        return NotImplemented
    norm._check_input_dim(x)
    return batch_norm_act(norm, x, *named, residual)


def _group(
    norm: Any, x: Tensor, named: Named, residual: Tensor | None, dtype: torch.dtype | None, addend: Tensor | None = None
) -> Any:
    x = x.to(dtype or _type_of(torch.nn.functional.group_norm, (1,), x))
    if addend is not None or (residual is not None and residual.dtype != x.dtype):
        return NotImplemented
    return functional.group_norm_act(
        x, norm.num_groups, norm.weight, norm.bias, norm.eps, named[0], residual=residual, **named[1]
    )


def layer(
    norm: Any, x: Tensor, named: Named, residual: Tensor | None, dtype: torch.dtype | None, addend: Tensor | None = None
) -> Any:
    dtype = dtype or _type_of(torch.nn.functional.layer_norm, ((2,),), x, addend)
    if addend is not None:
        return functional.add_layer_norm(
            x, addend, norm.normalized_shape, norm.weight, norm.bias, norm.eps, dtype=dtype
        )
    return functional.layer_norm_act(
        x, norm.normalized_shape, norm.weight, norm.bias, norm.eps, named[0],
        residual=residual, dtype=dtype, **named[1],
    )  # fmt: skip


def _rms(
    norm: Any, x: Tensor, named: Named, residual: Tensor | None, dtype: torch.dtype | None, addend: Tensor | None = None
) -> Any:
    dtype = dtype or _type_of(torch.nn.functional.rms_norm, ((2,),), x, addend)
    if addend is not None:
        return functional.add_rms_norm(x, addend, norm.normalized_shape, norm.weight, norm.eps, dtype=dtype)
    return functional.rms_norm_act(
        x, norm.normalized_shape, norm.weight, norm.eps, named[0], residual=residual, dtype=dtype, **named[1]
    )


def _type_of(
    function: Callable[..., Tensor], arguments: tuple[Any, ...], x: Tensor, addend: Tensor | None = None
) -> torch.dtype:
    """Of what type torch's function makes its result: autocast has its own mind about norms, on each device another."""
    kind, dtype = x.device.type, summed_dtype(x, addend)
    if not _torch.autocasts(kind):
        return dtype
    return _made(function, arguments, kind, dtype, torch.get_autocast_dtype(kind))


@once
def _made(
    function: Callable[..., Tensor], arguments: tuple[Any, ...], kind: str, dtype: torch.dtype, autocast: torch.dtype
) -> torch.dtype:
    """`autocast` is there for the cache: what the function makes of its arguments depends on it."""
    return function(torch.zeros(1, 1, 2, device=kind, dtype=dtype), *arguments).dtype


norms: dict[type[Module], Apply] = {
    torch.nn.BatchNorm1d: _batch,
    torch.nn.BatchNorm2d: _batch,
    torch.nn.BatchNorm3d: _batch,
    torch.nn.GroupNorm: _group,
    torch.nn.LayerNorm: layer,
    torch.nn.RMSNorm: _rms,
}
"""Classes of norms, and how one is applied with an activation."""

norms_of_source: dict[tuple[str, str], Apply] = {}
"""The same by a library's name and the fingerprint of the class's forward."""


@once
def norm_function(kind: type[Any]) -> Apply | None:
    """How a norm of that class is applied; None if it is none."""
    return norms.get(kind) or norms_of_source.get(source(kind))


def norm_act(norm: Module, act: Module | None, x: Tensor, residual: Tensor | None = None) -> Any:
    """f(norm(x) + residual) at once; NotImplemented if it cannot be done, or is not what calls of the two would do."""
    apply = norm_function(own_class(norm))
    if apply is None or not is_plain(norm):
        return NotImplemented
    known = _IDENTITY if act is None else activation(act)
    return NotImplemented if known is None else applied(apply, norm, x, known, residual)


def applied(apply: Apply, norm: Module, x: Tensor, named: Named = _IDENTITY, residual: Tensor | None = None) -> Any:
    """f(norm(x) + residual) by one of the functions of `norms`; NotImplemented if the operands do not suit it."""
    if not normalizes(norm) or (residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype)):
        return NotImplemented
    return apply(norm, x, named, residual, None)


def norm_of_sum(norm: Module, x: Tensor, addend: Tensor) -> Tensor:
    """norm(x + addend), at once if that can be done; the two may differ in type."""
    made = _normed(norm, x, addend)
    return norm(x + addend) if made is NotImplemented else made[0]


def norm_for_products(norm: Module, x: Tensor) -> Tensor:
    """norm(x) for a module that multiplies it by matrices, in the type to which autocast would cast it for that."""
    made = _normed(norm, x, None, product_type(x.device, x.dtype))
    return norm(x) if made is NotImplemented else made


def sum_for_products(norm: Module, x: Tensor, addend: Tensor) -> tuple[Tensor, Tensor]:
    """The same of x + addend, and that sum."""
    made = _normed(norm, x, addend, product_type(x.device, summed_dtype(x, addend)))
    if made is not NotImplemented:
        return made
    total = x + addend
    return norm(total), total


def product_type(device: torch.device, dtype: torch.dtype) -> torch.dtype | None:
    """To what type autocast casts operands of products that have the type `dtype`; None if it does not."""
    narrow = _torch.computed_in(device.type, dtype)
    return narrow if _torch.autocasts(device.type) and dtype in (torch.float32, narrow) else None


def _normed(norm: Module, x: Tensor, addend: Tensor | None, dtype: torch.dtype | None = None) -> Any:
    """The norm in the type `dtype`, and with an addend the sum; NotImplemented if ours is not what a call would do."""
    apply = norm_function(own_class(norm))
    if apply is None or not is_plain(norm) or not normalizes(norm):
        return NotImplemented
    if addend is not None and addend.shape != x.shape:
        return NotImplemented
    return apply(norm, x, _IDENTITY, None, dtype, addend)


def norm_then_act(norm: Module, act: Module | None, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """f(norm(x) + residual): at once, or by calls of the modules where that cannot be done."""
    made = norm_act(norm, act, x, residual)
    if made is not NotImplemented:
        return made
    made = norm(x) if residual is None else norm(x) + residual
    return made if act is None else act(made)


def evaluate(named: Named, x: Tensor, inplace: bool = False) -> Tensor:
    """The activation of x."""
    function = getattr(functional, named[0])
    return function(x, **named[1], inplace=True) if inplace else function(x, **named[1])


def type_with(parameter: Tensor, x: Tensor) -> torch.dtype | None:
    """The type of what torch's operations make of `x` and a parameter; None where the lists of autocast decide."""
    dtype = torch.promote_types(x.dtype, parameter.dtype)
    return None if _torch.autocasts(x.device.type) and dtype != torch.float32 else dtype


def unknown(act: Module, *layers: Module) -> str:
    """Why a block of this activation and these linear layers has to be left; "" if it need not be."""
    if activation(act) is None:
        return "its activation is none that is known"
    return "" if multiplies(*layers) else "its layers are not torch's own linear ones without hooks"


def multiplies(*modules: Module) -> bool:
    """Whether a call of each is torch's linear layer and nothing else, so that the weights may be read in its place."""
    return all(hooks.multiplies(module, own_class(module)) for module in modules)


def suit(x: Tensor, *layers: Any) -> bool:
    """Whether ours multiplies x by the layers' weights: of types that it has, alike unless autocast makes them so."""
    dtypes = {x.dtype, *(layer.weight.dtype for layer in layers)}
    if not accepts(x) or not dtypes.issubset(SUPPORTED_DTYPES):
        return False
    return len(dtypes) == 1 or (_torch.autocasts(x.device.type) and torch.float64 not in dtypes)


def drops_nothing(*modules: Module) -> bool:
    """Whether a call of each gives back what it is given, as dropout of any kind does in evaluation."""
    return all(is_plain(module) and _gives_back(module) for module in modules)


def _gives_back(module: Module) -> bool:
    kind = own_class(module)
    if kind in (torch.nn.Dropout, torch.nn.Dropout2d):
        return not module.training or bool(module.p == 0)
    return kind is torch.nn.Identity or (kind.__name__ in ("DropPath", "StochasticDepth") and not module.training)


def normalizes(norm: Module) -> bool:
    """Whether ours takes the epsilon too."""
    eps: Any = getattr(norm, "eps", None)
    if eps is None or isinstance(norm, torch.nn.LayerNorm):
        return eps is None or eps >= 0
    return eps > 0
