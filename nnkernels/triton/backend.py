"""Launches the kernels of the family: plans the layout, chooses the tile, guards the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..layout import Geometry, plan
from ..recording import launch
from ..registry import elementwise
from . import hardware

_ROW_TILE = 512  # elements of a row in one tile: long enough for DRAM, short enough to waste little of an odd row


MISSING = "Triton is not installed; run: pip install triton"


class TritonBackend:
    """The family's kernels. `name` is a row of the catalogue, `a` and `b` its constants (0 where it has none).

    Results have PyTorch's layout for the shape and strides of `x`. No input is copied if dense and alike, or made of
    rows of adjacent elements, such as a half of `chunk(2, -1)`. Inputs are never written, except `x` if it is `out`.
    """

    name = "triton"

    def unavailable(self, device: torch.device) -> str | None:
        """None if tensors of `device` can be served, else one sentence that says why not."""
        if not hardware.has_triton():
            return MISSING
        if device.type in ("cuda", "xpu") or hardware.interpreted():
            return None
        return f"Triton needs a GPU tensor, got {device.type} (set TRITON_INTERPRET=1 to interpret)"

    def has(self, name: str) -> bool:
        """Whether the row called `name` is implemented."""
        from . import activations

        return name in activations.FORMULAS

    def forward(self, name: str, x: Tensor, a: float, b: float, out: Tensor | None = None) -> Tensor:
        """f(x), written to `out` (which may be `x`) if it is given."""
        from . import activations, kernels

        y = torch.empty_like(x) if out is None or plan(out) is None else out
        geometry, (x,) = _fit((x,), (y,))
        _launch(kernels.forward, geometry, (x, y), a, b, activations.FORMULAS[name].value)
        return y if out is None or out is y else out.copy_(y)

    def backward(self, name: str, grad: Tensor, x: Tensor, a: float, b: float) -> Tensor:
        """grad f'(x)"""
        from . import activations, kernels

        grad_x = torch.empty_like(x)
        geometry, (grad, x) = _fit((grad, x), (grad_x,))
        _launch(
            kernels.backward, geometry, (grad, x, grad_x), a, b, activations.FORMULAS[name].d1, elementwise(name).masks
        )
        return grad_x

    def double_backward(
        self, name: str, grad_grad: Tensor, grad: Tensor, x: Tensor, a: float, b: float
    ) -> tuple[Tensor, Tensor]:
        """grad_grad f'(x) and grad_grad grad f''(x)"""
        from . import activations, kernels

        formula = activations.FORMULAS[name]
        for_grad, for_x = torch.empty_like(x), torch.empty_like(x)
        outputs = (for_grad, for_x)
        geometry, inputs = _fit((grad_grad, grad, x), outputs)
        masks = elementwise(name).masks
        _launch(kernels.double_backward, geometry, (*inputs, *outputs), a, b, formula.d1, formula.d2, masks)
        return for_grad, for_x


def _fit(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[Geometry, tuple[Tensor, ...]]:
    """The geometry of inputs and outputs, after copying the inputs that would have none."""
    for fits in (lambda tensor: True, lambda tensor: plan(tensor, *outputs), lambda tensor: False):
        inputs = tuple(
            tensor if fits(tensor) else torch.empty_like(outputs[0], dtype=tensor.dtype).copy_(tensor)
            for tensor in inputs
        )
        geometry = plan(*inputs, *outputs)
        if geometry is not None:
            return geometry, inputs
    raise ValueError(f"tensors of one shape are needed, got {[tuple(tensor.shape) for tensor in inputs + outputs]}")


def _launch(kernel: Any, geometry: Geometry, tensors: tuple[Tensor, ...], a: float, b: float, *formulas: Any) -> None:
    """Starts one program for each tile."""
    rows, cols, strides = geometry
    if rows == 0:
        return
    flat = rows == 1
    block = (hardware.TILE_BYTES if len(tensors) == 2 else hardware.TILE_BYTES // 2) // tensors[0].element_size()
    block_cols = block if flat else min(_ROW_TILE, block, 1 << (cols - 1).bit_length())
    block_rows = 1 if flat else block // block_cols
    programs = -(-rows // block_rows) * -(-cols // block_cols)
    if flat:  # unused, so they should not make further variants
        strides = (0,) * len(tensors)
    with hardware.guard(tensors[0].device):
        launch(kernel, (programs,))(
            *tensors, a, b, rows, cols, *strides, *formulas, flat, cols % 16 == 0, block_rows, block_cols,
            num_warps=hardware.NUM_WARPS,
        )  # fmt: skip
