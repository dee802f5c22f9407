"""What BERT and its many descendants are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .... import functional
from ....autograd.context import is_plain_call
from ....hooks import is_plain
from ...adapting import Adapted, Call, adapter_of_source, fingerprint, own_class, source
from ...modules import activation, multiplies, norm_function, norm_of_sum, product_type, suit, unknown
from ..torch import OnRows, rows, width


def _stream(*shape: int, of: Any) -> Tensor:
    """A sample of what blocks hand on, in the type of a layer's weight, which autocast leaves as it is."""
    return torch.randn(shape, device=of.weight.device, dtype=of.weight.dtype, requires_grad=True)


def _sequences(elements: int, layer: Any) -> Call:
    """A call with sequences of 128, for what begins with that linear layer."""
    length, size = 128, layer.in_features
    return Call((_stream(max(1, elements // (length * size)), length, size, of=layer),), {})


def _p(dropout: Module) -> Any:
    return getattr(dropout, "p", type(dropout).__name__)


_OUTPUT, _INTERMEDIATE, _FED = "3799d79263d3", "ab3f9454469b", "d935db5223a7"
"""Fingerprints of what a layer's feed-forward half is made of, and of how it calls them."""


@adapter_of_source("transformers.models.bert.modeling_bert.BertSelfOutput", _OUTPUT)
class BertOutput(Adapted):
    """norm(x + dropout(dense(h))), the sum and the norm in one pass each way: BERT's blocks end so, twice each.

    The dropout is the module's own call, and so the random numbers are the same.
    """

    def examine(self: Any) -> str:
        return "" if norm_function(own_class(self.LayerNorm)) else f"its norm is a {type(self.LayerNorm).__name__}"

    def shown(self: Any) -> str:
        return f"{type(self).__name__}({width(self.dense)}, {width(self.dense, 'out_features')}, p={_p(self.dropout)})"

    def takes(self: Any) -> list[Module]:
        return [self.LayerNorm]

    def fused(self: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return norm_of_sum(self.LayerNorm, self.dropout(self.dense(hidden_states)), input_tensor)

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        hidden = rows((self.dense.in_features,), elements, device, dtype)
        return [Call((hidden, _stream(len(hidden), self.dense.out_features, of=self.dense)), {})]


@adapter_of_source("transformers.models.bert.modeling_bert.BertSelfAttention", "cd1f843c2190", "4d9cb73ac046")
class BertSelfAttention(Adapted):
    """Its input is cast once for query, key and value, where autocast casts it for each, and each gradient back."""

    def shown(self: Any) -> str:
        return f"{type(self).__name__}({width(self.query)})"

    def fused(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        narrow = product_type(hidden_states.device, hidden_states.dtype)
        given = hidden_states if narrow is None else hidden_states.to(narrow)
        return self.adapted_from.forward(self, given, *args, **kwargs)

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        return [_sequences(elements, self.query)]


@adapter_of_source("transformers.models.bert.modeling_bert.BertIntermediate", _INTERMEDIATE)
class BertIntermediate(OnRows):
    """A linear layer with the activation behind it; the second layer is in `BertOutput`."""

    def examine(self: Any) -> str:
        return unknown(self.intermediate_act_fn, self.dense)

    def shown(self: Any) -> str:
        sizes = f"{width(self.dense)}, {width(self.dense, 'out_features')}"
        return f"{type(self).__name__}({sizes}, {self.intermediate_act_fn})"

    def takes(self: Any) -> list[Module]:
        return [self.intermediate_act_fn]

    def fused(self: Any, hidden_states: Tensor) -> Any:
        named = activation(self.intermediate_act_fn)
        if named is None or not multiplies(self.dense) or not suit(hidden_states, self.dense):
            return NotImplemented
        return functional.linear_act(hidden_states, self.dense.weight, self.dense.bias, named[0], **named[1])

    def sample_row(self: Any) -> tuple[int, ...]:
        return (self.dense.in_features,)


@adapter_of_source("transformers.models.bert.modeling_bert.BertLayer", "4a5c4668c709", "93264fef99b8")
class BertLayer(Adapted):
    """The feed-forward half of a layer at once, of which backward keeps one hidden tensor; the rest as it is."""

    def examine(self: Any) -> str:
        if fingerprint(own_class(self), "feed_forward_chunk") == _FED and self._act() is not None:
            return ""
        return "its feed-forward half is not what it is in BERT: other classes, another activation, hooks or weights"

    def shown(self: Any) -> str:
        first = getattr(self.intermediate, "dense", self.intermediate)
        return f"{type(self).__name__}({width(first)}, p={_p(getattr(self.output, 'dropout', self.output))})"

    def takes(self: Any) -> list[Module]:
        if self._act() is None:
            return []
        return [self.intermediate, self.intermediate.intermediate_act_fn, self.output, self.output.LayerNorm]

    def fused(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.adapted_from.forward(self, *args, **kwargs)  # which calls the method below

    def feed_forward_chunk(self: Any, attention_output: Tensor) -> Any:
        known = None
        plain = not torch.compiler.is_compiling() and is_plain_call(attention_output)
        if plain and not self.leaves_call(attention_output):
            known = self._act()
        if known is None or not suit(attention_output, self.intermediate.dense, self.output.dense):
            return self.adapted_from.feed_forward_chunk(self, attention_output)
        first, last = self.intermediate.dense, self.output.dense
        made = functional.mlp(attention_output, first.weight, first.bias, last.weight, last.bias, known[0], **known[1])
        return norm_of_sum(self.output.LayerNorm, self.output.dropout(made), attention_output)

    def _act(self: Any) -> Any:
        """The activation, if it and all that stands around it may be read in place of being called."""
        for half, known in ((self.intermediate, _INTERMEDIATE), (self.output, _OUTPUT)):
            if not is_plain(half) or source(own_class(half)) != ("transformers", known) or not multiplies(half.dense):
                return None
        return activation(self.intermediate.intermediate_act_fn)

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        return [_sequences(elements, self.intermediate.dense)]
