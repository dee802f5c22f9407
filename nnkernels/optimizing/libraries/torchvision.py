"""Adapters of torchvision's blocks: residual networks, squeeze and excitation, layer norm of images."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import Module

from ... import functional
from ..adapting import adapter_of_source
from ..modules import activation, norm_then_act, unknown
from .torch import OnImages, image_layer_norm


class _Residual(OnImages):
    """A block of a ResNet: norms with the relu behind them, the last one with the shortcut too."""

    def takes(self: Any) -> list[Module]:
        return [self.relu, *(norm for _, norm in self.layers())]

    def fused(self: Any, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        *first, last = self.layers()
        for conv, norm in first:
            x = norm_then_act(norm, self.relu, conv(x))
        conv, norm = last
        return norm_then_act(norm, self.relu, conv(x), identity)

    def sample_channels(self: Any) -> int:
        return self.conv1.in_channels


@adapter_of_source("torchvision.models.resnet.BasicBlock", "e469bbb0e395")
class BasicBlock(_Residual):
    def layers(self: Any) -> tuple[Any, ...]:
        return (self.conv1, self.bn1), (self.conv2, self.bn2)


@adapter_of_source("torchvision.models.resnet.Bottleneck", "ff89db889084")
class Bottleneck(_Residual):
    def layers(self: Any) -> tuple[Any, ...]:
        return (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)


@adapter_of_source("torchvision.ops.misc.SqueezeExcitation", "1b28601f1a83")
class SqueezeExcitation(OnImages):
    """x f(gate), one gate for each channel of each image, with one pass over the data in backward."""

    def takes(self: Any) -> list[Module]:
        return [self.scale_activation]

    def examine(self: Any) -> str:
        return unknown(self.scale_activation)

    def fused(self: Any, input: Tensor) -> Any:
        named = activation(self.scale_activation)
        if named is None:
            return NotImplemented
        gate = self.fc2(self.activation(self.fc1(self.avgpool(input))))
        return functional.scale_act(input, gate, named[0], **named[1])

    def sample_channels(self: Any) -> int:
        return self.fc1.in_channels


@adapter_of_source("torchvision.models.convnext.LayerNorm2d", "53d6777bbfa2")
class LayerNorm2d(OnImages):
    def fused(self: Any, x: Tensor) -> Any:
        return image_layer_norm(self, x)

    def sample_channels(self: Any) -> int:
        return self.normalized_shape[0]


@adapter_of_source("torchvision.models.convnext.CNBlock", "abfa8a6bb84d")
class CNBlock(OnImages):
    """The layer's scale and the shortcut at once."""

    def fused(self: Any, input: Tensor) -> Any:
        if self.training and self.stochastic_depth.p > 0:
            return NotImplemented
        return functional.scale_act(self.block(input), self.layer_scale, residual=input)

    def sample_channels(self: Any) -> int:
        return self.layer_scale.shape[0]
