"""The convolutional network (LeCun et al. 1998), in stages of two 3 x 3 convolutions (Simonyan & Zisserman 2014)."""

from __future__ import annotations

import torch

from .activating import features_in, initialise, layer
from .expecting import expect


class CNN(torch.nn.Sequential):
    """Stages of two convolutions each; behind each stage the picture halves and the channels double.

    Args:
        shape: (channels, height, width) of one picture.
        outputs: numbers for each picture.
        activation: any name of the catalogue.
        width: channels of the first stage.
        depth: stages; each needs at least two pixels a side.
        dropout: the probability, of a whole channel behind each stage.

    Shape: `(batch, channels, height, width)` to `(batch, outputs)`.

    Raises:
        ValueError: the pictures are too small for so many stages.

    Example:
        >>> import torch
        >>> from nnkernels.networks.cnn import CNN
        >>> CNN((1, 8, 8), 10, activation="mish")(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str = "relu",
        width: int = 32,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        expect(self, shape, "channels", "height", "width")
        channels, height, breadth = shape
        if min(height, breadth) < 2**depth:
            raise ValueError(f"{height} x {breadth} pixels cannot be halved {depth} times; choose a smaller depth")
        layers: list[torch.nn.Module] = []
        before = "linear"
        for stage in range(depth):
            for _ in range(2):
                wide = width * 2**stage
                convolution = torch.nn.Conv2d(channels, wide * features_in(activation), 3, padding=1)
                initialise(convolution, before)
                layers += [convolution, layer(activation)]
                channels, before = wide, activation
            layers += [torch.nn.MaxPool2d(2), torch.nn.Dropout2d(dropout)]
        left = (height >> depth) * (breadth >> depth)
        head = torch.nn.Linear(channels * left, outputs)
        initialise(head, before)
        super().__init__(*layers, torch.nn.Flatten(), head)
