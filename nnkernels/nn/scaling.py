"""The product with a learned factor for each channel, as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional

__all__ = ["LayerScale"]


class LayerScale(torch.nn.Module):
    """input gamma + residual in one pass: the end of a residual branch, which starts close to nothing.

    Its state dict is that of timm's LayerScale.

    Args:
        dim: the number of channels.
        init_values: where gamma starts.
        channel_dim: the channels' dimension, -1 in a transformer, 1 behind a convolution.
        device, dtype: of gamma.

    Shape: input and output alike, `dim` in dimension `channel_dim`. The optional `residual` of `forward` broadcasts.
    The output's type is the one that torch gives to input * gamma + residual.

    Raises:
        ValueError: gamma or the residual do not broadcast to the input.
        IndexError: the input has no dimension `channel_dim`.

    Source: Touvron et al. 2021, Going deeper with Image Transformers.

    Example:
        >>> import torch
        >>> LayerScale(2, init_values=0.5)(torch.tensor([[2.0, 4.0]]), residual=torch.ones(1, 2)).detach()
        tensor([[2., 3.]])
    """

    def __init__(
        self,
        dim: int,
        init_values: float = 1e-5,
        *,
        channel_dim: int = -1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.init_values, self.channel_dim = init_values, channel_dim
        self.gamma = torch.nn.Parameter(torch.full((dim,), init_values, device=device, dtype=dtype))

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        following = -1 - self.channel_dim if self.channel_dim < 0 else input.dim() - 1 - self.channel_dim
        if not 0 <= following < input.dim():
            raise IndexError(
                f"LayerScale(): channel_dim={self.channel_dim} is out of range for an input of shape "
                f"{tuple(input.shape)}"
            )
        return functional.scale_act(input, self.gamma.view(-1, *[1] * following), residual=residual)

    def extra_repr(self) -> str:
        shown = f"{self.gamma.numel()}, init_values={self.init_values}"
        return shown if self.channel_dim == -1 else f"{shown}, channel_dim={self.channel_dim}"
