"""The gated activations as modules. They only gate: the linear layers around them are the caller's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..functional.gated import gated, gating, gelu_called, glu, situ_gating, situ_glu

__all__ = ["GEGLU", "GLU", "Gated", "SiTUGLU", "SwiGLU"]


class GLU(torch.nn.GLU):
    """`torch.nn.GLU`: a sigmoid(b), the gate b being the second half.

    Args:
        dim: the dimension that is halved.

    Shape: `(..., 2 n, ...)` to `(..., n, ...)`. Source: Dauphin et al. 2017.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.GLU()(torch.zeros(3, 8)).shape
        torch.Size([3, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        return glu(input, self.dim)


class Gated(torch.nn.Module):
    """f(gate) up, f being any stateless activation of the catalogue; see `nnkernels.functional.gated`.

    Args:
        activation: the activation's name.
        dim: the dimension that is halved, if the module is called with one tensor.
        interleaved: whether gate and up alternate along `dim` rather than being halves.
        gate_first: whether the gate comes first; not so in `torch.nn.GLU`.
        limit: holds the gate below, and up within +-`limit`, as in gpt-oss; None does not.
        limit_after: whether the limit holds f(gate) instead of the gate, as in Step-3.
        offset: added to up after it was limited.
        **constants: those of the activation.

    Shape: `(..., 2 n, ...)` to `(..., n, ...)`; called with gate and up, three of one shape.
    Source: Dauphin et al. 2017; Shazeer 2020.

    Example:
        >>> import torch, nnkernels
        >>> gate = nnkernels.nn.Gated("leaky_relu", negative_slope=0.5)
        >>> gate
        Gated('leaky_relu', dim=-1, negative_slope=0.5)
        >>> gate(torch.tensor([-2.0]), torch.tensor([3.0]))
        tensor([-3.])
    """

    def __init__(
        self,
        activation: str = "silu",
        dim: int = -1,
        *,
        interleaved: bool = False,
        gate_first: bool = True,
        limit: float | None = None,
        limit_after: bool = False,
        offset: float = 0.0,
        **constants: float,
    ) -> None:
        super().__init__()
        gating(activation, dim, interleaved, gate_first, limit, offset, constants, limit_after)
        self.activation = activation
        self.dim = dim
        self.interleaved = interleaved
        self.gate_first = gate_first
        self.limit = limit
        self.limit_after = limit_after
        self.offset = offset
        self.constants = constants

    def forward(self, input: Tensor, up: Tensor | None = None) -> Tensor:
        return gated(
            input, self.activation, self.dim, up=up, interleaved=self.interleaved, gate_first=self.gate_first,
            limit=self.limit, limit_after=self.limit_after, offset=self.offset, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return ", ".join([repr(self.activation), *self._options()])

    def _options(self) -> list[str]:
        usual: dict[str, Any] = {
            "interleaved": False, "gate_first": True, "limit": None, "limit_after": False, "offset": 0.0,
        }  # fmt: skip
        unusual = {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        return [f"{name}={value}" for name, value in {"dim": self.dim, **unusual, **self.constants}.items()]


class SwiGLU(Gated):
    """silu(gate) up, the unit of Llama's feed-forward block; with another `beta`, gate sigmoid(beta gate) up.

    Args:
        dim: the dimension that is halved, if the module is called with one tensor.
        beta: the sharpness of the gate.
        interleaved, gate_first, limit, offset: as for `Gated`.

    Shape: `(..., 2 n, ...)` to `(..., n, ...)`; called with gate and up, three of one shape. Source: Shazeer 2020.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.SwiGLU(beta=1.702, interleaved=True, limit=7.0, offset=1.0)(torch.zeros(3, 8)).shape  # gpt-oss
        torch.Size([3, 4])
    """

    def __init__(self, dim: int = -1, *, beta: float = 1.0, **options: Any) -> None:
        if beta == 1:
            super().__init__("silu", dim, **options)
        else:
            super().__init__("swish", dim, beta=beta, **options)

    def extra_repr(self) -> str:
        return ", ".join(self._options())


class GEGLU(Gated):
    """gelu(gate) up.

    Args:
        dim: the dimension that is halved, if the module is called with one tensor.
        approximate: which GELU: "none", "tanh" or "sigmoid".
        interleaved, gate_first, limit, offset: as for `Gated`.

    Shape: `(..., 2 n, ...)` to `(..., n, ...)`; called with gate and up, three of one shape. Source: Shazeer 2020.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.GEGLU(approximate="tanh")(torch.zeros(3, 8)).shape
        torch.Size([3, 4])
    """

    def __init__(self, dim: int = -1, *, approximate: str = "none", **options: Any) -> None:
        super().__init__(gelu_called(approximate), dim, **options)
        self.approximate = approximate

    def extra_repr(self) -> str:
        return ", ".join([*self._options(), f"approximate={self.approximate!r}"])


class SiTUGLU(torch.nn.Module):
    """beta tanh(gate / beta) sigmoid(gate) linear_beta tanh(up / linear_beta); see `nnkernels.functional.situ_glu`.

    Args:
        dim: the dimension that is halved, if the module is called with one tensor.
        beta: the cap of the gate.
        linear_beta: that of up; None leaves up as it is.
        interleaved: whether gate and up alternate along `dim` rather than being halves.
        gate_first: whether the gate comes first; not so in `torch.nn.GLU`.

    Shape: `(..., 2 n, ...)` to `(..., n, ...)`; called with gate and up, three of one shape.
    Source: Moonshot AI 2026, Kimi K3.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.SiTUGLU(linear_beta=None)
        SiTUGLU(dim=-1, beta=4.0, linear_beta=None)
    """

    def __init__(
        self,
        dim: int = -1,
        *,
        beta: float = 4.0,
        linear_beta: float | None = 25.0,
        interleaved: bool = False,
        gate_first: bool = True,
    ) -> None:
        super().__init__()
        situ_gating(dim, interleaved, gate_first, beta, linear_beta)
        self.dim = dim
        self.beta = beta
        self.linear_beta = linear_beta
        self.interleaved = interleaved
        self.gate_first = gate_first

    def forward(self, input: Tensor, up: Tensor | None = None) -> Tensor:
        return situ_glu(
            input, up, self.dim, beta=self.beta, linear_beta=self.linear_beta, interleaved=self.interleaved,
            gate_first=self.gate_first,
        )  # fmt: skip

    def extra_repr(self) -> str:
        order = f", interleaved={self.interleaved}, gate_first={self.gate_first}"
        usual = not self.interleaved and self.gate_first
        return f"dim={self.dim}, beta={self.beta}, linear_beta={self.linear_beta}{'' if usual else order}"
