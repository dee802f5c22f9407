"""Activations with learned parameters, as modules."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from .. import functional, policies
from ..arguments import number
from ..autograd import elementwise as autograd
from ..functional.learned import prelu_keeping
from ..registry import elementwise as row_of
from . import elementwise

__all__ = ["APL", "PReLU", "StarReLU", "Swish"]

_SWISH, _STARRELU = row_of("swish"), row_of("starrelu")


class PReLU(torch.nn.PReLU):
    """`torch.nn.PReLU`: x if x > 0 else weight x. Its gradients come from one pass, the same bits in every run.

    Args:
        num_parameters: 1, or the number of channels (dimension 1 of the input).
        init: where the weights start.
        device: of the weights.
        dtype: of the weights; it need not be the input's.
        saving: what backward keeps, as in `nnkernels.saving`; None follows that. "bits" is for weights that are frozen
            by the time of the call: the gradient of the others takes the input.

    Raises:
        ValueError: `saving` cannot serve.

    Shape: input and output alike, any shape; with more than one parameter (N, num_parameters, ...).
    Source: He, Zhang, Ren & Sun 2015.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.PReLU()(torch.tensor([-1.0, 1.0])).tolist()
        [-0.25, 1.0]
    """

    saving: str | None = None

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        saving: str | None = None,
    ) -> None:
        super().__init__(num_parameters, init, device, dtype)
        policies.refuse_recompute(saving)
        if saving is not None:
            policies.check_learned("prelu", saving, learns=False)
        self.saving = saving

    def forward(self, input: Tensor) -> Tensor:
        if self.saving is None:
            return functional.prelu(input, self.weight)
        return prelu_keeping(input, self.weight, self.saving)

    def extra_repr(self) -> str:
        return elementwise.with_saving(super().extra_repr(), self.saving)


class Swish(torch.nn.Module):
    """x sigmoid(beta x), with a beta that is a constant or learned.

    Args:
        beta: a number; where it starts if it is learned.
        inplace: whether to write the result into the input.
        learnable: whether beta is a parameter, and in the state dict.
        num_parameters: of a learned beta: 1, or the number of channels (dimension 1 of the input).
        device: of a learned beta.
        dtype: of a learned beta; it need not be the input's.
        saving: what backward keeps, as in `nnkernels.saving`; None follows that. With a learned beta it is the input.

    Raises:
        ValueError: several betas are asked for that are not learned, or `saving` cannot serve.

    Shape: input and output alike, any shape; with more than one parameter (N, num_parameters, ...).
    Source: Ramachandran, Zoph & Le 2017.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Swish(learnable=True, num_parameters=3)(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """

    beta: float | Tensor
    saving: str | None = None

    def __init__(
        self,
        beta: float = 1.0,
        inplace: bool = False,
        learnable: bool = False,
        num_parameters: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        saving: str | None = None,
    ) -> None:
        super().__init__()
        if num_parameters != 1 and not learnable:
            raise ValueError(f"num_parameters={num_parameters}: all would stay {beta}; give learnable=True as well")
        if saving is not None and learnable:
            raise ValueError(f"saving={saving!r} cannot serve a learned beta, whose gradient takes the input")
        policies.check_of_module(_SWISH, saving, beta, 0.0)
        self.saving = saving
        self.inplace = inplace
        self.learnable = learnable
        self.init = beta
        if learnable:
            self.beta = Parameter(torch.empty(num_parameters, device=device, dtype=dtype))
            self.reset_parameters()
        else:
            self.beta = number("Swish", "beta", beta)

    def reset_parameters(self) -> None:
        if isinstance(self.beta, Tensor):
            torch.nn.init.constant_(self.beta, self.init)

    def forward(self, input: Tensor) -> Tensor:
        if self.saving is None:
            return functional.swish(input, self.beta, self.inplace)
        return autograd.call(_SWISH, functional.swish, input, float(self.beta), 0.0, self.inplace, self.saving)

    def extra_repr(self) -> str:
        learned = f", learnable=True, num_parameters={self.beta.numel()}" if isinstance(self.beta, Tensor) else ""
        shown = f"beta={self.init}{learned}{', inplace=True' if self.inplace else ''}"
        return elementwise.with_saving(shown, self.saving)


class StarReLU(torch.nn.Module):
    """scale max(x, 0)^2 + bias, with a scale and a bias that are constants or learned.

    Args:
        scale_value: a number; where the scale starts if it is learned.
        bias_value: likewise.
        inplace: whether to write the result into the input.
        learnable: whether scale and bias are parameters, and in the state dict, as in timm, which starts at 1 and 0.
        num_parameters: of a learned scale, and of a learned bias: 1, or the number of channels (dimension 1).
        device: of what is learned.
        dtype: of what is learned; it need not be the input's.
        saving: what backward keeps, as in `nnkernels.saving`; None follows that. Of what is learned it is the input.

    Raises:
        ValueError: several parameters are asked for that are not learned, or `saving` cannot serve.

    Attributes:
        scale, bias: shape (num_parameters,), if they are learned.

    Shape: input and output alike, any shape; with more than one parameter (N, num_parameters, ...).
    Source: Yu et al. 2022, MetaFormer Baselines for Vision.

    Example:
        >>> import torch, nnkernels
        >>> sum(p.numel() for p in nnkernels.nn.StarReLU(1.0, 0.0, learnable=True).parameters())
        2
    """

    learnable: bool = False
    saving: str | None = None

    def __init__(
        self,
        scale_value: float = 0.8944,
        bias_value: float = -0.4472,
        inplace: bool = False,
        learnable: bool = False,
        num_parameters: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        saving: str | None = None,
    ) -> None:
        super().__init__()
        if num_parameters != 1 and not learnable:
            raise ValueError(
                f"num_parameters={num_parameters}: all would stay as they are; give learnable=True as well"
            )
        if saving is not None and learnable:
            raise ValueError(f"saving={saving!r} cannot serve what is learned, whose gradient takes the input")
        self.scale_value = number("StarReLU", "scale_value", scale_value)
        self.bias_value = number("StarReLU", "bias_value", bias_value)
        policies.check_of_module(_STARRELU, saving, self.scale_value, self.bias_value)
        self.saving = saving
        self.inplace = inplace
        self.learnable = learnable
        if learnable:
            self.scale = Parameter(torch.empty(num_parameters, device=device, dtype=dtype))
            self.bias = Parameter(torch.empty(num_parameters, device=device, dtype=dtype))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.learnable:
            torch.nn.init.constant_(self.scale, self.scale_value)
            torch.nn.init.constant_(self.bias, self.bias_value)

    def forward(self, input: Tensor) -> Tensor:
        if self.learnable:
            return functional.starrelu(input, self.scale, self.bias, self.inplace)
        a, b = self.scale_value, self.bias_value
        if self.saving is None:
            return functional.starrelu(input, a, b, self.inplace)
        return autograd.call(_STARRELU, functional.starrelu, input, a, b, self.inplace, self.saving)

    def extra_repr(self) -> str:
        learned = f", learnable=True, num_parameters={self.scale.numel()}" if self.learnable else ""
        inplace = ", inplace=True" if self.inplace else ""
        shown = f"scale_value={self.scale_value}, bias_value={self.bias_value}{learned}{inplace}"
        return elementwise.with_saving(shown, self.saving)


# One class each, also where it is looked up by the catalogue's row.
elementwise.Swish, elementwise.StarReLU = Swish, StarReLU  # type: ignore[attr-defined]


class APL(torch.nn.Module):
    """Adaptive piecewise linear: max(0, x) + sum over s of slopes[s] max(0, offsets[s] - x).

    Slopes start uniform in [-0.2, 0.2] and offsets normal with standard deviation 0.5, as the authors' published code
    has them. They trained with a weight decay of 0.001 on both.

    Args:
        num_segments: S, how many hinges are added to that of the ReLU; the authors used 1 to 5.
        num_parameters: 1, so that all channels share them, or the number of channels (dimension 1 of the input).
        device: of slopes and offsets.
        dtype: of slopes and offsets; it need not be the input's.

    Raises:
        ValueError: there would be no segment, or none for any channel.

    Attributes:
        slopes, offsets: shape (S,) if shared, else (S, num_parameters).

    Shape: input and output alike, any shape; with more than one parameter (N, num_parameters, ...).
    Source: Agostinelli, Hoffman, Sadowski & Baldi 2015.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.APL(4, num_parameters=3)(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_segments: int,
        num_parameters: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_segments < 1 or num_parameters < 1:
            raise ValueError(
                f"APL needs at least one segment and one set of parameters, got num_segments={num_segments} and "
                f"num_parameters={num_parameters}"
            )
        self.num_segments = num_segments
        self.num_parameters = num_parameters
        shape = (num_segments,) if num_parameters == 1 else (num_segments, num_parameters)
        self.slopes = Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.offsets = Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.uniform_(self.slopes, -0.2, 0.2)
        torch.nn.init.normal_(self.offsets, std=0.5)

    def forward(self, input: Tensor) -> Tensor:
        return functional.apl(input, self.slopes, self.offsets)

    def extra_repr(self) -> str:
        return f"num_segments={self.num_segments}, num_parameters={self.num_parameters}"
