"""How a module gets a faster forward and stays what everybody takes it for.

An adapter is a class that is mixed in before the class of a module: `isinstance`, the state dict, parameters, children,
hooks and names stay, and to undo it gives the module its own class back. What an adapter adds runs in plain eager calls
alone. Whoever traces, compiles, exports or transforms a model meets the forward that its author wrote.

An adapter is right for the source that it was written for. Classes of other libraries are known by a fingerprint of
their `forward`: one that has changed is left as it is.
"""

from __future__ import annotations

import ast
import copyreg
import hashlib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from ..autograd.context import is_plain_call

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "diffusers")
"""Each has a file or folder of its name in `libraries/`, which is read if the library has been imported."""


SMALL = 2**20
"""Elements of a call's tensors below which a GPU is done with most calls before the host has asked for the next."""

F = TypeVar("F", bound=Callable[..., Any])


class Call(NamedTuple):
    """What a module is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Adapted:
    """What an adapter inherits from; its `self` is the module, with all that the module's class has.

    `fused` is the forward. For a call that it does not serve it returns NotImplemented, before it has changed anything.
    """

    adapted_from: ClassVar[type[Module]]
    """The module's own class."""

    draws: ClassVar[bool] = False
    """Whether it draws other random numbers than the class does."""

    calls_inside: ClassVar[bool] = True
    """Whether `theirs` and `ours` call modules inside, and so whatever hooks those have."""

    leaves_small: ClassVar[bool] = False
    """Whether small calls without gradients are the class's own, since the host needs longer to ask for ours."""

    def examine(self) -> str | None:
        """Why the module has to be left; "" if it need not be, None if there is nothing to say of it."""
        return ""

    def shown(self) -> str:
        """The kind: modules that are shown alike are judged together."""
        return described(self)

    def fused(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def takes(self) -> list[Module]:
        """Modules inside that `fused` reads instead of calling them."""
        return []

    def probes(self) -> list[Module]:
        """The modules whose calls `theirs` and `ours` want to see, to be timed on."""
        return [self]  # type: ignore[list-item]

    def samples(self, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call] | None:
        """Calls of the probes with about so many elements; None if nobody can know their shapes."""
        return None

    def leaves_call(self, *args: Any) -> bool:
        """Whether a plain call with these tensors is one of the small ones that the module leaves to its class."""
        return (
            self.leaves_small
            and not torch.is_grad_enabled()
            and all(one.numel() < SMALL for one in args if isinstance(one, Tensor))
        )

    def theirs(self, *calls: Call) -> Any:
        """What the class does on calls of the probes."""
        ours = type(self)
        self.__class__ = self.adapted_from  # type: ignore[assignment]  # methods that its forward calls are its own too
        try:
            return self.forward(*calls[0].args, **calls[0].kwargs)  # type: ignore[attr-defined]
        finally:
            self.__class__ = ours

    def ours(self, *calls: Call) -> Any:
        """The same by the adapter."""
        return self.fused(*calls[0].args, **calls[0].kwargs)

    @property
    def qconfig(self) -> Any:
        """How torch.ao is to quantise the module: being told gives it its own class back, which torch.ao looks for."""
        raise AttributeError(f"{type(self).__name__} has no qconfig")

    @qconfig.setter
    def qconfig(self, told: Any) -> None:
        self.__class__ = self.adapted_from  # type: ignore[assignment]
        self.qconfig = told

    def __reduce_ex__(self, protocol: Any) -> Any:
        made = super().__reduce_ex__(protocol)
        adapter = _adapter_of(type(self))
        if adapter is None or made[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return made
        return _rebuild, (adapter, self.adapted_from, self.leaves_small), *made[2:]


def once(function: F) -> F:
    """`functools.cache`, which to a type checker takes no classes: the hash of their instances confuses it."""
    return cache(function)  # type: ignore[return-value]


def _is_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    tensors = [given for given in (*args, *kwargs.values()) if isinstance(given, Tensor)]
    return bool(tensors) and is_plain_call(*tensors)


def _rebuild(adapter: type[Adapted], theirs: type[Module], leaves_small: bool = False) -> Module:
    made = adapted_class(adapter, theirs, leaves_small)
    return made.__new__(made)


@once
def adapted_class(adapter: type[Any], theirs: type[Any], leaves_small: bool = False) -> Any:
    """The class of a module of the class `theirs` that has got the adapter."""

    @wraps(theirs.forward)  # tracers and trainers ask for its signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling() and _is_plain(args, kwargs):
            left = leaves_small and self.leaves_call(*args, *kwargs.values())
            made = NotImplemented if left else self.fused(*args, **kwargs)
            if made is not NotImplemented:
                return made
        return theirs.forward(self, *args, **kwargs)

    names = {name: getattr(theirs, name) for name in ("__module__", "__qualname__", "__doc__")}
    own = {"adapted_from": theirs, "leaves_small": leaves_small, "forward": forward}
    return type(theirs.__name__, (adapter, theirs), {**names, **own})


def own_class(module: Module) -> type[Module]:
    """The class that a module has without an adapter."""
    return type(module).__dict__.get("adapted_from", type(module))


def is_adapted(module: Module) -> bool:
    """Whether the module's class is one that `adapted_class` has made, and nobody has derived another from it."""
    return "adapted_from" in type(module).__dict__


def _adapter_of(kind: type) -> type[Adapted] | None:
    return kind.__mro__[1] if "adapted_from" in kind.__dict__ else None


def described(module: Any) -> str:
    """The class's name and what its `extra_repr` says."""
    return f"{type(module).__name__}({module.extra_repr()})"


A = TypeVar("A", bound=type[Adapted])
_of_class: dict[Any, type[Adapted]] = {}
_of_forward: dict[Any, type[Adapted]] = {}
_of_source: dict[tuple[str, str], type[Adapted]] = {}
_names: set[str] = set()


def adapter(*classes: type[Module], subclasses: bool = False) -> Callable[[A], A]:
    """Makes the decorated class the adapter of modules of these classes, for `nnkernels.optimize`.

    Args:
        *classes: the classes, whose `forward` it knows. One may be given an adapter again.
        subclasses: whether it serves those of their subclasses, too, that keep their forward.

    The decorated class inherits from `nnkernels.optimizing.Adapted`.

    Example:
        >>> import torch, nnkernels
        >>> from nnkernels.optimizing import Adapted, adapter
        >>> class Gate(torch.nn.Module):
        ...     def forward(self, x, y):
        ...         return torch.nn.functional.silu(x) * y
        >>> @adapter(Gate)
        ... class FasterGate(Adapted):
        ...     def fused(self, x, y):
        ...         return nnkernels.functional.swiglu(x, up=y)
        >>> report = nnkernels.optimize(Gate(), always=True)
        fused  1 Gate()  unconditionally  the model
    """

    def register(made: A) -> A:
        for theirs in classes:
            (_of_forward if subclasses else _of_class)[theirs.forward if subclasses else theirs] = made
        return made

    return register


def adapter_of_source(name: str, *fingerprints: str) -> Callable[[A], A]:
    """Makes the decorated class the adapter of a library's classes whose forward has one of these fingerprints.

    Args:
        name: the full name of one such class. Where its source is another, `optimize` says so; classes of the same
            library with the same forward are served whatever they are called.
        *fingerprints: of `fingerprint`.
    """

    def register(made: A) -> A:
        _names.add(name)
        _of_source.update({(name.partition(".")[0], one): made for one in fingerprints})
        return made

    return register


@once
def fingerprint(kind: type[Any], method: str = "forward") -> str:
    """Twelve hexadecimal digits that depend on what a class's method does: not on its comments, layout, annotations."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(getattr(kind, method)))).body
    return digest(function)


def digest(function: ast.stmt) -> str:
    """The fingerprint of a function's definition."""
    assert isinstance(function, ast.FunctionDef)
    function.returns = None
    for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs, function.args.kwarg):
        if argument is not None:
            argument.annotation = None
    function.body = [line for line in function.body if not _is_text(line)]
    return hashlib.sha256(ast.unparse(function).encode()).hexdigest()[:12]


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def named_sources() -> frozenset[str]:
    """The full names of the classes whose sources adapters know."""
    return frozenset(_names)


def load_libraries() -> None:
    """Registers what is known of the libraries that have been imported."""
    for name in LIBRARIES:
        if name in sys.modules:
            importlib.import_module(f".libraries.{name}", __package__)


def source(kind: type[Module]) -> tuple[str, str]:
    """The library that defines a class, and the fingerprint of its forward: "" if there is no source to be read."""
    library = kind.__module__.partition(".")[0]
    if library not in LIBRARIES:
        return library, ""
    try:
        return library, fingerprint(kind)
    except (OSError, TypeError, SyntaxError, AssertionError, ValueError):
        return library, ""


def find(module: Module) -> tuple[type[Adapted] | None, str]:
    """The adapter of a module's class, and why there is none where one might expect it."""
    if isinstance(module, torch.jit.ScriptModule):
        return None, ""
    theirs = own_class(module)
    if theirs in _of_class:
        return _of_class[theirs], ""
    if theirs.forward in _of_forward:
        return _of_forward[theirs.forward], ""
    found = _of_source.get(source(theirs))
    if found is None and f"{theirs.__module__}.{theirs.__qualname__}" in _names:
        library = sys.modules[theirs.__module__.partition(".")[0]]
        version = getattr(library, "__version__", "this version")
        return None, f"its forward in {library.__name__} {version} is none that its adapter was written for"
    return found, ""
