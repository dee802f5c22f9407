"""Any shape and strides: the same values, PyTorch's strides, and no copy where none is needed."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy

LAYOUTS = {
    "0-dim": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
    "contiguous": lambda: torch.randn(3, 5, 7),
    "channels_last": lambda: torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last),
    "channels_last_3d": lambda: torch.randn(2, 3, 2, 3, 2).contiguous(memory_format=torch.channels_last_3d),
    "permuted": lambda: torch.randn(3, 5, 7).permute(2, 0, 1),
    "first half": lambda: torch.randn(5, 6, 14).chunk(2, -1)[0],
    "second half": lambda: torch.randn(5, 6, 14).chunk(2, -1)[1],
    "rows of a transposed half": lambda: torch.randn(4, 5, 14).chunk(2, -1)[1].transpose(0, 1),
    "every other": lambda: torch.randn(5, 14)[:, ::2],
    "expanded": lambda: torch.randn(7).expand(5, 7),
    "expanded column": lambda: torch.randn(5, 1).expand(5, 7),
    "size one with odd stride": lambda: torch.randn(6, 7).as_strided((6, 1, 7), (7, 3, 1)),
    "misaligned": lambda: torch.randn(1025)[1:],
    "many rows": lambda: torch.randn(300, 130)[:, 1:129],
}


def strides(x: torch.Tensor) -> list[int]:
    """The strides that mean something."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1 and x.numel()]


def check(x: torch.Tensor, name: str = "mish") -> None:
    function, peer = getattr(F, name), getattr(torch.nn.functional, name)
    leaf, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    y, expected = function(leaf), peer(theirs)
    torch.testing.assert_close(y, expected)
    assert strides(y) == strides(expected)
    grad = torch.randn_like(y)
    (got,), (wanted,) = torch.autograd.grad(y, leaf, grad), torch.autograd.grad(expected, theirs, grad)
    torch.testing.assert_close(got, wanted)
    assert strides(got) == strides(wanted)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["float32", "bfloat16", "float64"]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_strides_are_those_of_torch(layout, backend, device, dtype):
    with nnkernels.backend(backend.name):
        check(LAYOUTS[layout]().to(device=device, dtype=dtype))


@pytest.mark.parametrize("layout", ["channels_last", "permuted", "first half", "second half", "many rows"])
def test_dense_and_row_strided_inputs_are_not_copied(layout, monkeypatch):
    if isinstance(nnkernels.dispatch.named("cpu"), str):
        pytest.skip("the C++ kernels were not built")
    x = LAYOUTS[layout]().detach()
    copies = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            copies.append(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.ops.nnkernels.forward(x, nnkernels.native.index_of("mish"), 0.0, 0.0)
    assert [str(func) for func in copies] == ["nnkernels.forward.default"]
    with torch.profiler.profile() as profile:
        F.mish(x)
    assert not {"aten::copy_", "aten::clone", "aten::contiguous"} & {event.name for event in profile.events()}


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=0, max_size=4),
    order=st.randoms(use_true_random=False),
    steps=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    pad=st.integers(0, 3),
)
def test_any_strided_view(sizes, order, steps, pad):
    dims = list(range(len(sizes)))
    order.shuffle(dims)
    stored = [sizes[d] * steps[d] + (pad if sizes[d] else 0) for d in dims]
    base = torch.randn(stored)
    view = base.permute([dims.index(d) for d in range(len(sizes))])
    for d, size in enumerate(sizes):
        view = view.narrow(d, 0, size * steps[d])[(slice(None),) * d + (slice(None, None, steps[d]),)]
    assert list(view.shape) == sizes
    check(view)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_give_the_same_bits(threads):
    x = torch.randn(7, 40_001)[:, 1:]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = F.mish(x)
        assert torch.equal(whole, torch.stack([F.mish(row) for row in x]))
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_than_2_to_the_31_elements(backend):
    if backend.name in ("cpu", "reference"):
        pytest.skip("a matter of GPU indexing")
    x = torch.zeros(2**31 + 9, dtype=torch.bfloat16, device="cuda")
    x[-5:] = -1.0
    x[2**31 - 2 : 2**31 + 1] = 2.0
    with nnkernels.backend(backend.name):
        y = F.relu(x)
    assert y[-5:].tolist() == [0.0] * 5 and y[2**31 - 2 : 2**31 + 1].tolist() == [2.0] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_a_number_gives_the_same_among_any_others(row, backend, device, dtype):
    """Vectors are whole, or not, or hold numbers for which another formula is taken: none of that may show."""
    a, b = accuracy.constants_of(row)
    x = (torch.linspace(-12, 12, 1021).repeat(3) * torch.tensor([1.0, 0.1, 40.0]).repeat_interleave(1021)).to(dtype)
    x[::97] = torch.tensor(float("nan"))
    x = x.to(device)

    def both(x: torch.Tensor) -> torch.Tensor:
        grad = torch.full_like(x, 0.7)
        return torch.stack([backend.forward(row.name, x, a, b), backend.backward(row.name, grad, x, a, b)])

    whole = both(x)
    for order in (torch.randperm(x.numel()), x.cpu().float().argsort()):
        torch.testing.assert_close(both(x[order]), whole[:, order], rtol=0, atol=0, equal_nan=True)
    for start, length in ((0, 1), (5, 15), (64, 31), (7, 33), (1021, 47)):
        part = slice(start, start + length)
        torch.testing.assert_close(both(x[part].clone()), whole[:, part], rtol=0, atol=0, equal_nan=True)
