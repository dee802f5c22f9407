"""A user's own activation: from one function in torch operations, and a faster form in Triton where there is one."""

from __future__ import annotations

import inspect
import keyword
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import functional, nn, reference
from .registry import Activation, activations, add


def register(
    name: str,
    *,
    reference: Callable[..., Tensor],
    value: Any = None,
    d1: Any = None,
    d2: Any = None,
    module: str | None = None,
    parameters: Mapping[str, float] | None = None,
    masks: bool = False,
    inplace: bool = False,
    formula: str = "",
    derivative: str = "",
    range: str = "",
    source: str = "",
    good_for: str = "",
    drawback: str = "",
) -> Activation:
    """Adds an activation to the catalogue: `nnkernels.functional.<name>`, a module, the gated form, check and bench.

    Args:
        name: a Python name in snake_case that the catalogue does not have yet.
        reference: the value in torch operations, `reference(x, *parameters)`, differentiable as often as it is to be
            differentiated. It is evaluated in float32 for 16-bit inputs, and serves CPUs, compilers and transforms.
        value, d1, d2: `@triton.jit` functions of (x, a, b, FAST), the value and its first and second derivative at a
            tile x of float32 or float64; a and b are the parameters (0 where there are fewer than two), FAST, a
            constexpr, says that 16 bits of the result are all that will be kept. Without them GPUs run the reference.
        module: the class's name in `nnkernels.nn`; by default `name` in PascalCase.
        parameters: at most two, with their defaults.
        masks: whether the gradient is 0 where the derivative is 0, whatever comes from above.
        inplace: whether the function takes `inplace=`.
        formula, derivative, range, source, good_for, drawback: what the catalogue tells of it.

    Returns:
        The catalogue's new row.

    Raises:
        ValueError: the name is taken or no name, there are more than two parameters, or only some of `value`, `d1` and
            `d2` are given.
        TypeError: `reference` does not take the tensor and the parameters, or does not return a tensor of its shape.

    Example:
        >>> import torch, nnkernels
        >>> row = nnkernels.register("cube_root", reference=lambda x: x.sign() * x.abs().pow(1 / 3))
        >>> nnkernels.functional.cube_root(torch.tensor([8.0]))
        tensor([2.])
        >>> nnkernels.nn.CubeRoot()
        CubeRoot()
    """
    parameters = dict(parameters or {})
    module = module or "".join(part.capitalize() for part in name.split("_"))
    _check_names(name, module, parameters)
    formulas = (value, d1, d2)
    if any(formulas) and not all(formulas):
        missing = ", ".join(part for part, given in zip(("value", "d1", "d2"), formulas, strict=True) if not given)
        raise ValueError(f"register({name!r}): value, d1 and d2 go together; missing: {missing}")
    _check_reference(name, reference, parameters)
    row = Activation(
        name,
        module,
        formula or name,
        derivative or f"the derivative of {name}",
        range or "not told",
        source or "registered by the user",
        good_for or "not told",
        drawback or "not told",
        parameters=parameters,
        inplace=inplace,
        masks=masks,
        reference=reference,
    )
    _install_reference(row)
    if value is not None:
        from .triton.activations import FORMULAS, Formula

        FORMULAS[name] = Formula(value, d1, d2)
    add(row)
    for made, function in functional.elementwise.install(row).items():
        setattr(functional, made, function)
        functional.__all__.append(made)
    setattr(nn, module, nn.elementwise.install(row))
    nn.__all__.append(module)
    return row


def _check_names(name: str, module: str, parameters: Mapping[str, float]) -> None:
    for one in (name, module, *parameters):
        if not one.isidentifier() or keyword.iskeyword(one):
            raise ValueError(f"register({name!r}): {one!r} is not a Python name")
    if name in activations() or hasattr(functional, name):
        raise ValueError(f"register({name!r}): there is an activation of that name")
    if hasattr(nn, module):
        raise ValueError(f"register({name!r}): there is a module called {module!r}; give another one as module=")
    if len(parameters) > 2:
        raise ValueError(f"register({name!r}): at most two parameters, got {', '.join(parameters)}")


def _check_reference(name: str, value: Callable[..., Tensor], parameters: Mapping[str, float]) -> None:
    constants = [0.5 if math.isnan(default) else default for default in parameters.values()]
    try:
        inspect.signature(value).bind(None, *constants)
        found = value(torch.zeros(2, dtype=torch.float64), *constants)
    except TypeError as error:
        wanted = ", ".join(["x", *parameters])
        raise TypeError(f"register({name!r}): reference has to take ({wanted}): {error}") from error
    if not isinstance(found, Tensor) or found.shape != (2,):
        raise TypeError(f"register({name!r}): reference has to return a tensor of the input's shape, got {found!r}")


def _install_reference(row: Activation) -> None:
    given, count = row.reference, len(row.parameters)
    assert given is not None

    def value(x: Tensor, a: float, b: float) -> Tensor:
        return given(x, *(a, b)[:count])

    def derivative_of(function: Callable[[Tensor, float, float], Tensor]) -> Callable[[Tensor, float, float], Tensor]:
        def derivative(x: Tensor, a: float, b: float) -> Tensor:
            y, pull = torch.func.vjp(lambda x: function(x, a, b), x)  # type: ignore[misc]
            return pull(torch.ones_like(y))[0]

        return derivative

    d1 = derivative_of(value)
    members = {"value": staticmethod(value), "d1": staticmethod(d1), "d2": staticmethod(derivative_of(d1))}
    reference.FORMULAS[row.name] = type(row.name, (reference.base.Formula,), members)
