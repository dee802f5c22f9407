"""The error for an input of the wrong shape: it says which shape the network takes, and which one it got."""

from __future__ import annotations

from torch import Tensor


def expect(who: object, given: Tensor | tuple[int, ...], *wanted: str | int) -> None:
    """Raises ValueError unless `given` has the dimensions that are wanted.

    Args:
        who: the network, or its name.
        given: a tensor, or a shape.
        *wanted: for each dimension its size, or a name where any size will do.

    Example:
        >>> import torch
        >>> from nnkernels.networks.expecting import expect
        >>> expect("CNN", torch.zeros(5, 3, 8, 8), "batch", 1, "height", "width")
        Traceback (most recent call last):
        ...
        ValueError: CNN takes the shape (batch, 1, height, width), got (5, 3, 8, 8)
    """
    shape = tuple(given.shape) if isinstance(given, Tensor) else tuple(given)
    fits = len(shape) == len(wanted) and all(
        isinstance(size, str) or length == size for length, size in zip(shape, wanted, strict=True)
    )
    if not fits:
        name = who if isinstance(who, str) else type(who).__name__
        form = ", ".join(map(str, wanted)) + ("," if len(wanted) == 1 else "")
        raise ValueError(f"{name} takes the shape ({form}), got {shape}")
