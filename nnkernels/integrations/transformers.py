"""Our layers behind the names that the kernel mapping of Hugging Face's transformers looks up, without its hub.

transformers leaves it to the package `kernels` to give a module another forward. That one takes a class with nothing
but a forward, whose `self` is the module, and binds it: the layers here are such classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from .. import functional
from ..optimizing.adapting import source

DEVICES = ("cpu", "cuda", "rocm")

_GATES = {"silu": "silu", "swish": "silu", "sigmoid": "sigmoid"}
"""transformers' names of a gate's activation, and ours."""

_LLAMA = "9635bcd843f3"
"""The fingerprint of the rms norms that multiply by the weight what they have rounded to the input's type."""


class _Layer(Module):
    can_torch_compile = True
    has_backward = True


def _activation(name: str, function: Callable[[Tensor], Tensor]) -> type[Module]:
    def forward(self: Module, input: Tensor) -> Tensor:
        return function(input)

    return type(name, (_Layer,), {"__module__": __name__, "forward": forward})


class RMSNorm(_Layer):
    """An rms norm, whose result has the type that the module's own forward gives it."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        x, weight = hidden_states, self.weight
        dtype = torch.promote_types(x.dtype, weight.dtype) if _promotes(type(self)) else x.dtype
        return functional.rms_norm_act(x, x.shape[-1], weight, self.variance_epsilon, dtype=dtype)


@torch.compiler.assume_constant_result
def _promotes(kind: type[Module]) -> bool:
    return source(kind) == ("transformers", _LLAMA)


class RMSNormGated(_Layer):
    """norm(x) weight f(gate), where f is silu or sigmoid, as the module's `activation` says."""

    def forward(self: Any, hidden_states: Tensor, gate: Tensor) -> Tensor:
        gates = getattr(self, "activation", None)
        if gates not in _GATES:
            raise ValueError(
                f"nnkernels' RMSNormGated has gates with {', '.join(map(repr, _GATES))}; "
                f"the activation of this {type(self).__name__} is {gates!r}"
            )
        return functional.gated_rms_norm(
            hidden_states, gate, hidden_states.shape[-1], self.weight, self.variance_epsilon, _GATES[gates]
        )


LAYERS: dict[str, type[Module]] = {
    "GeluTanh": _activation("GeluTanh", functional.gelu_tanh),
    "NewGELU": _activation("NewGELU", functional.gelu_tanh),
    "GeLU": _activation("GeLU", functional.gelu),
    "SiLU": _activation("SiLU", functional.silu),
    "FastGELU": _activation("FastGELU", functional.gelu_tanh),
    "QuickGELU": _activation("QuickGELU", functional.gelu_sigmoid),
    "RMSNorm": RMSNorm,
    "RMSNormGated": RMSNormGated,
}
"""The names that transformers looks up, and our layers."""


class _Repository(NamedTuple):
    """What `kernels` asks for a layer, where it would ask a repository on the hub."""

    layer: type[Module]

    def load(self) -> type[Module]:
        return self.layer


class _Before(NamedTuple):
    """A mapping, and what it had for our names: None where it had nothing."""

    mapping: dict[str, Any]
    entries: dict[str, Any]


_replaced: list[_Before] = []


def register() -> dict[str, Any]:
    """Puts our layers behind the names in `LAYERS`, for training, inference and torch.compile, on `DEVICES`.

    `model.use_kernels = True`, `use_kernels=True` of `from_pretrained` and transformers' `kernelize` take them from
    then on, until `unregister`. Other devices keep what transformers has for them. Registering again changes nothing.

    Returns:
        What transformers' default mapping had before, by name.

    Raises:
        ImportError: transformers or the version of `kernels` that it asks for is missing.
        RuntimeError: the environment variable USE_HUB_KERNELS switches the mapping off.

    A layer raises ValueError when it is called for a module whose configured activation is none that it has.

    Source: https://huggingface.co/docs/kernels, layers.

    Example:
        >>> import torch, transformers
        >>> import nnkernels.integrations.transformers as integration
        >>> replaced = integration.register()
        >>> config = transformers.LlamaConfig(
        ...     hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
        ... )
        >>> model = transformers.LlamaForCausalLM(config)
        >>> model.use_kernels = True
        >>> model.model.norm.forward.__func__ is integration.RMSNorm.forward
        True
        >>> integration.unregister()
    """
    hub = _hub()
    from kernels.layer.globals import _KERNEL_MAPPING

    unregister()
    for mapping in (hub.get_kernel_mapping_transformers(), _KERNEL_MAPPING.get()):
        _replaced.append(_Before(mapping, {name: mapping.get(name) for name in LAYERS}))
    defaults, live = _replaced
    for name, layer in LAYERS.items():
        live.mapping.pop(name, None)  # which would keep what it has for other capabilities of a device
        theirs = defaults.entries[name] or {}
        defaults.mapping[name] = {**theirs, **dict.fromkeys(DEVICES, _Repository(layer))}
    hub.register_kernel_mapping({name: defaults.mapping[name] for name in LAYERS})
    return dict(defaults.entries)


def unregister() -> None:
    """Puts back what `register` has replaced.

    A model that has our forwards keeps them, until transformers' `kernelize` is called on it again.
    """
    while _replaced:
        mapping, entries = _replaced.pop()
        for name, entry in entries.items():
            mapping.pop(name, None)
            if entry is not None:
                mapping[name] = entry


def _hub() -> Any:
    """transformers' module of the mapping."""
    try:
        import transformers
        from transformers.integrations import hub_kernels
        from transformers.utils import import_utils
    except ImportError as error:
        raise ImportError(
            "nnkernels.integrations.transformers needs transformers; run: pip install transformers kernels",
            name="transformers",
        ) from error
    if not import_utils.is_kernels_available():
        wanted = f">={import_utils.KERNELS_MIN_VERSION},<{import_utils.KERNELS_MAX_VERSION}"
        raise ImportError(
            f"transformers {transformers.__version__} exchanges layers by kernels{wanted}, which is missing; "
            f"run: pip install 'kernels{wanted}'",
            name="kernels",
        )
    if not hub_kernels._kernels_enabled:
        raise RuntimeError("USE_HUB_KERNELS switches the kernel mapping of transformers off; unset it")
    return hub_kernels
