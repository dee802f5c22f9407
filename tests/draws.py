"""What the tests of the random family share: calls that draw, backends, types and layouts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_tools import INTERPRETED

import nnkernels
import nnkernels.functional as F
from nnkernels import dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOWER, UPPER = 0.125, 1 / 3


def draw(function: str, x: Tensor, p: float = 0.3) -> Tensor:
    return F.rrelu(x, LOWER, UPPER, training=True) if function == "rrelu" else F.dropout(x, p)


FUNCTIONS = pytest.mark.parametrize("function", ["rrelu", "dropout"])
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
BACKENDS = pytest.mark.parametrize("name", ["cpu", "triton", "reference"])


def require(name: str) -> None:
    found = dispatch.named(name)
    reason = found if isinstance(found, str) else found.unavailable(torch.device(DEVICE))
    if reason:
        pytest.skip(reason)


def kernels(name: str):
    require(name)
    with nnkernels.backend(name):
        return dispatch.kernels("random", torch.empty(0, device=DEVICE))


LAYOUTS = {
    "0-dim": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
    "contiguous": lambda: torch.randn(3, 5, 7),
    "several tiles": lambda: torch.randn(20_001),
    "channels_last": lambda: torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last),
    "permuted": lambda: torch.randn(3, 5, 7).permute(2, 0, 1),
    "half": lambda: torch.randn(5, 6, 64).chunk(2, -1)[1],
    "odd half": lambda: torch.randn(5, 6, 14).chunk(2, -1)[1],
    "wide half": lambda: torch.randn(3, 4000).chunk(2, -1)[0],
    "every other": lambda: torch.randn(5, 14)[:, ::2],
    "expanded": lambda: torch.arange(-3.5, 3.5).expand(5, 7),
    "size one with odd stride": lambda: torch.randn(6, 7).as_strided((6, 1, 7), (7, 3, 1)),
    "misaligned": lambda: torch.randn(1025)[1:],
}


@pytest.fixture(scope="module", autouse=True)
def small_tiles(faithful_interpreter):
    """Interpreted, a tile costs as much as it could hold; some tensors should still need several."""
    if not INTERPRETED:
        yield
        return

    from nnkernels.triton import hardware

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "TILE_BYTES", 2**15)
        yield
