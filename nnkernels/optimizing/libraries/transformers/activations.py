"""Activations: stateless ones by the function that they call, and those with parameters of their own."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .... import functional
from ....reference.learned import SNAKE_GUARD
from ...adapting import Adapted, Call, adapter_of_source, fingerprint, own_class
from ...modules import Named, activations_of_source, type_with
from ..torch import Elsewhere, OnRows


def _of_attribute(module: Any) -> Named | None:
    """A class that calls the function in its attribute `act`."""
    function: Any = module.act
    options: dict[str, Any] = {}
    if isinstance(function, functools.partial) and not function.args:
        function, options = function.func, function.keywords
    if function is torch.nn.functional.gelu and options.keys() <= {"approximate"}:
        return ("gelu_tanh" if options.get("approximate") == "tanh" else "gelu"), {}
    if function is torch.nn.functional.mish and not options:
        return "mish", {}
    return None


_ACTIVATIONS: dict[str, tuple[str, Any]] = {
    "GELUActivation": ("618093a6bcb8", _of_attribute),  # GELUTanh's and MishActivation's forward too
    "NewGELUActivation": ("9d0b9dd71753", lambda module: ("gelu_tanh", {})),
    "FastGELUActivation": ("4caa3bda3218", lambda module: ("gelu_tanh", {})),
    "QuickGELUActivation": ("95ac42583b21", lambda module: ("gelu_sigmoid", {})),
    "SiLUActivation": ("e730f54291b8", lambda module: ("silu", {})),
    "ReLUSquaredActivation": ("daeb651d4a93", lambda module: ("relu_squared", {})),
}

for _name, (_fingerprint, _known) in _ACTIVATIONS.items():
    adapter_of_source(f"transformers.activations.{_name}", _fingerprint)(Elsewhere)
    activations_of_source["transformers", _fingerprint] = _known


@adapter_of_source("transformers.activations.XIELUActivation", "a0cc9a1d9279")
class XIELU(OnRows):
    """xIELU with its two parameters, where the class takes a pass for each operation."""

    def examine(self: Any) -> str:
        if fingerprint(own_class(self), "_xielu_python") != "7deb0545a89e":
            return "its `_xielu_python` is none that is known"
        if self._xielu_cuda_obj is not None:
            return "it has a kernel of its own"
        constants = ((self.beta, self._beta_scalar), (self.eps, self._eps_scalar))
        known = all(tensor.item() == torch.tensor(number, dtype=tensor.dtype).item() for tensor, number in constants)
        return "" if known else "its buffers hold other constants than it was made with"

    def fused(self: Any, input: Tensor) -> Any:
        dtype = type_with(self.alpha_p, input)
        if dtype is None:
            return NotImplemented
        return functional.xielu(input.to(dtype), self.alpha_p, self.alpha_n, self._beta_scalar, self._eps_scalar)


@adapter_of_source("transformers.models.qwen2_5_omni.modeling_qwen2_5_omni.Qwen2_5OmniSnakeBeta", "2eaed490243a")
class SnakeBeta(Adapted):
    """BigVGAN's SnakeBeta, whose parameters are logarithms."""

    def examine(self: Any) -> str:
        return "" if self.no_div_by_zero == SNAKE_GUARD else f"it adds {self.no_div_by_zero} to beta"

    def fused(self: Any, hidden_states: Tensor) -> Any:
        dtype = type_with(self.alpha, hidden_states)
        if dtype is None:
            return NotImplemented
        return functional.snake_beta(hidden_states.to(dtype), self.alpha.exp(), self.beta.exp())

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        shape = (1, self.in_features, max(1, elements // self.in_features))
        return [Call((torch.randn(shape, device=device, dtype=dtype, requires_grad=True),), {})]
