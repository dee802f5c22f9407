"""Layer and rms norm over a dimension behind which others lie in memory, as the channels of images, and its kernels.

`contracts/normalization.py` says what a norm is and in which type its statistics are kept. Here what is normalised
together lies apart, and what lies side by side is normalised each by itself. Kernels take tensors of three dimensions,
(samples, channels, positions): all in front of the channels, the channels, all behind them. Positions are adjacent;
samples and channels may lie any distance apart. What kernels make is contiguous.

The gradients, g being that of n (weight + offset), n the normalised x, h = g (weight + offset), means over channels:

    for x       (h - n mean(h n) - mean(h)) / deviation, without its last term unless centred
    for weight  the sum of g n over samples and positions, and for bias that of g
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from .normalization import Norm


class Kernels(Protocol):
    """The kernels of layer and rms norm over channels, with residual and activation."""

    def norm_act(
        self, norm: Norm, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """f(norm(x) (weight + offset) + bias + residual), in the norm's type, and the statistics of each position, one
        sample's behind the other's: the mean (if centred) and 1 / deviation.

        The residual has x's shape and type; weight and bias hold a number for each channel. The norm has no gates.
        """

    def norm_act_backward(
        self,
        norm: Norm,
        grad: Tensor,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: Tensor,
        wants_residual: bool,
        wants_parameters: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of x, residual, weight and bias; None for a residual of a linear norm, whose is `grad`.

        `grad` is of the norm's type.
        """


if TYPE_CHECKING:
    from ..cpu import channel_normalization as cpu
    from ..reference import channel_normalization as reference
    from ..triton import channel_normalization as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
