"""Normalisation, activation and residual in float64, by the definition, and how far a result is from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import nnkernels.functional as F

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def leaves(shape: tuple[int, ...], device: str, dtype: torch.dtype, layout: str = "contiguous", mean: float = 0.0):
    """x, residual, weight and bias; the parameters are in float32 unless the data are in float64."""
    generator = torch.Generator().manual_seed(sum(shape))

    def one(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, residual, weight, bias = one(*shape) + mean, one(*shape), one(shape[1]) + 1, one(shape[1])
    if layout == "last":
        x = x.to(memory_format=LAYOUTS[len(shape)])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found = (x.to(device, dtype), residual.to(device, dtype), weight.to(device, wide), bias.to(device, wide))
    return tuple(tensor.requires_grad_() for tensor in found)


def truth(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, activation: str, groups: int | None = None,
    fixed: tuple[Tensor, Tensor] | None = None, **constants: Any,
) -> Tensor:  # fmt: skip
    one = [1, -1, *[1] * (x.dim() - 2)]
    if fixed is not None:
        mean, var = (statistic.double().view(one) for statistic in fixed)
        z = (x - mean) / (var + 1e-5).sqrt()
    else:
        split = x.unsqueeze(2) if groups is None else x.unflatten(1, (groups, -1))
        dims = [0, *range(2, split.dim())] if groups is None else list(range(2, split.dim()))
        var, mean = torch.var_mean(split, dims, correction=0, keepdim=True)
        z = ((split - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
    z = z * weight.view(one) + bias.view(one)
    z = z if residual is None else z + residual
    return z if activation == "identity" else getattr(F, activation)(z, **constants)


def widened(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(tensor if tensor is None else tensor.detach().double().requires_grad_() for tensor in tensors)


def steepness(x: Tensor, weight: Tensor, groups: int | None = None) -> Tensor:
    """|weight| / the standard deviation, for each element: the size of the terms that make up the gradient of x."""
    split = x.detach().unsqueeze(2) if groups is None else x.detach().unflatten(1, (groups, -1))
    dims = [0, *range(2, split.dim())] if groups is None else list(range(2, split.dim()))
    rstd = (torch.var(split, dims, correction=0, keepdim=True) + 1e-5).rsqrt().expand(split.shape).reshape(x.shape)
    return rstd * weight.detach().abs().view([1, -1, *[1] * (x.dim() - 2)])


def off(got: Tensor, exact: Tensor, terms: Tensor | float = 0.0) -> float:
    """The greatest distance in epsilons of `got`'s type, of the size of the elements and of what they are sums of."""
    size = exact.abs() + exact.square().mean().sqrt() + terms
    return ((got.double() - exact).abs() / size).max().item() / torch.finfo(got.dtype).eps


def worst(y: Tensor, exact: Tensor, inputs: tuple, wide: tuple, grad: Tensor, groups: int | None = None) -> float:
    """The greatest distance of value and gradients, of x, the residual, weight and bias; inputs may be None."""
    terms = [steepness(wide[0], wide[2], groups) * grad.double().abs().max(), 0.0]
    terms += [grad.double().square().sum().sqrt()] * 2
    given = [tensor for tensor in inputs if tensor is not None]
    others = [tensor for tensor in wide if tensor is not None]
    sizes = [size for size, tensor in zip(terms, inputs, strict=True) if tensor is not None]
    found = [off(y.detach(), exact.detach())]
    for got, want, size, source in zip(
        torch.autograd.grad(y, given, grad), torch.autograd.grad(exact, others, grad.double()), sizes, given,
        strict=True,
    ):  # fmt: skip
        assert got.dtype == source.dtype and got.shape == source.shape
        found.append(off(got, want, size))
    return max(found)
