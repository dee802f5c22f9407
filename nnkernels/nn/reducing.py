"""softmax and its kin as modules."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import reducing as functional

__all__ = ["LogSoftmax", "Softmax", "Softmax2d", "Softmin"]

_STACKLEVEL = 5  # from the warning to the caller of the module, as in torch


class Softmax(torch.nn.Softmax):
    """exp(x_i) / sum_j exp(x_j) along `dim`.

    Args:
        dim: the dimension along which the results sum to 1.

    Shape: input and output alike, any shape. Source: Bridle 1990.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Softmax(dim=-1)(torch.zeros(2, 4))[0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.softmax(input, self.dim, _stacklevel=_STACKLEVEL)


class LogSoftmax(torch.nn.LogSoftmax):
    """x_i - log(sum_j exp(x_j)) along `dim`.

    Args:
        dim: the dimension along which the exponentials of the results sum to 1.

    Shape: input and output alike, any shape. Source: Bridle 1990.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.LogSoftmax(dim=-1)(torch.tensor([0.0, 100.0]))
        tensor([-1.0000e+02, -3.7835e-44])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.log_softmax(input, self.dim, _stacklevel=_STACKLEVEL)


class Softmin(torch.nn.Softmin):
    """exp(-x_i) / sum_j exp(-x_j) along `dim`.

    Args:
        dim: the dimension along which the results sum to 1.

    Shape: input and output alike, any shape. Source: Bridle 1990.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Softmin(dim=0)(torch.tensor([1.0, 1.0]))
        tensor([0.5000, 0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.softmin(input, self.dim, _stacklevel=_STACKLEVEL)


class Softmax2d(torch.nn.Softmax2d):
    """The softmax over the channels of an image, at each of its points.

    Shape: input and output alike, (N, C, H, W) or (C, H, W). Source: Bridle 1990.

    Raises:
        ValueError: the input has neither three nor four dimensions.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Softmax2d()(torch.zeros(1, 2, 1, 1)).flatten()
        tensor([0.5000, 0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            raise ValueError(
                f"Softmax2d: expected (N, C, H, W) or (C, H, W), got an input of shape {tuple(input.shape)}"
            )
        return functional.softmax(input, -3, _stacklevel=_STACKLEVEL)
