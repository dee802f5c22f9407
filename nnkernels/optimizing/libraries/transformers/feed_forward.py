"""Feed-forward blocks: two linear layers with an activation between them, and gated ones of three."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import Module

from .... import functional
from ...adapting import adapter_of_source
from ...modules import activation, multiplies
from ..torch import Mlp, OnRows


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
