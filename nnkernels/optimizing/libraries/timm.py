"""Adapters of timm's layers and blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ... import functional
from ...hooks import is_plain
from ..adapting import Adapted, Call, adapter_of_source, own_class
from ..modules import (
    Named,
    activation,
    activations_of_source,
    applied,
    drops_nothing,
    layer,
    norm_for_products,
    norm_then_act,
    normalizes,
    norms,
    norms_of_source,
    sum_for_products,
    type_with,
    unknown,
)
from .torch import Elsewhere, GatedMlp, Mlp, OnImages, OnNormInput, OnRows, image_layer_norm, rows

_ACTIVATIONS: dict[str, tuple[str, Named]] = {
    "Swish": ("c17332e51d39", ("silu", {})),
    "Mish": ("4d6d9ff8f696", ("mish", {})),
    "Sigmoid": ("b75737b93d65", ("sigmoid", {})),
    "Tanh": ("c7eeace7f7fc", ("tanh", {})),
    "HardSwish": ("79f08a43b40d", ("hardswish", {})),
    "HardSigmoid": ("22cdd93df41d", ("hardsigmoid", {})),
    "GELU": ("842e096e5792", ("gelu", {})),
    "GELUTanh": ("a203310f440a", ("gelu_tanh", {})),
    "QuickGELU": ("92d52dc20c71", ("gelu_sigmoid", {})),
}

for _name, (_fingerprint, _named) in _ACTIVATIONS.items():
    adapter_of_source(f"timm.layers.activations.{_name}", _fingerprint)(Elsewhere)
    activations_of_source["timm", _fingerprint] = lambda module, named=_named: named  # type: ignore[misc]


@adapter_of_source("timm.models.metaformer.StarReLU", "464c9da08877")
class StarReLU(OnRows):
    """A squared ReLU with a learned scale and bias."""

    def fused(self: Any, x: Tensor) -> Any:
        dtype = type_with(self.scale, x)
        return NotImplemented if dtype is None else functional.starrelu(x.to(dtype), self.scale, self.bias)


@adapter_of_source("timm.layers.norm_act.BatchNormAct2d", "81f3f8b6b04a")
@adapter_of_source("timm.layers.norm_act.GroupNormAct", "6cbfa0e71705")
@adapter_of_source("timm.layers.norm_act.LayerNormAct", "8118ce537f8e")
class NormAct(OnNormInput):
    """A norm with an activation inside."""

    def examine(self: Any) -> str:
        if activation(self.act) is None:
            return f"its activation is a {type(self.act).__name__}"
        return "" if normalizes(self) else "ours takes no such eps"

    def shown(self: Any) -> str:
        return f"{type(self).__name__}({self.extra_repr()}) + {self.act}"

    def takes(self: Any) -> list[Module]:
        return [self.act]

    def fused(self: Any, x: Tensor) -> Any:
        return _norm_act(self, x)


def _norm_act(norm: Any, x: Tensor, residual: Tensor | None = None) -> Any:
    """What one of timm's norms with an activation inside makes; the residual is added last."""
    named = activation(norm.act) if drops_nothing(norm.drop) and not getattr(norm, "_fast_norm", False) else None
    if named is None or (residual is not None and named[0] != "identity"):
        return NotImplemented
    apply = next(apply for kind, apply in norms.items() if isinstance(norm, kind))
    return applied(apply, norm, x, named, residual)


def _layer_norm(norm: Any, x: Tensor, *others: Any) -> Any:
    return NotImplemented if norm._fast_norm else layer(norm, x, *others)


_LAYER_NORM = "23d63967920a"
norms_of_source["timm", _LAYER_NORM] = _layer_norm


class _LayerNorm(Adapted):
    def examine(self: Any) -> str:
        return "it computes by timm's fast norm" if self._fast_norm else ""


@adapter_of_source("timm.layers.norm.LayerNorm", _LAYER_NORM)
class LayerNorm(_LayerNorm, OnNormInput):
    def fused(self: Any, x: Tensor) -> Any:
        return applied(_layer_norm, self, x)


@adapter_of_source("timm.layers.norm.LayerNorm2d", "9c58bcbc9f92")
class LayerNorm2d(_LayerNorm, OnImages):
    def fused(self: Any, x: Tensor) -> Any:
        return NotImplemented if self._fast_norm else image_layer_norm(self, x)

    def sample_channels(self: Any) -> int:
        return self.normalized_shape[0]


