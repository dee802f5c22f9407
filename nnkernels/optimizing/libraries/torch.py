"""Adapters of torch's own modules: activations, norms, and a norm or linear layer with the activation behind it."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ... import functional, nn
from ...registry import elementwise
from ..adapting import Adapted, Call, adapter, described, own_class
from ..modules import (
    activation,
    applied,
    drops_nothing,
    evaluate,
    layer,
    multiplies,
    named,
    norm_act,
    norm_function,
    normalizes,
    norms,
    suit,
    unknown,
)


def channelled(module: Any, channels: int, elements: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A batch with these channels that a module would take, of about so many elements."""
    sides = {torch.nn.BatchNorm1d: (256,), torch.nn.BatchNorm3d: (4, 8, 8)}
    inside = next((shape for base, shape in sides.items() if isinstance(module, base)), (16, 16))
    if 2 * channels * prod(inside) > elements:
        inside = (1,) * len(inside)
    batch = max(2, elements // (channels * prod(inside)))
    return torch.randn(batch, channels, *inside, device=device, dtype=dtype, requires_grad=True)


def rows(shape: tuple[int, ...], elements: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rows of that shape, of about so many elements."""
    return torch.randn(max(1, elements // max(1, prod(shape))), *shape, device=device, dtype=dtype, requires_grad=True)


class OnImages(Adapted):
    """Sampled by images of `sample_channels()` channels."""

    def sample_channels(self: Any) -> int:
        raise NotImplementedError

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        return [Call((channelled(self, self.sample_channels(), elements, device, dtype),), {})]


class OnRows(Adapted):
    """Sampled by rows of the shape `sample_row()`."""

    def sample_row(self: Any) -> tuple[int, ...]:
        return (1024,)

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        return [Call((rows(self.sample_row(), elements, device, dtype),), {})]


class OnNormInput(Adapted):
    """Sampled by what a norm takes."""

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        return [Call((norm_input(self, elements, device, dtype),), {})]


class Namesake(OnImages):
    """An activation of torch computes as its namesake here does."""

    saving = None

    def fused(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        return getattr(nn, self.adapted_from.__name__).forward(self, *args, **kwargs)

    def sample_channels(self: Any) -> int:
        learned = getattr(self, "num_parameters", 1)
        return learned if learned > 1 else 64


class RandomNamesake(Namesake):
    draws = True

    def examine(self: Any) -> str:
        return "it drops nothing" if getattr(self, "p", None) == 0 else ""


for _name in nn.__all__:
    _theirs = getattr(torch.nn, _name, None)
    if _theirs is not None:
        _random = issubclass(_theirs, (torch.nn.modules.dropout._DropoutNd, torch.nn.RReLU))
        adapter(_theirs)(RandomNamesake if _random else Namesake)


@adapter(*norms)
class Norm(OnNormInput):
    """A norm on its own."""

    def examine(self: Any) -> str:
        return "" if normalizes(self) else "ours takes no such eps"

    def fused(self: Any, input: Tensor) -> Any:
        return norm_act(self, None, input)


class Elsewhere(OnRows):
    """A stateless activation in a class of another library."""

    def examine(self: Any) -> str:
        return "" if named(self) is not None else "it computes by a function that is not known"

    def fused(self: Any, input: Tensor) -> Any:
        known = named(self)
        inplace = bool(getattr(self, "inplace", False))
        if known is None or (inplace and not elementwise(known[0]).inplace):
            return NotImplemented
        return evaluate(known, input, inplace)


def width(layer: Module, which: str = "in_features") -> Any:
    """How wide a layer is, or the name of its class if that does not tell."""
    return getattr(layer, which, type(layer).__name__)


class _Block(OnRows):
    """Linear layers with an activation in front of the last one; `parts` are all of these in their order."""

    def parts(self: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    def shown(self: Any) -> str:
        """Widths and the activation: blocks of other sizes are other kinds."""
        first, *_, act, last = self.parts()
        widths = f"{width(first)}, {width(first, 'out_features')}, {width(last, 'out_features')}"
        return f"{type(self).__name__}({widths}, {act})"

    def takes(self: Any) -> list[Module]:
        return [self.parts()[-2]]

    def sample_row(self: Any) -> tuple[int, ...]:
        return (self.parts()[0].in_features,)


class Mlp(_Block):
    """Two linear layers with an activation between them, of which backward keeps one hidden tensor."""

    def parts(self: Any) -> tuple[Any, Any, Any]:
        """The first layer, the activation and the last layer."""
        raise NotImplementedError

    def examine(self: Any) -> str:
        first, act, last = self.parts()
        return unknown(act, first, last)

    def fused(self: Any, x: Tensor) -> Any:
        first, act, last = self.parts()
        known = activation(act)
        if known is None or not multiplies(first, last) or not suit(x, first, last):
            return NotImplemented
        return functional.mlp(x, first.weight, first.bias, last.weight, last.bias, known[0], **known[1])


class GatedMlp(_Block):
    """f(gate) up in one pass each way; of plain layers at once, so that backward keeps gate and up alone."""

    def parts(self: Any) -> tuple[Any, Any, Any, Any]:
        """The layers of gate and up, or of both and None; the activation; the last layer."""
        raise NotImplementedError

    def between(self: Any) -> list[Module]:
        """What is called in front of the last layer."""
        return []

    def examine(self: Any) -> str:
        return unknown(self.parts()[2])

    def fused(self: Any, x: Tensor) -> Any:
        gate, up, act, last = self.parts()
        known = activation(act)
        if known is None:
            return NotImplemented
        layers = [one for one in (gate, up, last) if one is not None]
        if multiplies(*layers) and suit(x, *layers) and drops_nothing(*self.between()):
            weight, bias = (None, None) if up is None else (up.weight, up.bias)
            weights = (gate.weight, weight, last.weight, gate.bias, bias, last.bias)
            return functional.gated_mlp(x, *weights, known[0], **known[1])
        x = functional.gated(gate(x), known[0], up=None if up is None else up(x), **known[1])
        for module in self.between():
            x = module(x)
        return last(x)


def image_layer_norm(norm: Any, x: Tensor) -> Any:
    """A layer norm over the channels of images (N, C, H, W), which is one over rows where they lie channels last."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return NotImplemented
    made = applied(layer, norm, x.permute(0, 2, 3, 1))
    return made if made is NotImplemented else made.permute(0, 3, 1, 2)


def norm_input(norm: Any, elements: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A sample of what a norm takes, or a linear layer."""
    shape = getattr(norm, "normalized_shape", None)
    if isinstance(norm, torch.nn.Linear):
        shape = (norm.in_features,)
    if shape is not None:
        return rows(tuple(shape), elements, device, dtype)
    channels = getattr(norm, "num_features", None) or norm.num_channels
    return channelled(norm, channels, elements, device, dtype)


@adapter(torch.nn.Sequential, subclasses=True)
class Sequential(Adapted):
    """Norms and linear layers with the activations behind them, each pair at once."""

    calls_inside = False

    def examine(self: Any) -> str | None:
        return "" if self._pairs() else None

    def shown(self: Any) -> str:
        kinds = dict.fromkeys(f"{described(first)} + {described(act)}" for first, act in self._pairs())
        return " and ".join(kinds)

    def takes(self: Any) -> list[Module]:
        return [module for pair in self._pairs() for module in pair]

    def fused(self: Any, input: Any) -> Any:
        modules = list(self._modules.values())
        at = 0
        while at < len(modules):
            made = NotImplemented
            if at + 1 < len(modules) and isinstance(input, Tensor) and _make_a_pair(modules[at], modules[at + 1]):
                made = _then_act(modules[at], modules[at + 1], input)
            input = modules[at](input) if made is NotImplemented else made
            at += 1 if made is NotImplemented else 2
        return input

    def probes(self: Any) -> list[Module]:
        return [first for first, _ in self._pairs()]

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        return [Call((norm_input(first, elements, device, dtype),), {}) for first, _ in self._pairs()]

    def theirs(self: Any, *calls: Call) -> list[Tensor]:
        pairs = zip(self._pairs(), calls, strict=True)
        return [_own(act, _own(first, *call.args)) for (first, act), call in pairs]

    def ours(self: Any, *calls: Call) -> list[Tensor]:
        return [_then_act(first, act, *call.args) for (first, act), call in zip(self._pairs(), calls, strict=True)]

    def _pairs(self: Any) -> list[tuple[Module, Module]]:
        """Neighbours that can be fused."""
        return [
            (first, act)
            for first, act in pairwise(self._modules.values())
            if first is not None and act is not None and normalizes(first) and _make_a_pair(first, act)
        ]


def _own(module: Any, *args: Any) -> Any:
    """By the forward of the module's own class."""
    return own_class(module).forward(module, *args)


def _make_a_pair(first: Module, act: Module) -> bool:
    """Whether the first is a norm or a linear layer, and the second does something that can be done with it."""
    leads = norm_function(own_class(first)) is not None or multiplies(first)
    known = activation(act) if leads else None
    return known is not None and known[0] != "identity"


def _then_act(first: Module, act: Module, x: Tensor) -> Any:
    """The activation of a norm or linear layer; NotImplemented if it cannot be done at once."""
    if norm_function(own_class(first)) is not None:
        return norm_act(first, act, x)
    known = activation(act)
    if known is None or not multiplies(first) or not suit(x, first):
        return NotImplemented
    return functional.linear_act(x, first.weight, first.bias, known[0], **known[1])  # type: ignore[arg-type]
