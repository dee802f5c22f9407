"""Layer and rms norm over the channels of images that lie one channel behind the other, as ConvNeXt's and SAM's do.

Eager permutes the channels to the end, which makes torch copy, normalises and permutes back.
"""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def _inputs(norm: str, shape: tuple[int, ...]):
    def make(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(shape, device=device, dtype=dtype, generator=generator)
        parameters = [torch.ones(shape[1], device=device, dtype=dtype)]
        parameters += [torch.zeros(shape[1], device=device, dtype=dtype)] if norm == "layer_norm" else []
        return tuple(tensor.requires_grad_() for tensor in (x, *parameters))

    return make


def _ours(norm: str, activation: str):
    function = getattr(F, f"{norm}_act")
    return lambda x, *parameters: function(x, x.shape[1], *parameters, eps=1e-6, activation=activation, dim=1)


def _eager(norm: str, activation: str):
    function = getattr(torch.nn.functional, norm)

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        y = function(x.permute(0, 2, 3, 1), x.shape[1:2], *parameters, eps=1e-6).permute(0, 3, 1, 2)
        return y if activation == "identity" else getattr(torch.nn.functional, activation)(y)

    return call


def _case(norm: str, activation: str, *shape: int) -> Case:
    parts = [norm, "channels", *([] if activation == "identity" else [activation])]
    return Case(
        f"{'-'.join(parts)}-{'x'.join(map(str, shape))}",
        _inputs(norm, shape),
        _ours(norm, activation),
        _eager(norm, activation),
        lambda x, *parameters: 2 * x.numel() * x.element_size(),
        lambda x, *parameters: 3 * x.numel() * x.element_size(),
    )


CASES = [
    *(
        _case(norm, "identity", *shape)
        for norm in ("layer_norm", "rms_norm")
        for shape in ((32, 256, 56, 56), (64, 96, 56, 56), (32, 768, 14, 14), (32, 768, 32, 32))
    ),
    _case("layer_norm", "gelu", 32, 256, 56, 56),
]
