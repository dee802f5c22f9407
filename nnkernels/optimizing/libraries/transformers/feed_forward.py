"""Feed-forward blocks: two linear layers with an activation between them, and gated ones of three."""

from __future__ import annotations

from typing import Any

from ...adapting import adapter_of_source
from ..torch import GatedMlp, Mlp


@adapter_of_source("transformers.models.llama.modeling_llama.LlamaMLP", "7d2027d4464e")
@adapter_of_source("transformers.models.qwen2_5_omni.modeling_qwen2_5_omni.Qwen2MLP", "0d7b11835db6")
class LlamaMLP(GatedMlp):
    def parts(self: Any) -> tuple[Any, Any, Any, Any]:
        return self.gate_proj, self.up_proj, self.act_fn, self.down_proj


@adapter_of_source("transformers.models.glm.modeling_glm.GlmMLP", "e8d404cbecb9")
class GlmMLP(GatedMlp):
    """GLM's, Phi-3's: gate and up in one matrix."""

    def parts(self: Any) -> tuple[Any, Any, Any, Any]:
        return self.gate_up_proj, None, self.activation_fn, self.down_proj


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