@adapter_of_source("timm.layers.norm.RmsNorm2d", "c7879d78ed77")
class RmsNorm2d(OnImages):
    """The channels' rms norm, which the class composes of operations."""

    def examine(self: Any) -> str:
        if self._fast_norm:
            return "it computes by timm's fast norm"
        return "" if self.eps >= 0 else "ours takes no such eps"

    def fused(self: Any, x: Tensor) -> Any:
        dtype = type_with(x if self.weight is None else self.weight, x)
        if self._fast_norm or dtype not in (x.dtype, torch.float32) or x.dim() != 4:
            return NotImplemented
        return functional.rms_norm_act(x, self.normalized_shape, self.weight, self.eps, dtype=dtype, dim=1)

    def sample_channels(self: Any) -> int:
        return self.normalized_shape[0]


class _SqueezeExcite(OnImages):
    """x f(gate), one gate for each channel of each image, with one pass over the data in backward."""

    def takes(self: Any) -> list[Module]:
        return [self.gate]

    def examine(self: Any) -> str:
        return unknown(self.gate)

    def fused(self: Any, x: Tensor) -> Any:
        named = activation(self.gate)
        if named is None or getattr(self, "add_maxpool", False):
            return NotImplemented
        return functional.scale_act(x, self.squeezed(x.mean((2, 3), keepdim=True)), named[0], **named[1])


@adapter_of_source("timm.models._efficientnet_blocks.SqueezeExcite", "561386d7de2d")
class SqueezeExcite(_SqueezeExcite):
    def squeezed(self: Any, mean: Tensor) -> Tensor:
        return self.conv_expand(self.act1(self.conv_reduce(mean)))

    def sample_channels(self: Any) -> int:
        return self.conv_reduce.in_channels


@adapter_of_source("timm.layers.squeeze_excite.SEModule", "d90ef3781784")
class SEModule(_SqueezeExcite):
    def squeezed(self: Any, mean: Tensor) -> Tensor:
        return self.fc2(self.act(self.bn(self.fc1(mean))))

    def sample_channels(self: Any) -> int:
        return self.fc1.in_channels


@adapter_of_source("timm.layers.squeeze_excite.EffectiveSEModule", "fc092ba04cb8")
class EffectiveSEModule(_SqueezeExcite):
    def squeezed(self: Any, mean: Tensor) -> Tensor:
        return self.fc(mean)

    def sample_channels(self: Any) -> int:
        return self.fc.in_channels


@adapter_of_source("timm.layers.mlp.Mlp", "f2fe57510e1e")
class TimmMlp(Mlp):
    """Without a norm in it, and where nothing is dropped before the second layer."""

    def parts(self: Any) -> tuple[Any, Any, Any]:
        return self.fc1, self.act, self.fc2

    def examine(self: Any) -> str:
        return Mlp.examine(self) or ("" if drops_nothing(self.drop1, self.norm) else "it drops or normalizes inside")

    def fused(self: Any, x: Tensor) -> Any:
        made = Mlp.fused(self, x) if drops_nothing(self.drop1, self.norm) else NotImplemented
        return made if made is NotImplemented else self.drop2(made)


@adapter_of_source("timm.layers.mlp.GluMlp", "92cc1995c5be")
class GluMlp(Adapted):
    def examine(self: Any) -> str:
        return unknown(self.act)

    def takes(self: Any) -> list[Module]:
        return [self.act]

    def fused(self: Any, x: Tensor) -> Any:
        named = activation(self.act)
        if named is None:
            return NotImplemented
        x = functional.gated(self.fc1(x), named[0], self.chunk_dim, gate_first=not self.gate_last, **named[1])
        return self.drop2(self.fc2(self.norm(self.drop1(x))))

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call] | None:
        if self.chunk_dim == 1:
            return None
        return [Call((rows((self.fc1.in_features,), elements, device, dtype),), {})]


@adapter_of_source("timm.layers.mlp.SwiGLU", "4a93c431dbbd")
class SwiGLU(GatedMlp):
    def parts(self: Any) -> tuple[Any, Any, Any, Any]:
        return self.fc1_g, self.fc1_x, self.act, self.fc2

    def between(self: Any) -> list[Module]:
        return [self.drop1, self.norm]

    def fused(self: Any, x: Tensor) -> Any:
        made = GatedMlp.fused(self, x)
        return made if made is NotImplemented else self.drop2(made)


class _Residual(OnImages):
    """A block of a ResNet: norms with the activation behind them, the last one with the shortcut too."""

    def takes(self: Any) -> list[Module]:
        return [module for name, module in self.named_children() if name.startswith(("bn", "act"))]

    def fused(self: Any, x: Tensor) -> Any:
        if self.drop_path is not None and not drops_nothing(self.drop_path):
            return NotImplemented
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.inner(x)
        norm, act = self.last()
        if self.se is None:
            return norm_then_act(norm, act, x, shortcut)
        return act(self.se(norm(x)) + shortcut)

    def sample_channels(self: Any) -> int:
        return self.conv1.in_channels


