"""Whole layers: their norms with the sums in front of them, before or behind what is added."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from torch.nn import Module

from ...adapting import Adapted, adapter_of_source, once
from ...modules import norm_for_products, norm_of_sum, sum_for_products


class _Normed(Adapted):
    """A layer with two norms."""

    def takes(self: Any) -> list[Module]:
        return list(self.norms())

    def norms(self: Any) -> tuple[Any, Any]:
        raise NotImplementedError


class _PostNorm(_Normed):
    """A layer with its norms behind, each at once with the sum in front of it; dropouts are the layer's own calls."""

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


class _PreNorm(_Normed):
    """A layer with its norms in front, in the type in which the products behind them multiply; the second one at once
    with the sum before it."""

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
class LlamaDecoderLayer(_PreNorm):
    def norms(self: Any) -> tuple[Any, Any]:
        return self.input_layernorm, self.post_attention_layernorm

    def attended(self: Any, normed: Tensor, **kwargs: Any) -> Tensor:
        return self.self_attn(hidden_states=normed, **kwargs)[0]


@adapter_of_source("transformers.models.clip.modeling_clip.CLIPEncoderLayer", "62e60adf8f71", "590c00aacbf0")
class CLIPEncoderLayer(LlamaDecoderLayer):
    def norms(self: Any) -> tuple[Any, Any]:
        return self.layer_norm1, self.layer_norm2


@adapter_of_source("transformers.models.gpt2.modeling_gpt2.GPT2Block", "823c366502c8", "d099670e6973")
class GPT2Block(_PreNorm):
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
