"""Adapters of diffusers' residual blocks and gated layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ... import functional
from ..adapting import Adapted, Call, adapter_of_source
from ..modules import activation, norm_then_act, unknown
from .torch import OnRows, channelled


@adapter_of_source("diffusers.models.resnet.ResnetBlock2D", "bf042f9657f3")
class ResnetBlock2D(Adapted):
    """Both norms with the nonlinearity behind them."""

    def takes(self: Any) -> list[Module]:
        return [self.norm1, self.norm2, self.nonlinearity]

    def fused(self: Any, input_tensor: Tensor, temb: Tensor | None) -> Any:
        if self.time_embedding_norm != "default" or self.upsample is not None or self.downsample is not None:
            return NotImplemented
        x = self.conv1(norm_then_act(self.norm1, self.nonlinearity, input_tensor))
        if self.time_emb_proj is not None:
            temb = temb if self.skip_time_act else self.nonlinearity(temb)
            temb = self.time_emb_proj(temb)[:, :, None, None]
        x = norm_then_act(self.norm2, self.nonlinearity, x if temb is None else x + temb)
        x = self.conv2(self.dropout(x))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor.contiguous() if self.training else input_tensor)
        return (input_tensor + x) / self.output_scale_factor

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call] | None:
        x = channelled(self, self.in_channels, elements, device, dtype)
        if self.time_emb_proj is None:
            return [Call((x, None), {})]
        temb = torch.randn(x.shape[0], self.time_emb_proj.in_features, device=device, dtype=dtype, requires_grad=True)
        return [Call((x, temb), {})]


class _Gated(OnRows):
    """up f(gate) of a linear layer whose output is [up, gate]."""

    def named(self: Any) -> Any:
        raise NotImplementedError

    def fused(self: Any, hidden_states: Tensor) -> Any:
        named = self.named()
        if named is None:
            return NotImplemented
        return functional.gated(self.proj(hidden_states), named[0], gate_first=False, **named[1])

    def sample_row(self: Any) -> tuple[int, ...]:
        return (self.proj.in_features,)


@adapter_of_source("diffusers.models.activations.GEGLU", "1b45d69ee95e")
class GEGLU(_Gated):
    def named(self: Any) -> Any:
        return "gelu", {}


@adapter_of_source("diffusers.models.activations.SwiGLU", "ee4b8d29c2f2")
class SwiGLU(_Gated):
    def examine(self: Any) -> str:
        return unknown(self.activation)

    def named(self: Any) -> Any:
        return activation(self.activation)


@adapter_of_source("diffusers.models.activations.GELU", "991bb57833ef")
class GELU(OnRows):
    """The activation behind a linear layer."""

    def fused(self: Any, hidden_states: Tensor) -> Any:
        return functional.gelu(self.proj(hidden_states), approximate=self.approximate)

    def sample_row(self: Any) -> tuple[int, ...]:
        return (self.proj.in_features,)
