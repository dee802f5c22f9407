"""What a module's own code does with the modules inside it, read from its source and never run.

Fusing two neighbours in a container is right only if nobody takes the container apart. A `forward` that calls what it
holds as a whole, or goes through its elements and calls each, does not; anything else counts as taking apart.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import NamedTuple

import torch
from torch.nn import Module, ModuleDict, ModuleList, Sequential

_CALLED, _WALKED, _ASKED, _OTHER = "called", "walked", "asked", "other"
_INNOCENT = frozenset({"training", "parameters", "named_parameters", "buffers", "named_buffers", "get_buffer"})
"""What `torch.nn.Module` offers that does not lead to the modules inside."""

_TORCHS = (Module, Sequential, ModuleList, ModuleDict)
_OPAQUE = frozenset({"eval", "exec", "globals", "locals", "vars"})
_MACHINERY = ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__")


class _Use(NamedTuple):
    """`self.name`, `super().name`, or `self` where the name is empty, and what is done with it."""

    name: str
    how: str
    above: bool = False


def is_plain_call(module: Module) -> bool:
    """Whether calling the module runs its class's `forward` and nothing else."""
    same = all(getattr(type(module), name, None) is getattr(Module, name, None) for name in _MACHINERY)
    own = module.__dict__
    hooks = (own.get(f"_{kind}hooks") for kind in ("forward_", "forward_pre_", "backward_", "backward_pre_"))
    return same and "forward" not in own and not any(hooks)


def is_sequential(module: Module) -> bool:
    """Whether the module calls what it holds one after the other, as `Sequential` does."""
    kind = type(module)
    return (
        isinstance(module, Sequential)
        and getattr(kind, "forward", None) is Sequential.forward
        and getattr(kind, "__iter__", None) is Sequential.__iter__
        and is_plain_call(module)
    )


def takes_apart(owner: Module, name: str, elements: bool = False) -> str:
    """Why `owner` may do more with its module `name` than call it, or "" if it does not.

    Args:
        owner: the module.
        name: of a module right inside it.
        elements: whether that is a list or dict of modules, whose elements may be called too.
    """
    kind = type(owner).__name__
    if not is_plain_call(owner):
        return f"{kind} has hooks or a forward of its own"
    if is_sequential(owner):
        return ""
    listed = isinstance(owner, (Sequential, ModuleList, ModuleDict))
    whole = (_CALLED, _ASKED, _WALKED) if elements else (_CALLED, _ASKED)
    seen: set[FunctionType] = set()
    waiting = _functions(type(owner), "forward")
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        uses = "it is decorated" if hasattr(function, "__wrapped__") else _uses(function.__code__)
        if isinstance(uses, str):
            return f"{kind}.{function.__name__}: {uses}"
        for use in uses:
            if use.name in owner._modules and not use.above:
                if use.name == name and use.how not in whole:
                    return f"{kind}.{function.__name__} does more with {name} than call it"
            elif not use.name:
                if use.how not in ((_CALLED, _ASKED, _WALKED) if listed else (_CALLED, _ASKED)):
                    return f"{kind}.{function.__name__} hands itself on"
            elif found := _functions(type(owner), use.name):
                waiting += found
            elif not _is_data(type(owner), use.name):
                return f"{kind}.{function.__name__} uses {use.name}"
    for function in _public(type(owner)):  # for others to call, as features are extracted
        uses = _uses(inspect.unwrap(function).__code__)
        if not isinstance(uses, str) and any(use.name == name and use.how not in whole for use in uses):
            return f"{kind}.{function.__name__} does more with {name} than call it"
    return "" if seen else f"{kind} has no forward that can be read"


def reaches_in(container: Module) -> str:
    """Why methods that a container's class adds may do more than call the container, or "" if they do not."""
    for function in _public(type(container)):
        uses = _uses(inspect.unwrap(function).__code__)
        if isinstance(uses, str):
            return f"{type(container).__name__}.{function.__name__}: {uses}"
        for use in uses:
            inside = use.how not in (_CALLED, _ASKED) if not use.name else hasattr(Sequential, use.name)
            if (inside and use.name not in _INNOCENT) or use.name in container._modules:
                return f"{type(container).__name__}.{function.__name__} takes it apart"
    return ""


def _functions(kind: type, name: str) -> list[FunctionType]:
    """Python's functions of that name in the class and above, but for torch's own base classes."""
    found: list[FunctionType] = []
    for base in kind.__mro__:
        if base in _TORCHS:
            continue
        value = vars(base).get(name)
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(value, FunctionType):
            found.append(value)
    return found


