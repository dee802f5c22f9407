"""What softmax and its kin make of empty tensors, odd layouts and bad arguments, the raw operators included."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import nnkernels.functional as F
from nnkernels import dispatch

FUNCTIONS = [F.softmax, F.log_softmax, F.softmin]


@pytest.fixture
def device(chosen):
    return chosen


def of_nothing(shape, dim):
    keep, none = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    masks = {"keep": keep, "none": none, "add": torch.zeros(shape), "one": torch.tensor(True)}
    found = [{}, {"scale": -0.5}, *({"mask": mask} for mask in masks.values())]
    return [*found, {"causal": True}, {"causal": True, "mask": keep}] if len(shape) > 1 and dim > 0 else found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((2, 3, 4, 0), 1), ((2, 3, 4, 0), 3), ((0,), 0), ((2, 0, 3), 1), ((0, 3), 1), ((), 0), ((1,), 0), ((3, 1), 1)],
)
def test_empty_tensors_and_rows_of_one(shape, dim, dtype, device):
    for function in FUNCTIONS:
        for chosen in of_nothing(shape, dim):
            x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
            chosen = {name: one.to(device) if torch.is_tensor(one) else one for name, one in chosen.items()}
            y = function(x, dim, **chosen)
            (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
            assert y.shape == grad.shape == shape and y.dtype == grad.dtype == dtype
            gone = "mask" in chosen and chosen["mask"].dtype == torch.bool and not chosen["mask"].all()
            one = 0.0 if function is F.log_softmax else 1.0
            assert (y == (one if not gone else -torch.inf if function is F.log_softmax else 0.0)).all()
            assert (grad == 0).all()


def test_empty_tensors_on_every_route():
    mask = torch.ones(2, 3, 0, dtype=torch.bool)
    x = torch.zeros(2, 3, 0)
    for function in FUNCTIONS:
        for route in (torch.func.vmap, torch.func.jacrev, lambda f: torch.compile(f, backend="eager")):
            whole = mask if route is not torch.func.vmap else mask[0]
            y = route(lambda x, function=function, whole=whole: function(x, -1, mask=whole))(x)
            assert y.numel() == 0
        with FakeTensorMode() as mode:
            assert function(mode.from_tensor(x), 1, mask=mode.from_tensor(mask)).shape == x.shape


@pytest.mark.parametrize("wants_gradient", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_fake_results_lie_as_real_ones(function, wants_gradient):
    inputs = [
        torch.randn(2, 3, 4, 5),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(2, 1, 1, 5).to(memory_format=torch.channels_last),
        torch.randn(5, 4, 3, 2).permute(3, 2, 1, 0),
        torch.randn(2, 3, 4, 10).chunk(2, -1)[0],
        torch.randn(2, 3, 1, 5).expand(2, 3, 4, 5),
        torch.randn(5, 3).t(),
    ]
    for real in [*inputs, *(x.bfloat16() for x in inputs)]:
        for chosen in ({}, {"scale": 0.5}, {"causal": True}, {"dtype": torch.float32}):

            def strides(x, chosen=chosen):
                x = x.detach().requires_grad_(wants_gradient)
                y = function(x, 1, **chosen)
                grads = torch.autograd.grad(y, x, torch.ones_like(y)) if wants_gradient else ()
                return [(t.shape, t.dtype, t.stride()) for t in (y, *grads)]

            with FakeTensorMode() as mode:
                fake = strides(mode.from_tensor(real))
            assert fake == strides(real)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("other", ["a", [1.0], None, 2.0])
def test_what_is_no_tensor_is_named(other, function):
    for arguments in ((other,), (other, 0)):
        with pytest.raises(TypeError, match=type(other).__name__):
            function(*arguments)
    with pytest.raises(TypeError, match="dim"):
        function(torch.zeros(2), "a")
    with pytest.raises(TypeError, match="scale"):
        function(torch.zeros(2), 0, scale="a")


@pytest.mark.parametrize("dim", [0, 1, -2])
@pytest.mark.parametrize(
    "function",
    [F.glu, lambda x, dim: F.swiglu(x, dim=dim), lambda x, dim: F.maxout(x, 2, dim),
     lambda x, dim: F.gated(x, dim=dim, interleaved=True)],
    ids=["glu", "swiglu", "maxout", "interleaved"],
)  # fmt: skip
def test_no_whole_dimension_of_a_jagged_tensor(function, dim):
    rows = [torch.randn(4, 6), torch.randn(2, 6)]
    x = torch.nested.nested_tensor(rows, layout=torch.jagged)
    with pytest.raises(NotImplementedError, match=f"dim {dim}"):
        function(x, dim)
    with pytest.raises(NotImplementedError, match="jagged"):
        F.softmax(x, -1, causal=True)
    assert function(x, -1).is_nested


X, HALF, KEPT = torch.zeros(8, 16), torch.zeros(8, 16, dtype=torch.bfloat16), torch.zeros(2, 8, 1)
OPERATORS = {
    "softmax": {"x": X, "y": X.clone(), "statistics": None, "outer": 8, "n": 16, "inner": 1, "x_stride": 16}
    | {"log": True, "scale": 1.0, "mask": None, "mask_layout": [], "queries": 0},
    "softmax_backward": {"grad": X, "y": X, "grad_x": X.clone(), "outer": 8, "n": 16, "inner": 1, "grad_stride": 16}
    | {"log": False, "scale": 1.0, "masked": False, "queries": 0},
    "log_softmax_backward": {"grad": HALF, "x": HALF, "statistics": KEPT, "grad_x": HALF.clone(), "outer": 8, "n": 16}
    | {"inner": 1, "grad_stride": 16, "x_stride": 16, "scale": 1.0, "mask": None, "mask_layout": []}
    | {"queries": 0},
}
ROW = [1, 1, 1, 0, 0, 0, 1, 0]
WRONG = {
    "softmax": [
        {"x": X[:2]}, {"x": HALF}, {"y": HALF}, {"y": torch.zeros(16, 8).t()}, {"x": X.int(), "y": X.int()},
        {"outer": 80}, {"outer": -8, "n": -16}, {"outer": 2**62, "n": 2, "inner": 2}, {"x_stride": 17},
        {"x_stride": -16}, {"x_stride": 2**62}, {"queries": -1}, {"statistics": KEPT[:1]},
        {"statistics": KEPT.double()}, {"statistics": KEPT, "log": False},
        {"mask": X, "mask_layout": [1]}, {"mask": X.int(), "mask_layout": ROW}, {"mask": HALF, "mask_layout": ROW},
        {"mask": X[0, :15], "mask_layout": ROW}, {"mask": X[:0], "mask_layout": ROW},
        {"mask": X, "mask_layout": [1, 1, 9, 0, 0, 16, 1, 0]}, {"mask": X, "mask_layout": [1, 1, 0, 0, 0, 0, 0, 0]},
        {"mask": X, "mask_layout": [1, 1, 1, 0, 0, 0, -1, 0]},
    ],
    "softmax_backward": [
        {"grad": X[:2]}, {"grad": HALF}, {"y": X[:2]}, {"y": HALF}, {"grad_x": X[:2].clone()}, {"grad_stride": 17},
        {"grad_stride": -1}, {"outer": 9}, {"queries": -1}, {"y": torch.zeros(16, 8).t()},
    ],
    "log_softmax_backward": [
        {"grad": HALF[:2]}, {"grad": X[:2]}, {"grad": X.double()}, {"grad": HALF.half()}, {"x": HALF[:2]},
        {"x": X, "grad_x": X.clone()}, {"statistics": KEPT[:, :2]}, {"statistics": KEPT.double()}, {"x_stride": 17},
        {"grad_stride": 99}, {"inner": 0}, {"queries": -1}, {"grad_x": HALF[:, :8].clone()},
        {"mask": X}, {"mask": torch.ones(3, dtype=torch.bool), "mask_layout": ROW},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_raw_operators_check_their_arguments(name):
    native = dispatch.named("cpu")
    if isinstance(native, str):
        pytest.skip(native)
    operator = getattr(torch.ops.nnkernels, name)
    operator(**OPERATORS[name])
    for wrong in WRONG[name]:
        with pytest.raises(RuntimeError, match="nnkernels"):
            operator(**(OPERATORS[name] | wrong))
