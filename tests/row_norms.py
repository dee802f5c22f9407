"""Layer and rms norm by the definition and by ours, how far they are apart, and each backend in turn."""

from __future__ import annotations

import pytest
import torch
from triton_tools import INTERPRETED

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


@pytest.fixture(name="device", params=["triton"] if INTERPRETED else ["cpu", "triton", "reference"])
def each_backend(request, monkeypatch):
    """Where a backend lives that is chosen by name meanwhile."""
    found = dispatch.named(request.param)
    where = "cpu" if request.param == "cpu" else DEVICE
    reason = found if isinstance(found, str) else found.unavailable(torch.device(where))
    if reason:
        pytest.skip(reason)
    if request.param == "triton":  # so that short rows take the long ones' path
        from nnkernels.triton import normalization

        for limit in ("_MOST_COLUMNS", "_MOST_SUMMED_COLUMNS", "_LONG_TILE"):
            monkeypatch.setattr(normalization, limit, 128)
    with nnkernels.backend(request.param):
        yield where


def composition(
    norm, x, weight=None, bias=None, residual=None, activation="identity", dims=1, eps=1e-5, dim=-1, **constants
):
    """In float64, by torch operations."""
    if dim != -1:
        rows, beside = (None if tensor is None else tensor.movedim(dim, -1) for tensor in (x, residual))
        return composition(norm, rows, weight, bias, beside, activation, eps=eps, **constants).movedim(-1, dim)
    along = tuple(range(-dims, 0))
    z = x.double()
    if norm == "layer_norm":
        z = z - z.mean(along, keepdim=True)
        z = z - z.mean(along, keepdim=True)
    z = z / (z.square().mean(along, keepdim=True) + eps).sqrt()
    z = z if weight is None else z * weight.double()
    z = z if bias is None else z + bias.double()
    z = z if residual is None else z + residual.double()
    return z * 1 if activation == "identity" else getattr(F, activation)(z, **constants)


def ours(norm, x, weight=None, bias=None, residual=None, activation="identity", dims=1, eps=1e-5, dim=-1, **constants):
    shape = x.shape[x.dim() - dims :] if dim == -1 else x.shape[dim]
    given = {"residual": residual, "dim": dim if dims == 1 else None, **constants}
    if norm == "rms_norm":
        return F.rms_norm_act(x, shape, weight, eps, activation, **given)
    return F.layer_norm_act(x, shape, weight, bias, eps, activation, **given)


def leaves(norm, shape, device, dtype=torch.float64, residual=True, dims=1, parameters=None, mean=0.5, dim=-1):
    generator = torch.Generator().manual_seed(sum(shape) + 1)

    def one(shape, dtype=dtype, scale=1.0, shift=0.0):
        made = torch.randn(shape, generator=generator, dtype=torch.float64) * scale + shift
        return made.to(device, dtype).requires_grad_()

    row = shape[len(shape) - dims :] if dim == -1 else (shape[dim],)
    return (
        one(shape, shift=mean),
        one(row, parameters or dtype, 0.3, 1.0),
        one(row, parameters or dtype, 0.5) if norm == "layer_norm" else None,
        one(shape) if residual else None,
    )


def holds(norm, inputs, activation="identity", dims=1, dim=-1):
    """Value and gradients against the composition. Gradients may be off by thrice the limit: the argument of a
    derivative has been rounded, and terms may cancel."""
    x, weight, bias, residual = inputs
    y, exact = (one(norm, *inputs, activation, dims, dim=dim) for one in (ours, composition))
    assert y.dtype == x.dtype and y.shape == x.shape
    assert y.is_contiguous() or (not x.is_contiguous() and y.movedim(dim, -1).is_contiguous())
    limit = accuracy.LIMITS[x.dtype]
    terms = composition(norm, x, weight, dims=dims, dim=dim).abs()
    if bias is not None:
        terms = (terms.movedim(dim, -1) + bias.double().abs()).movedim(-1, dim)
    terms = terms if residual is None else terms + residual.double().abs()
    assert off(y, exact, terms.detach()) <= limit
    generator = torch.Generator().manual_seed(5)
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device, x.dtype)
    given = [tensor for tensor in inputs if tensor is not None]
    mine = torch.autograd.grad(y, given, grad)
    truth = torch.autograd.grad(exact, given, grad.double())
    for got, want, tensor in zip(mine, truth, given, strict=True):
        assert got.dtype == tensor.dtype and got.shape == tensor.shape
        summed = (y.numel() / got.numel()) ** 0.5 if got.numel() < y.numel() else 0.0
        allowed = max(limit, accuracy.LIMITS[got.dtype]) * (1 if tensor.dtype.itemsize == 2 else 3)
        assert off(got, want.double(), summed) <= allowed


def off(got, truth, size=0.0):
    """The error in ulp; where a number is smaller than `size` or the root mean square, in ulp of that."""
    floor = truth.detach().square().mean().sqrt()
    size = torch.as_tensor(size, dtype=floor.dtype, device=floor.device).maximum(floor)
    return accuracy.errors(got.detach(), truth.detach(), size).max().item()
