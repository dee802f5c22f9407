"""Radial basis functions of squared distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, number, refusal
from ..autograd import radial as autograd
from ..autograd.shortcut import shortcut

__all__ = ["gaussian_rbf"]


@shortcut
def gaussian_rbf(input: Tensor, centers: Tensor, gamma: Tensor | float = 1.0) -> Tensor:
    """Gaussian radial basis functions: exp(-gamma |x - c|^2) for each vector and each center.

    scikit-learn's `rbf_kernel`, with gradients. Distances are sums of squared differences, so that they have their
    digits also between long vectors that are near to each other, where |x|^2 - 2 x c + |c|^2 has none; no tensor of
    differences is stored, neither forward nor backward. With many features a product of matrices may still be faster.

    Args:
        input: `(*, features)`; float64, float32, bfloat16 or float16. Distances are float32 at least.
        centers: `(centers, features)`, of the type of `input`.
        gamma: 1 / (2 width^2), a number, positive and finite; or a tensor, `()` or `(centers,)`, of the type of
            `input`, which may be learned. A tensor is not looked at: where it is negative, the result is NaN.

    Returns:
        `(*, centers)`, contiguous, in [0, 1].

    Raises:
        ValueError: the shapes do not fit, or gamma is a number out of its range.
        TypeError: an argument is no tensor, no number, or of another type than `input`.
        NotImplementedError: the type is not one of the four, or `input` is jagged or sparse.
        RuntimeError: the devices differ, or the backend chosen by name cannot serve the input.

    Backward keeps `input`, `centers` and a learned `gamma`, and takes the distances again.
    Source: Broomhead & Lowe 1988, Multivariable Functional Interpolation and Adaptive Networks.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.gaussian_rbf(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        tensor([[1.0000, 0.3679]])
    """
    given = (input, centers, gamma) if isinstance(gamma, Tensor) else (input, centers)
    if has_torch_function(given):
        return handle_torch_function(gaussian_rbf, given, input, centers, gamma)
    _check_vectors(input, centers)
    if isinstance(gamma, Tensor):
        _check_gamma(gamma, input, centers)
        return autograd.gaussians(input, centers, gamma)
    gamma = number("gaussian_rbf", "gamma", gamma)
    if not 0 < gamma < math.inf:
        raise ValueError(f"gaussian_rbf(): gamma must be positive and finite, got {gamma}")
    return autograd.gaussians(input, centers, gamma)


def _check_vectors(x: Tensor, centers: Tensor) -> None:
    for name, tensor in (("input", x), ("centers", centers)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"gaussian_rbf(): argument {name!r} must be Tensor, not {type(tensor).__name__}")
        if not accepts(tensor):
            raise NotImplementedError(refusal("gaussian_rbf", tensor, name))
        if tensor.layout == torch.jagged:
            raise NotImplementedError(
                f"gaussian_rbf(): jagged tensors are not supported ({name} of shape {tuple(tensor.shape)}); "
                "use .values()"
            )
    if x.dim() == 0 or centers.dim() != 2 or centers.shape[1] != x.shape[-1]:
        raise ValueError(
            f"gaussian_rbf(): input is (*, features) and centers is (centers, features), got {tuple(x.shape)} and "
            f"{tuple(centers.shape)}"
        )
    _check_alike("centers", centers, x)


def _check_gamma(gamma: Tensor, x: Tensor, centers: Tensor) -> None:
    if gamma.shape not in ((), centers.shape[:1]):
        raise ValueError(
            f"gaussian_rbf(): gamma has shape {tuple(gamma.shape)}, expected () or ({len(centers)},), one for each of "
            f"the centers of shape {tuple(centers.shape)}"
        )
    _check_alike("gamma", gamma, x)


def _check_alike(name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.dtype != x.dtype:
        raise TypeError(f"gaussian_rbf(): {name} is {tensor.dtype}, the input {x.dtype}; give {name}.to({x.dtype})")
    if tensor.device != x.device:
        raise RuntimeError(f"gaussian_rbf(): {name} is on {tensor.device}, the input on {x.device}")
