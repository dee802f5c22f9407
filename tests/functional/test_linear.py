"""Products with an activation behind them: values, gradients, what is kept, layouts, types, and refusals."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from triton_tools import INTERPRETED, compiles, interpret, on_each_backend

import nnkernels.functional as F
from nnkernels import nn
from nnkernels.autograd import has_cpp_node
from nnkernels.registry import IDENTITY, Activation, catalogue

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


device = on_each_backend("cpu", "cuda", "reference", "triton")


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = DEVICE) -> Tensor:
    drawn = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype)


def composed_mlp(f: Callable[[Tensor], Tensor], x: Tensor, w1: Tensor, b1: Any, w2: Tensor, b2: Any) -> Tensor:
    return linear(f(linear(x, w1, b1)), w2, b2)


def composed_gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, *biases: Tensor | None) -> Tensor:
    b_gate, b_up, b_down = biases or (None, None, None)
    return linear(torch.nn.functional.silu(linear(x, gate, b_gate)) * linear(x, up, b_up), down, b_down)


def composed_maxout(pieces: int, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
    return linear(x, weight, bias).unflatten(-1, (-1, pieces)).max(-1).values


mish, silu = torch.nn.functional.mish, torch.nn.functional.silu
WIDTHS = ((6, 5), (6,), (3, 6), (3,))
CALLS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "linear_act": (
        lambda x, w, b: F.linear_act(x, w, b, "mish"), lambda x, w, b: mish(linear(x, w, b)), ((6, 5), (6,))
    ),
    "without a bias": (lambda x, w: F.linear_act(x, w, None, "mish"), lambda x, w: mish(linear(x, w)), ((6, 5),)),
    "relu": (lambda x, w, b: F.linear_act(x, w, b, "relu"), lambda x, w, b: linear(x, w, b).relu(), ((6, 5), (6,))),
    "identity": (lambda x, w, b: F.linear_act(x, w, b, "identity"), linear, ((6, 5), (6,))),
    "mlp": (lambda *t: F.mlp(*t, "mish"), lambda *t: composed_mlp(mish, *t), WIDTHS),
    "mlp of relu": (lambda *t: F.mlp(*t, "relu"), lambda *t: composed_mlp(torch.relu, *t), WIDTHS),
    "mlp without biases": (
        lambda x, v, w: F.mlp(x, v, None, w, None, "silu"), lambda x, v, w: composed_mlp(silu, x, v, None, w, None),
        ((6, 5), (3, 6)),
    ),
    "recomputed mlp": (
        lambda *t: F.mlp(*t, "mish", recompute=True), lambda *t: composed_mlp(mish, *t), WIDTHS
    ),
    "gated_mlp": (F.gated_mlp, composed_gated, ((6, 5), (6, 5), (3, 6), (6,), (6,), (3,))),
    "gated_mlp without biases": (F.gated_mlp, composed_gated, ((6, 5), (6, 5), (3, 6))),
    "recomputed gated_mlp": (lambda *t: F.gated_mlp(*t, recompute=True), composed_gated, ((6, 5), (6, 5), (3, 6))),
    "packed gated_mlp": (
        lambda x, w, down, b: F.gated_mlp(x, w, None, down, b),
        lambda x, w, down, b: composed_gated(x, w[:6], w[6:], down, b[:6], b[6:], None), ((12, 5), (3, 6), (12,)),
    ),
    "interleaved gated_mlp": (
        lambda x, w, down: F.gated_mlp(x, w, None, down, interleaved=True, gate_first=False),
        lambda x, w, down: composed_gated(x, w[1::2], w[::2], down), ((12, 5), (3, 6)),
    ),
    "maxout_linear": (
        lambda x, w, b: F.maxout_linear(x, w, b, 3), lambda *t: composed_maxout(3, *t), ((6, 5), (6,))
    ),
    "maxout_linear of one": (lambda x, w, b: F.maxout_linear(x, w, b, 1), linear, ((6, 5), (6,))),
}  # fmt: skip


def given(name: str, shape: tuple[int, ...] = (3, 4, 5), dtype: torch.dtype = torch.float64, on: str = DEVICE):
    shapes = (shape, *CALLS[name][2])
    return [numbers(*one, seed=at, dtype=dtype, device=on).requires_grad_() for at, one in enumerate(shapes)]


@pytest.mark.parametrize("shape", [(3, 4, 5), (7, 5), (5,), (0, 5), (2, 0, 5)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients(device, name, shape):
    ours, theirs, _ = CALLS[name]
    tensors = given(name, shape, on=device)
    y, expected = ours(*tensors), theirs(*tensors)
    grad = numbers(*expected.shape, seed=9, device=device)
    torch.testing.assert_close(y, expected)
    found = torch.autograd.grad(y, tensors, grad, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(expected, tensors, grad))
    again = torch.autograd.grad(y, tensors, grad)  # nothing of what was kept has been written
    assert all(map(torch.equal, found, again))


@pytest.mark.parametrize("row", [*catalogue(Activation), IDENTITY], ids=lambda row: row.name)
def test_every_activation(device, row):
    constants = {name: 0.5 for name in row.parameters}
    x, w, b = (
        numbers(*shape, seed=at, device=device).requires_grad_() for at, shape in enumerate(((3, 5), (6, 5), (6,)))
    )
    f = (lambda z: z) if row is IDENTITY else lambda z: getattr(F, row.name)(z, **constants)
    for y, expected in (
        (F.linear_act(x, w, b, row.name, **constants), f(linear(x, w, b))),
        (F.mlp(x, w, b, w.t(), None, row.name, **constants), linear(f(linear(x, w, b)), w.t())),
    ):
        torch.testing.assert_close(y, expected)
        found, wanted = (torch.autograd.grad(one.sin().sum(), (x, w, b)) for one in (y, expected))
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("activation", ["gelu", "silu", "relu_squared", "relu"])
def test_a_rounded_preactivation_gives_the_bits_of_the_pair(device, dtype, activation):
    x, w, b, v = (
        numbers(*shape, seed=at, dtype=dtype, device=device)
        for at, shape in enumerate(((9, 40), (24, 40), (24,), (8, 24)))
    )
    for tensor in (x, x.t().contiguous().t(), x.view(3, 3, 40)):
        pair = getattr(F, activation)(linear(tensor, w, b))
        assert torch.equal(F.linear_act(tensor, w, b, activation, round_preact=True), pair)
        assert torch.equal(F.mlp(tensor, w, b, v, None, activation, round_preact=True), linear(pair, v))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 3), (2, 4)], ids=str)
@pytest.mark.parametrize("name", ["linear_act", "mlp", "gated_mlp", "maxout_linear"])
def test_only_the_gradients_that_are_wanted(device, name, wanted):
    ours, theirs, _ = CALLS[name]
    tensors = [one.detach() for one in given(name, on=device)]
    leaves = [tensors[at].requires_grad_() for at in wanted if at < len(tensors)]
    if not leaves:
        pytest.skip("has fewer tensors")
    found = torch.autograd.grad(ours(*tensors).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(theirs(*tensors).sum(), leaves))


@pytest.mark.parametrize("name", CALLS)
def test_layouts_and_gradients_of_any_strides(device, name):
    ours, theirs, _ = CALLS[name]
    tensors = [one.detach() for one in given(name, on=device)]
    other = [
        one.transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() if one.dim() > 1 else
        torch.stack([one, one], 1)[:, 0].requires_grad_() for one in tensors
    ]  # fmt: skip
    y, expected = ours(*other), theirs(*other)
    torch.testing.assert_close(y, expected)
    for grad in (
        torch.ones((), dtype=y.dtype, device=device).expand(y.shape),
        numbers(*y.shape[::-1], device=device).permute(2, 1, 0),
    ):
        found = torch.autograd.grad(y, other, grad, retain_graph=True)
        torch.testing.assert_close(found, torch.autograd.grad(expected, other, grad, retain_graph=True))


def kept_by(call: Callable[[], Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """What backward keeps of tensors that are not the caller's."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        y = call()
    mine = {one.data_ptr() for one in (*tensors, y)}
    return [one for one in kept if one.data_ptr() not in mine]