def _public(kind: type) -> Iterator[FunctionType]:
    """The methods that have no underscore, of the class and above, but for torch's own base classes."""
    for base in kind.__mro__:
        if base not in _TORCHS:
            yield from (one for name, one in vars(base).items() if isinstance(one, FunctionType) and name[0] != "_")


def _is_data(kind: type, name: str) -> bool:
    """Whether `self.name`, which is no module and no method, leads to no module either."""
    if hasattr(Module, name) or name.startswith("__"):
        return name in _INNOCENT
    value = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor))


@lru_cache(maxsize=256)
def _uses(code: CodeType) -> tuple[_Use, ...] | str:
    """What a function does with its first argument, or why that cannot be told."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return "its source is not at hand"
    if not isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)) or tree.name != code.co_name:
        return "its source is not at hand"
    arguments = [*tree.args.posonlyargs, *tree.args.args]
    if not arguments:
        return "it has no self"
    return _Reader(tree).uses(arguments[0].arg)


class _Reader:
    def __init__(self, tree: ast.AST) -> None:
        self.nodes = list(ast.walk(tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    def uses(self, own: str) -> tuple[_Use, ...] | str:
        found: list[_Use] = []
        for node in self.nodes:
            if not isinstance(node, ast.Name):
                continue
            if node.id in _OPAQUE:
                return f"it calls {node.id}"
            if node.id == "super":
                call = self.parents[node]
                attribute = self.parents.get(call)
                if not (isinstance(call, ast.Call) and isinstance(attribute, ast.Attribute)):
                    return "it does more with super() than call a method"
                found.append(_Use(attribute.attr, _CALLED, True))
            elif node.id == own:
                found.append(self._use(node))
        return tuple(found)

    def _use(self, node: ast.Name) -> _Use:
        parent = self.parents[node]
        if not isinstance(parent, ast.Attribute):
            return _Use("", self._how(node))
        if parent.attr in ("items", "values") and self._how(node) == _WALKED:
            return _Use("", _WALKED)
        return _Use(parent.attr, self._how(parent))

    def _how(self, node: ast.expr) -> str:
        parent = self.parents[node]
        if not isinstance(getattr(node, "ctx", None), ast.Load):
            return _OTHER
        if isinstance(parent, ast.Call):
            if parent.func is node:
                return _CALLED
            if isinstance(parent.func, ast.Name) and parent.func.id in ("isinstance", "len", "hasattr", "type"):
                return _ASKED
        if isinstance(parent, ast.Compare) and all(isinstance(sign, (ast.Is, ast.IsNot)) for sign in parent.ops):
            return _ASKED
        if isinstance(parent, (ast.If, ast.IfExp)) and parent.test is node:
            return _ASKED
        if isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.Not):
            return _ASKED
        if isinstance(parent, ast.Subscript) and parent.value is node and not isinstance(parent.slice, ast.Slice):
            return _WALKED if self._how(parent) == _CALLED else _OTHER
        element = self._element(node)
        if isinstance(element, ast.Name):
            return _WALKED if all(self._how(one) in (_CALLED, _ASKED) for one in self._loads(element.id)) else _OTHER
        return _OTHER

    def _loads(self, name: str) -> Iterator[ast.Name]:
        for node in self.nodes:
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
                yield node

    def _element(self, node: ast.expr) -> ast.expr | None:
        """What a loop or comprehension over `node`, its values, items or numbered elements binds each one to."""
        inside: list[int] = []
        parent = self.parents[node]
        if isinstance(parent, ast.Attribute) and parent.attr in ("items", "values"):
            if not isinstance(self.parents[parent], ast.Call):
                return None
            inside = [1] if parent.attr == "items" else []
            node = self.parents[parent]  # type: ignore[assignment]
            parent = self.parents[node]
        if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and node in parent.args:
            if parent.func.id not in ("enumerate", "zip", "reversed"):
                return None
            inside = {"enumerate": [1], "zip": [parent.args.index(node)], "reversed": []}[parent.func.id] + inside
            node, parent = parent, self.parents[parent]
        if not (isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is node):
            return None
        target: ast.expr = parent.target
        for position in inside:
            if not isinstance(target, ast.Tuple) or position >= len(target.elts):
                return None
            target = target.elts[position]
        return target
