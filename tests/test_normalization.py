"""Layer and rms norm with residual and activation: as the composition in float64 says, and reproducible."""

from __future__ import annotations

import pytest
import torch

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NORMS = ["layer_norm", "rms_norm"]


@pytest.fixture(params=["cpu", "triton", "reference"])
def device(request):
    found = dispatch.named(request.param)
    where = "cpu" if request.param == "cpu" else DEVICE
    reason = found if isinstance(found, str) else found.unavailable(torch.device(where))
    if reason:
        pytest.skip(reason)
    with nnkernels.backend(request.param):
        yield where


def composition(norm, x, weight, bias, residual, activation="identity", eps=1e-5, dims=1):
    """In float64, by torch operations."""
    along = tuple(range(-dims, 0))
    z = x.double()
    if norm == "layer_norm":
        z = z - z.mean(along, keepdim=True)
        z = z - z.mean(along, keepdim=True)
    z = z / (z.square().mean(along, keepdim=True) + eps).sqrt()
    z = z if weight is None else z * weight.double()
    z = z if bias is None else z + bias.double()
    z = z if residual is None else z + residual.double()
    return z if activation == "identity" else getattr(F, activation)(z)


def ours(norm, x, weight, bias, residual, activation="identity", eps=1e-5, dims=1):
    shape = x.shape[x.dim() - dims :]
    if norm == "rms_norm":
        return F.rms_norm_act(x, shape, weight, eps, activation, residual=residual)
    return F.layer_norm_act(x, shape, weight, bias, eps, activation, residual=residual)


def leaves(norm, shape, device, dtype, residual=True, dims=1, parameters=None, mean=0.5):
    generator = torch.Generator().manual_seed(sum(shape) + 1)

    def one(shape, dtype=dtype, scale=1.0, shift=0.0):
        made = torch.randn(shape, generator=generator, dtype=torch.float64) * scale + shift
        return made.to(device, dtype).requires_grad_()

    row = shape[len(shape) - dims :]
    return (
        one(shape, shift=mean),
        one(row, parameters or dtype, 0.3, 1.0),
        one(row, parameters or dtype, 0.5) if norm == "layer_norm" else None,
        one(shape) if residual else None,
    )


def off(got, truth, size=0.0):
    """The error in ulp; where a number is smaller than `size` or the root mean square, in ulp of that."""
    floor = truth.detach().square().mean().sqrt()
    return accuracy.errors(got.detach(), truth.detach(), torch.as_tensor(size, dtype=floor.dtype, device=floor.device).maximum(floor)).max().item()


def gradient_slack(dtype):
    """How many times the promised limit: a derivative's argument has been rounded, and terms may cancel."""
    return 1 if dtype.itemsize == 2 else 3


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(
    ("norm", "activation", "residual", "shape"),
    [
        ("layer_norm", "identity", False, (5, 7)),
        ("layer_norm", "silu", True, (33, 48)),
        ("layer_norm", "relu", False, (3, 1000)),
        ("layer_norm", "gelu", True, (2, 17_000)),
        ("rms_norm", "identity", False, (70, 24)),
        ("rms_norm", "mish", True, (2, 3, 130)),
        ("rms_norm", "identity", True, (2, 17_000)),
    ],
    ids=str,
)
def test_value_and_gradients_are_the_composition(norm, activation, residual, shape, dtype, device):
    inputs = leaves(norm, shape, device, dtype, residual)
    y, exact = ours(norm, *inputs, activation), composition(norm, *inputs, activation)
    assert y.dtype == dtype and y.is_contiguous()
    terms = 0.0 if inputs[3] is None else inputs[3].detach().double().abs()
    assert off(y, exact, terms) <= accuracy.LIMITS[dtype]
    grad = torch.randn(shape, dtype=torch.float64).to(device, dtype)
    given = [tensor for tensor in inputs if tensor is not None]
    mine = torch.autograd.grad(y, given, grad)
    truth = torch.autograd.grad(exact, given, grad.double())
    for got, want, tensor in zip(mine, truth, given, strict=True):
        assert got.dtype == dtype and got.shape == tensor.shape
        summed = (y.numel() / got.numel()) ** 0.5 if got.numel() < y.numel() else 0.0
        assert off(got, want.double(), summed) <= gradient_slack(dtype) * accuracy.LIMITS[dtype]