@pytest.mark.parametrize(
    "name, hidden",
    [("mlp", 1), ("mlp of relu", 1), ("recomputed mlp", 0), ("gated_mlp", 2), ("packed gated_mlp", 2),
     ("recomputed gated_mlp", 0), ("relu", 0), ("linear_act", 1)],
)  # fmt: skip
def test_backward_keeps_what_is_promised(device, name, hidden):
    """In tensors of the hidden size, 12 rows of 6; relu keeps the result itself, which is the caller's."""
    for _ in range(3):  # also once the call is repeated from a plan
        tensors = given(name, on=device)
        kept = kept_by(lambda: CALLS[name][0](*tensors), tensors)  # noqa: B023
        assert sum(one.numel() for one in kept) == hidden * 12 * 6


def test_maxout_keeps_bits(device):
    tensors = given("maxout_linear", on=device)
    (winners,) = kept_by(lambda: CALLS["maxout_linear"][0](*tensors), tensors)
    assert winners.dtype == torch.uint8 and winners.numel() == 8  # 24 outputs of 2 bits in a word of 64


@pytest.mark.parametrize("name", ["linear_act", "mlp", "gated_mlp", "maxout_linear"])
def test_nan_is_seen_in_its_row_alone(device, name):
    x, *more = (one.detach() for one in given(name, (4, 5), on=device))
    x[2, 1] = torch.nan
    seen = CALLS[name][0](x, *more).isnan()
    assert seen[2].all() and not seen[[0, 1, 3]].any()


@pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")
class TestContexts:
    @pytest.mark.parametrize("name", CALLS)
    def test_derivatives_of_every_order(self, name):
        tensors = tuple(given(name, (2, 5)))
        checks = {"check_forward_ad": True, "check_batched_grad": True}
        assert torch.autograd.gradcheck(CALLS[name][0], tensors, **checks)
        assert torch.autograd.gradgradcheck(CALLS[name][0], tensors)

    @pytest.mark.parametrize("name", CALLS)
    def test_compiles_whole(self, name):
        torch._dynamo.reset()
        ours, theirs, _ = CALLS[name]
        tensors = given(name)
        y = torch.compile(ours, fullgraph=True, backend="aot_eager")(*tensors)
        torch.testing.assert_close(y, theirs(*tensors))
        torch.testing.assert_close(
            torch.autograd.grad(y.sum(), tensors), torch.autograd.grad(theirs(*tensors).sum(), tensors)
        )

    @pytest.mark.parametrize("name", ["linear_act", "mlp", "gated_mlp", "maxout_linear"])
    def test_autocast_narrows_as_the_pair_does(self, name):
        ours, theirs, _ = CALLS[name]
        tensors = given(name, dtype=torch.float32)
        with torch.autocast(DEVICE, torch.bfloat16):
            y, expected = ours(*tensors), theirs(*tensors)
        assert y.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
        found, wanted = (torch.autograd.grad(one.float().sum(), tensors) for one in (y, expected))
        assert all(one.dtype == torch.float32 for one in found)
        torch.testing.assert_close(found, wanted, rtol=5e-2, atol=0.3)
        with torch.autocast(DEVICE, torch.bfloat16):
            assert ours(*(one.double() for one in tensors)).dtype == torch.float64

    @pytest.mark.skipif(not has_cpp_node(), reason="the C++ node, which asks torch's autocast, was not built")
    def test_autocast_casts_a_weight_once(self):
        x, weight = (one.to(DEVICE, torch.float32) for one in (numbers(3, 5), numbers(4, 5)))
        x, weight = x.bfloat16(), weight.requires_grad_()
        with torch.autocast(DEVICE, torch.bfloat16), torch.profiler.profile() as profile:
            for _ in range(3):
                F.linear_act(x, weight, activation="silu")
        assert [event.name for event in profile.events()].count("aten::_to_copy") == 1

    def test_a_transform_leaves_nothing_in_autocasts_cache(self):
        x, weight = (one.to(DEVICE, torch.float32) for one in (numbers(3, 5), numbers(4, 5)))
        weight.requires_grad_()
        with torch.autocast(DEVICE, torch.bfloat16):
            torch.func.grad(lambda z: F.linear_act(z, weight, activation="gelu").float().sum())(x)
            y = F.linear_act(x, weight, activation="gelu")
            expected = torch.nn.functional.gelu(linear(x, weight))
        found, wanted = (torch.autograd.grad(one.float().sum(), weight)[0] for one in (y, expected))
        torch.testing.assert_close(found, wanted, rtol=5e-2, atol=5e-2)

    def test_subclasses_are_asked_under_autocast_too(self):
        class Asked(Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                return "asked" if func is F.linear_act else super().__torch_function__(func, types, args, kwargs)

        class Kept(Tensor):
            pass

        x, weight = numbers(3, 5).float(), numbers(4, 5).float()
        with torch.autocast(x.device.type, torch.bfloat16):
            assert F.linear_act(x.as_subclass(Asked), weight) == "asked"
            y = F.linear_act(x.as_subclass(Kept), weight)
        assert type(y) is Kept and y.dtype == torch.bfloat16

    def test_what_is_refused_is_refused_under_autocast_too(self):
        x, weight = numbers(3, 5).float(), numbers(4, 5).float()
        with torch.autocast("cpu", torch.bfloat16):
            with pytest.raises(NotImplementedError, match="float8_e4m3fn"):
                F.linear_act(x, weight.to(torch.float8_e4m3fn))
            with pytest.raises(RuntimeError, match="weight is on meta"):
                F.linear_act(x, weight.to("meta"))

    @pytest.mark.parametrize("name", CALLS)
    def test_jagged_rows(self, name):
        x, *more = (one.detach() for one in given(name, (7, 5), torch.float32))
        rows = torch.nested.nested_tensor([x[:3], x[3:]], layout=torch.jagged)
        y = CALLS[name][0](rows, *more)
        torch.testing.assert_close(y.values(), CALLS[name][0](x, *more))

    def test_a_slope_that_hides_infinities_hides_them_here(self):
        """As the kernel of relu has it, the gradient is 0 below 0 whatever comes from above."""
        x, w = numbers(1, 2).requires_grad_(), -numbers(3, 2).abs()
        y = F.linear_act(x.abs(), w, activation="relu")
        (grad,) = torch.autograd.grad(y, x, torch.full_like(y, torch.inf))
        assert (grad == 0).all()

    @pytest.mark.parametrize(
        ("call", "error", "named"),
        [
            (lambda x, w: F.linear_act([0.0], w), TypeError, "list"),
            (lambda x, w: F.linear_act(x, w.int()), NotImplementedError, "int32"),
            (lambda x, w: F.linear_act(x, w.double()), TypeError, "float64"),
            (lambda x, w: F.linear_act(x, w.to("meta")), RuntimeError, "meta"),
            (lambda x, w: F.linear_act(x, w.t()), ValueError, "(5, 6)"),
            (lambda x, w: F.linear_act(x[0, 0], w), ValueError, "()"),
            (lambda x, w: F.linear_act(x, w, w[0]), ValueError, "(5,)"),
            (lambda x, w: F.linear_act(x, w, activation="softmax"), ValueError, "softmax"),
            (lambda x, w: F.linear_act(x, w, alpha=1.0), TypeError, "alpha"),
            (lambda x, w: F.mlp(x, w, None, w), ValueError, "(6, 5)"),
            (lambda x, w: F.gated_mlp(x, w, None, w.t()), ValueError, "(5, 6)"),
            (lambda x, w: F.gated_mlp(x, w[:5], None, w.t()), ValueError, "must be even in number"),
            (lambda x, w: F.gated_mlp(x, w, w[:4], w.t()), ValueError, "(4, 5)"),
            (lambda x, w: F.gated_mlp(x, w, w, w.t(), interleaved=True), ValueError, "interleaved"),
            (lambda x, w: F.gated_mlp(x, w, None, w[:, :3], b_up=w[:, 0]), ValueError, "b_up"),
            (lambda x, w: F.maxout_linear(x, w, None, 4), ValueError, "num_pieces 4"),
            (lambda x, w: F.maxout_linear(x, w, None, 0), ValueError, "num_pieces 0"),
            (lambda x, w: F.maxout_linear(x, w, None, 2.0), TypeError, "float"),
            (lambda x, w: nn.MaxoutLinear(5, 3, "2"), TypeError, "num_pieces must be an int, got str"),
            (lambda x, w: F.linear_act(x, w, None, torch.nn.GELU()), TypeError, "a name such as 'gelu', got GELU"),
            (lambda x, w: nn.GatedMLP(5, 6, gate_first=False), ValueError, "packed=True"),
            (lambda x, w: nn.GatedMLP(5, 6, interleaved=True), ValueError, "packed=True"),
        ],
    )
    def test_bad_arguments_are_named(self, call, error, named):
        with pytest.raises(error, match=re.escape(named)):
            call(torch.zeros(4, 5), torch.zeros(6, 5))

    @pytest.mark.parametrize("module", ["functional.linear", "nn.linear"])
    def test_examples(self, module):
        import doctest

        assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0


@pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")
class TestModules:
    def test_parameters_are_those_of_the_layers_they_stand_for(self):
        torch.manual_seed(0)
        theirs = torch.nn.Linear(5, 6)
        torch.manual_seed(0)
        ours = nn.LinearAct(5, 6, "silu")
        assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
        ours.reset_parameters()
        assert not torch.equal(ours.weight, theirs.weight) and ours.weight.abs().max() <= 5**-0.5
        assert set(nn.MLP(5, 6).state_dict()) == {f"fc{at}.{name}" for at in (1, 2) for name in ("weight", "bias")}
        packed = nn.GatedMLP(5, 6, packed=True).state_dict()
        assert {name: tuple(one.shape) for name, one in packed.items()} == {
            "gate_up_proj.weight": (12, 5), "down_proj.weight": (5, 6)
        }  # fmt: skip

    @pytest.mark.parametrize(
        "module",
        [nn.LinearAct(5, 6, "leaky_relu", negative_slope=0.3), nn.LinearAct(5, 6, bias=False, round_preact=True),
         nn.MLP(5, 6, 3, "silu"), nn.MLP(5, 6, recompute=True), nn.GatedMLP(5, 6, bias=True, limit=1.0),
         nn.GatedMLP(5, 6, packed=True, interleaved=True), nn.MaxoutLinear(5, 6, 3)],
        ids=repr,
    )  # fmt: skip
    def test_a_module_is_its_function_and_survives_copying(self, module):
        x = numbers(3, 5, dtype=torch.float32, device="cpu")
        assert torch.equal(copy.deepcopy(module)(x), module(x))
        for name, layer in list(module.named_children()):
            setattr(module, name, torch.nn.Sequential(layer))  # which has no weight: it has to be called
        if isinstance(module, (nn.MLP, nn.GatedMLP)):
            whole = copy.deepcopy(module)
            for name, layer in list(whole.named_children()):
                setattr(whole, name, layer[0])
            torch.testing.assert_close(module(x), whole(x))

    @pytest.mark.parametrize(
        "listen",
        [
            lambda layer, heard: layer.register_forward_hook(lambda *_: heard.append(1)),
            lambda layer, heard: layer.register_forward_pre_hook(lambda *_: heard.append(1)),
            lambda layer, heard: layer.register_full_backward_hook(lambda *_: heard.append(1)),
            lambda layer, heard: layer.register_full_backward_pre_hook(lambda *_: heard.append(1)),
            lambda layer, heard: setattr(layer, "forward", lambda x: heard.append(1) or type(layer).forward(layer, x)),
        ],
        ids=["forward", "before", "backward", "before backward", "its own forward"],
    )
    @pytest.mark.parametrize("make", [nn.MLP, nn.GatedMLP], ids=lambda make: make.__name__)
    def test_layers_that_somebody_listens_to_are_called(self, make, listen):
        module, heard = make(5, 6), []
        listen(next(module.children()), heard)
        module(torch.ones(3, 5, requires_grad=True)).sum().backward()
        assert heard == [1]

    def test_a_weight_that_multiplies_in_its_own_way_does_so(self):
        class Doubled(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                with torch._C.DisableTorchFunctionSubclass():
                    made = function(*args, **(kwargs or {}))
                    return 2 * made if function is torch.nn.functional.linear else made

        module, x = nn.MLP(5, 6, activation="relu", bias=False), torch.ones(3, 5)
        expected = 2 * module(x)
        weight = module.fc1.weight.detach().as_subclass(Doubled)
        del module.fc1.weight
        module.fc1.weight = weight
        torch.testing.assert_close(module(x).as_subclass(torch.Tensor), expected)

    def test_wrong_options_are_named(self):
        with pytest.raises(ValueError, match="nonsense"):
            nn.MLP(4, 5, activation="nonsense")
        with pytest.raises(TypeError, match="beta"):
            nn.GatedMLP(4, 5, beta=1.0)
        with pytest.raises(ValueError, match="0"):
            nn.MaxoutLinear(4, 5, 0)


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not interpreter and not float16 and not every_activation")
