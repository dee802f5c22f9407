"""Adapters of transformers' activations, norms and gated layers.

Its models are written out one by one, so that one forward stands in many classes: that of Llama's rms norm in more than
140, that of its gated layer in more than 120. One adapter serves them all.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ... import functional
from ...contracts.normalization import summed_dtype
from ...reference.learned import SNAKE_GUARD
from ..adapting import Adapted, Call, adapter_of_source, fingerprint, once, own_class
from ..modules import (
    Named,
    activation,
    activations_of_source,
    multiplies,
    norm_act,
    norm_for_products,
    norm_of,
    norm_of_sum,
    norms_of_source,
    product_type,
    sum_for_products,
    type_with,
)
from .torch import Elsewhere, Mlp, OnRows, rows


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

    def sample_row(self: Any) -> tuple[int, ...]:
        return (1024,)


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


def _rms(
    x: Tensor, named: Named, weight: Tensor, eps: float, offset: float, residual: Any, dtype: Any, addend: Any
) -> Any:
    if addend is not None:
        return functional.add_rms_norm(x, addend, x.shape[-1], weight, eps, dtype=dtype, offset=offset)
    return functional.rms_norm_act(
        x, x.shape[-1], weight, eps, named[0], residual=residual, dtype=dtype, offset=offset, **named[1]
    )


def _llama(norm: Any, x: Tensor, named: Named, residual: Any, dtype: Any, addend: Any = None) -> Any:
    """weight * norm(x).to(type of x), which is of the wider of the two types."""
    dtype = dtype or torch.promote_types(summed_dtype(x, addend), norm.weight.dtype)
    return _rms(x, named, norm.weight, norm.variance_epsilon, 0.0, residual, dtype, addend)


def _in_one(norm: Any, x: Tensor, named: Named, residual: Any, dtype: Any, addend: Any = None) -> Any:
    """(weight * norm(x)).to(type of x)."""
    dtype = dtype or summed_dtype(x, addend)
    return _rms(x, named, norm.weight, norm.variance_epsilon, 0.0, residual, dtype, addend)


def _gemma(norm: Any, x: Tensor, named: Named, residual: Any, dtype: Any, addend: Any = None) -> Any:
    """((1 + weight) * norm(x)).to(type of x)."""
    return _rms(x, named, norm.weight, norm.eps, 1.0, residual, dtype or summed_dtype(x, addend), addend)


@adapter_of_source("transformers.models.llama.modeling_llama.LlamaRMSNorm", "9635bcd843f3")
@adapter_of_source("transformers.models.afmoe.modeling_afmoe.AfmoeRMSNorm", "eef4e978a32a")
class RMSNorm(OnRows):
    """An rms norm in one pass, where the class takes several over float32."""

    def fused(self: Any, hidden_states: Tensor) -> Any:
        return norm_act(self, None, hidden_states)

    def sample_row(self: Any) -> tuple[int, ...]:
        return tuple(self.weight.shape)


@adapter_of_source("transformers.models.gemma.modeling_gemma.GemmaRMSNorm", "2dad5f576075")
class GemmaRMSNorm(RMSNorm):
    def examine(self: Any) -> str:
        return "" if fingerprint(own_class(self), "_norm") == "6dc7d2ba16b4" else "its `_norm` is none that is known"


norms_of_source.update(
    {
        ("transformers", "9635bcd843f3"): _llama,
        ("transformers", "eef4e978a32a"): _in_one,
        ("transformers", "2dad5f576075"): _gemma,
    }
)


@adapter_of_source("transformers.models.llama.modeling_llama.LlamaMLP", "7d2027d4464e")
@adapter_of_source("transformers.models.qwen2_5_omni.modeling_qwen2_5_omni.Qwen2MLP", "0d7b11835db6")
class GatedMLP(OnRows):
    """f(gate) up in one pass each way, of which backward keeps gate and up alone."""

    def takes(self: Any) -> list[Module]:
        return [self.act_fn]

    def fused(self: Any, x: Tensor) -> Any:
        named = activation(self.act_fn)
        if named is None:
            return NotImplemented
        gate, up, down = self.gate_proj, self.up_proj, self.down_proj
        if not multiplies(gate, up, down):
            return down(functional.gated(gate(x), named[0], up=up(x), **named[1]))
        weights = (gate.weight, up.weight, down.weight, gate.bias, up.bias, down.bias)
        return functional.gated_mlp(x, *weights, named[0], **named[1])

    def sample_row(self: Any) -> tuple[int, ...]:
        return (self.gate_proj.in_features,)


@adapter_of_source("transformers.models.glm.modeling_glm.GlmMLP", "e8d404cbecb9")
class PackedMLP(OnRows):
    """The same of gate and up in one matrix: GLM, Phi-3."""

    def takes(self: Any) -> list[Module]:
        return [self.activation_fn]

    def fused(self: Any, hidden_states: Tensor) -> Any:
        named = activation(self.activation_fn)
        if named is None:
            return NotImplemented
        both, down = self.gate_up_proj, self.down_proj
        if not multiplies(both, down):
            return down(functional.gated(both(hidden_states), named[0], **named[1]))
        weights = (both.weight, None, down.weight, both.bias, None, down.bias)
        return functional.gated_mlp(hidden_states, *weights, named[0], **named[1])

    def sample_row(self: Any) -> tuple[int, ...]:
        return (self.gate_up_proj.in_features,)


@adapter_of_source("transformers.models.clip.modeling_clip.CLIPMLP", "13885f42f2bb")
class ClipMLP(Mlp):
    """CLIP's, SigLIP's, ViT's, Phi's."""

    def parts(self: Any) -> tuple[Any, Any, Any]:
        return self.fc1, self.activation_fn, self.fc2


@adapter_of_source("transformers.models.nemotron.modeling_nemotron.NemotronMLP", "81bc4bc569be")
class NemotronMLP(Mlp):
    def parts(self: Any) -> tuple[Any, Any, Any]:
        return self.up_proj, self.act_fn, self.down_proj


@adapter_of_source("transformers.models.gpt_neox.modeling_gpt_neox.GPTNeoXMLP", "07bca05e110a")
class GPTNeoXMLP(Mlp):
    def parts(self: Any) -> tuple[Any, Any, Any]:
        return self.dense_h_to_4h, self.act, self.dense_4h_to_h


@adapter_of_source("transformers.models.bert.modeling_bert.BertIntermediate", "ab3f9454469b")
class BertIntermediate(OnRows):
    """A linear layer with the activation behind it; the second layer is in `BertOutput`."""

    def examine(self: Any) -> str:
        if activation(self.intermediate_act_fn) is None:
            return "its activation is none that is known"
        return "" if multiplies(self.dense) else "its layer is not torch's own linear one without hooks"

    def takes(self: Any) -> list[Module]:
        return [self.intermediate_act_fn]

    def fused(self: Any, hidden_states: Tensor) -> Any:
        named = activation(self.intermediate_act_fn)
        if named is None or not multiplies(self.dense):
            return NotImplemented
        return functional.linear_act(hidden_states, self.dense.weight, self.dense.bias, named[0], **named[1])

    def sample_row(self: Any) -> tuple[int, ...]:
        return (self.dense.in_features,)


def _stream(*shape: int, of: Any) -> Tensor:
    """A sample of what blocks hand on, in the type of a layer's weight, which autocast leaves as it is."""
    return torch.randn(shape, device=of.weight.device, dtype=of.weight.dtype, requires_grad=True)


