"""One call of each activation that is not stateless and elementwise: what `check` and the tests evaluate.

The inputs lie away from knees and ties, where a derivative is not unique.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import functional


@dataclass(frozen=True)
class Sample:
    """`call(*inputs(dtype, device))` is the activation; every input has a gradient.

    `slack` is how many times the promised limit the gradient may be off: backward of softmax and softmin keeps
    the output alone, which has been rounded.
    """

    call: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    slack: float = 1.0

    def inputs(self, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
        """Evenly spread numbers of mixed sign in a fixed random order, the first tensor's up to +-4."""
        generator = torch.Generator().manual_seed(0)
        found: list[Tensor] = []
        for shape in self.shapes:
            count = torch.Size(shape).numel()
            spread = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1
            mixed = spread[torch.randperm(count, generator=generator)].view(shape)
            found.append((mixed * (1 if found else 4)).to(device, dtype))
        return tuple(found)


SAMPLES: dict[str, Sample] = {
    "prelu": Sample(lambda x, weight: functional.prelu(x, weight), ((3, 4, 5), (4,))),
    "apl": Sample(lambda x, slopes, offsets: functional.apl(x, slopes, offsets), ((3, 4, 5), (2, 4), (2, 4))),
    # As in evaluation: two backends need not draw the same numbers.
    "rrelu": Sample(lambda x: functional.rrelu(x), ((6, 7),)),
    "softmax": Sample(lambda x: functional.softmax(x, 1), ((3, 5, 4),), slack=3),
    "log_softmax": Sample(lambda x: functional.log_softmax(x, 1), ((3, 5, 4),)),
    "softmin": Sample(lambda x: functional.softmin(x, -1), ((3, 5, 4),), slack=3),
    "maxout": Sample(lambda x: functional.maxout(x, 3), ((4, 6, 2),)),
    "glu": Sample(lambda x: functional.glu(x), ((3, 8),)),
    "swiglu": Sample(lambda x: functional.swiglu(x), ((3, 8),)),
    "geglu": Sample(lambda x: functional.geglu(x), ((3, 8),)),
    "reglu": Sample(lambda x: functional.reglu(x), ((3, 8),)),
}