@adapter_of_source("timm.models.resnet.BasicBlock", "459b888dd004")
class BasicBlock(_Residual):
    def inner(self: Any, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if drops_nothing(self.drop_block):
            x = norm_then_act(self.bn1, self.act1, x)
        else:
            x = self.act1(self.drop_block(self.bn1(x)))
        return self.conv2(self.aa(x))

    def last(self: Any) -> tuple[Any, Any]:
        return self.bn2, self.act2


@adapter_of_source("timm.models.resnet.Bottleneck", "58c1c81d9c8b")
class Bottleneck(_Residual):
    def inner(self: Any, x: Tensor) -> Tensor:
        x = self.conv2(norm_then_act(self.bn1, self.act1, self.conv1(x)))
        if drops_nothing(self.drop_block):
            x = norm_then_act(self.bn2, self.act2, x)
        else:
            x = self.act2(self.drop_block(self.bn2(x)))
        return self.conv3(self.aa(x))

    def last(self: Any) -> tuple[Any, Any]:
        return self.bn3, self.act3


class _Inverted(OnImages):
    """A block of an EfficientNet: the last norm and the shortcut at once."""

    def takes(self: Any) -> list[Module]:
        return [self.last()]

    def examine(self: Any) -> str | None:
        return "" if self.has_skip else None

    def fused(self: Any, x: Tensor) -> Any:
        if not self.has_skip or not drops_nothing(self.drop_path) or getattr(self, "conv_s2d", None) is not None:
            return NotImplemented
        shortcut = x
        norm = self.last()
        x = self.inner(x)
        made = _norm_act(norm, x, shortcut) if isinstance(norm, torch.nn.BatchNorm2d) and hasattr(norm, "act") else None
        return norm(x) + shortcut if made is None or made is NotImplemented else made


@adapter_of_source("timm.models._efficientnet_blocks.InvertedResidual", "13224c704521")
class InvertedResidual(_Inverted):
    def inner(self: Any, x: Tensor) -> Tensor:
        x = self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))
        return self.conv_pwl(self.se(self.aa(x)))

    def last(self: Any) -> Any:
        return self.bn3

    def sample_channels(self: Any) -> int:
        return self.conv_pw.in_channels


@adapter_of_source("timm.models._efficientnet_blocks.EdgeResidual", "388cc0472119")
class EdgeResidual(_Inverted):
    def inner(self: Any, x: Tensor) -> Tensor:
        return self.conv_pwl(self.se(self.aa(self.bn1(self.conv_exp(x)))))

    def last(self: Any) -> Any:
        return self.bn2

    def sample_channels(self: Any) -> int:
        return self.conv_exp.in_channels


@adapter_of_source("timm.models.convnext.ConvNeXtBlock", "14d5e4f75103")
class ConvNeXtBlock(OnImages):
    """The norm in the type that the products compute in, the layer's scale and the shortcut at once."""

    def takes(self: Any) -> list[Module]:
        return [self.norm]

    def fused(self: Any, x: Tensor) -> Any:
        if self.use_conv_mlp or self.gamma is None or not drops_nothing(self.drop_path):
            return NotImplemented
        shortcut = self.shortcut(x).permute(0, 2, 3, 1)
        x = self.mlp(norm_for_products(self.norm, self.conv_dw(x).permute(0, 2, 3, 1)))
        return functional.scale_act(x, self.gamma, residual=shortcut).permute(0, 3, 1, 2)

    def sample_channels(self: Any) -> int:
        return self.conv_dw.in_channels


@adapter_of_source("timm.models.vision_transformer.Block", "960fb0bc61f3", "e3f728d46f33")
class Block(Adapted):
    """Norms in the type in which the products behind them multiply, the layer's scale and the shortcut at once, or the
    shortcut and the norm behind it."""

    def takes(self: Any) -> list[Module]:
        return [self.norm1, self.norm2]

    def fused(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args:
            return NotImplemented
        branch = self.attn(norm_for_products(self.norm1, x), **kwargs)
        if drops_nothing(self.ls1) and drops_nothing(self.drop_path1):
            normed, x = sum_for_products(self.norm2, branch, x)
        else:
            x = _added(x, branch, self.ls1, self.drop_path1)
            normed = norm_for_products(self.norm2, x)
        return _added(x, self.mlp(normed), self.ls2, self.drop_path2)

    def samples(self: Any, elements: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        width = self.norm1.normalized_shape[-1]
        return [Call((rows((196, width), elements, device, dtype),), {})]


def _added(x: Tensor, branch: Tensor, scale: Any, drop_path: Module) -> Tensor:
    """x + drop_path(scale(branch))."""
    if own_class(scale).__name__ == "LayerScale" and not scale.inplace and is_plain(scale) and drops_nothing(drop_path):
        return functional.scale_act(branch, scale.gamma, residual=x)
    return x + drop_path(scale(branch))