@adapter_of_source("transformers.models.bert.modeling_bert.BertSelfOutput", "3799d79263d3")
class BertOutput(Adapted):
    """norm(x + dropout(dense(h))), the sum and the norm in one pass each way: BERT's blocks end so, twice each.

    The dropout is the module's own call, and so the random numbers are the same.
    """

    def examine(self: Any) -> str:
        return "" if norm_of(own_class(self.LayerNorm)) else f"its norm is a {type(self.LayerNorm).__name__}"

    def shown(self: Any) -> str:
        return f"{type(self).__name__}({self.dense.in_features}, {self.dense.out_features}, p={self.dropout.p})"

    def takes(self: Any) -> list[Module]:
        return [self.LayerNorm]

    def fused(self: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return norm_of_sum(self.LayerNorm, self.dropout(self.dense(hidden_states)), input_tensor)

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        hidden = rows((self.dense.in_features,), elements, device, dtype)
        return [Call((hidden, _stream(len(hidden), self.dense.out_features, of=self.dense)), {})]


class _PostNorm(Adapted):
    """A layer with its norms behind, each at once with the sum in front of it; dropouts are the layer's own calls."""

    def takes(self: Any) -> list[Module]:
        return list(self.norms())

    def norms(self: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def attended(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError

    def fed(self: Any, x: Tensor) -> Tensor:
        """What the second half adds."""
        raise NotImplementedError

    def fused(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        between, behind = self.norms()
        x = norm_of_sum(between, self.attended(hidden_states, *args, **kwargs), hidden_states)
        return norm_of_sum(behind, self.fed(x), x)


@adapter_of_source("transformers.models.distilbert.modeling_distilbert.TransformerBlock", "557d3ea40ca8")
class DistilBertBlock(_PostNorm):
    def norms(self: Any) -> tuple[Any, Any]:
        return self.sa_layer_norm, self.output_layer_norm

    def attended(self: Any, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        return self.attention(x, attention_mask=attention_mask, **kwargs)[0]

    def fed(self: Any, x: Tensor) -> Tensor:
        return self.ffn(x)


@adapter_of_source("transformers.models.wav2vec2.modeling_wav2vec2.Wav2Vec2EncoderLayer", "fad4845ae9cd")
class Wav2Vec2EncoderLayer(_PostNorm):
    def norms(self: Any) -> tuple[Any, Any]:
        return self.layer_norm, self.final_layer_norm

    def attended(self: Any, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        return self.dropout(self.attention(x, attention_mask=attention_mask, **kwargs)[0])

    def fed(self: Any, x: Tensor) -> Tensor:
        return self.feed_forward(x)


@adapter_of_source("transformers.models.bert.modeling_bert.BertSelfAttention", "cd1f843c2190", "4d9cb73ac046")
class BertSelfAttention(Adapted):
    """Its input is cast once for query, key and value, where autocast casts it for each, and each gradient back."""

    def shown(self: Any) -> str:
        return f"{type(self).__name__}({self.query.in_features})"

    def fused(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        narrow = product_type(hidden_states.device, hidden_states.dtype)
        given = hidden_states if narrow is None else hidden_states.to(narrow)
        return self.adapted_from.forward(self, given, *args, **kwargs)

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        width, length = self.query.in_features, 128
        return [Call((_stream(max(1, elements // (width * length)), length, width, of=self.query),), {})]


class _Layer(Adapted):
    """A layer with its norms in front, in the type in which the products behind them multiply; the second one at once
    with the sum before it."""

    def takes(self: Any) -> list[Module]:
        return list(self.norms())

    def norms(self: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def fused(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        names = _parameters(self.adapted_from)
        if _OLD_NAME in kwargs and _OLD_NAME not in names:
            return NotImplemented
        kwargs.update(zip(names, args, strict=False))
        before, between = self.norms()
        attended = self.attended(norm_for_products(before, hidden_states), **kwargs)
        normed, hidden_states = sum_for_products(between, attended, hidden_states)
        return hidden_states + self.mlp(normed)


_OLD_NAME = "past_key_values"
"""A decorator of the original forward gives it another name, in versions that do without it."""


@once
def _parameters(kind: type[Any]) -> tuple[str, ...]:
    """The names of a layer's arguments behind the first."""
    return tuple(inspect.signature(kind.forward).parameters)[2:]


@adapter_of_source("transformers.models.llama.modeling_llama.LlamaDecoderLayer", "625e5c2cd738", "1a8125909341")
class LlamaDecoderLayer(_Layer):
    def norms(self: Any) -> tuple[Any, Any]:
        return self.input_layernorm, self.post_attention_layernorm

    def attended(self: Any, normed: Tensor, **kwargs: Any) -> Tensor:
        return self.self_attn(hidden_states=normed, **kwargs)[0]


@adapter_of_source("transformers.models.clip.modeling_clip.CLIPEncoderLayer", "62e60adf8f71", "590c00aacbf0")
class CLIPEncoderLayer(LlamaDecoderLayer):
    def norms(self: Any) -> tuple[Any, Any]:
        return self.layer_norm1, self.layer_norm2


@adapter_of_source("transformers.models.gpt2.modeling_gpt2.GPT2Block", "823c366502c8", "d099670e6973")
class GPT2Block(_Layer):
    def norms(self: Any) -> tuple[Any, Any]:
        return self.ln_1, self.ln_2

    def fused(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        names = _parameters(self.adapted_from)
        kwargs.update(zip(names, args, strict=False))
        if kwargs.pop("encoder_hidden_states", None) is not None:
            return NotImplemented
        kwargs.pop("encoder_attention_mask", None)
        return super().fused(hidden_states, **kwargs)

    def attended(self: Any, normed: Tensor, **kwargs: Any) -> Tensor:
        return self.attn(normed, **kwargs)[0]
