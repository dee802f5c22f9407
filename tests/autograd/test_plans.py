"""Repeated calls, served by the C++ node from recorded plans, give what the first ones gave, whatever changes."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
import torch
from conftest import DEVICE

import nnkernels
import nnkernels.functional as F
from nnkernels.autograd import has_cpp_node

needs_node = pytest.mark.skipif(not has_cpp_node(), reason="the C++ node was not built for this torch")
AFFINE = ((8,), (8,))
CALLS = {
    "swiglu packed": (lambda x: F.swiglu(x, dim=1), ()),
    "swiglu of two": (F.swiglu, ((6, 8, 10),)),
    "prelu": (F.prelu, ((8,),)),
    "swish": (F.swish, ((1,),)),
    "apl": (F.apl, ((3, 8), (3, 8))),
    "xielu": (F.xielu, ((1,), (1,))),
    "snake": (lambda x, alpha: F.snake(x, alpha), ((8,),)),
    "snake_beta": (F.snake_beta, ((8,), (8,))),
    "starrelu": (F.starrelu, ((1,), (8,))),
    "dyt": (F.dyt, ((1,), (10,), (10,))),
    "maxout": (lambda x: F.maxout(x, 2, -1), ()),
    "lif": (F.lif, ()),
    "sparsemax": (lambda x: F.sparsemax(x, 1), ()),
    "squash": (lambda x: F.squash(x, 1), ()),
    "addressing": (lambda x, key: F.content_addressing(x, key, key[..., 0]), ((6, 2, 10),)),
    "route": (lambda x: F.route(x.unflatten(1, (4, 2))), ()),
    "gru_gates": (lambda h, x, y: F.gru_gates(x, y, h), ((6, 8, 30), (6, 8, 30))),
    "gaussian_rbf": (F.gaussian_rbf, ((5, 10),)),
    "gaussian_rbf of learned widths": (lambda x, c, g: F.gaussian_rbf(x, c, g.abs()), ((5, 10), (5,))),
    "linear and silu": (lambda x, w, b: F.linear_act(x, w, b, "silu"), ((7, 10), (7,))),
    "linear and relu": (lambda x, w: F.linear_act(x, w, activation="relu"), ((7, 10),)),
    "mlp": (lambda x, v, b, w, c: F.mlp(x, v, b, w, c, "mish"), ((7, 10), (7,), (4, 7), (4,))),
    "recomputed mlp": (lambda x, v, w: F.mlp(x, v, None, w, recompute=True), ((7, 10), (4, 7))),
    "gated mlp": (F.gated_mlp, ((7, 10), (7, 10), (4, 7))),
    "packed gated mlp": (lambda x, v, w: F.gated_mlp(x, v, None, w), ((14, 10), (4, 7))),
    "linear and maxout": (lambda x, w, b: F.maxout_linear(x, w, b, 2), ((6, 10), (6,))),
    "dropout": (F.dropout, ()),
    "rrelu": (lambda x: F.rrelu(x, training=True), ()),
    "bernoulli": (F.bernoulli_straight_through, ()),
    "softmax": (lambda x: F.softmax(x, -1), ()),
    "log_softmax": (lambda x: F.log_softmax(x, 1), ()),
    "bias_act": (lambda x, bias: F.bias_act(x, bias, "gelu"), ((10,),)),
    "bias_act with all": (lambda x, b, r: F.bias_act(x, b, "silu", dropout_p=0.3, residual=r), ((10,), (6, 8, 10))),
    "layer scale": (lambda x, gamma, r: F.scale_act(x, gamma, residual=r), ((10,), (6, 8, 10))),
    "gate": (lambda x, gate: F.scale_act(x, gate, "sigmoid"), ((8, 1),)),
    "layer norm": (lambda x, w, b: F.layer_norm_act(x, 10, w, b, activation="silu"), ((10,), (10,))),
    "layer norm of channels": (lambda x, w, b: F.layer_norm_act(x, 8, w, b, activation="silu", dim=1), ((8,), (8,))),
    "rms norm": (lambda x, w: F.rms_norm_act(x, (8, 10), w), ((8, 10),)),
    "gated rms norm": (lambda x, z, w: F.gated_rms_norm(x, z, (8, 10), w), ((6, 8, 10), (8, 10))),
    "rms norm of a sum": (lambda x, r, w: sum(F.add_rms_norm(x, r, (8, 10), w)), ((6, 8, 10), (8, 10))),
    "group norm": (lambda x, w, b: F.group_norm_act(x, 2, w, b, activation="silu"), AFFINE),
    "batch norm": (lambda x, w, b: F.batch_norm_act(x, None, None, w, b, training=True, activation="mish"), AFFINE),
}
LAYOUTS = {
    "dense": lambda x: x.contiguous(),
    "transposed": lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
    "rows apart": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "not aligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}


def is_ours_in_cpp(node):
    return node.name().startswith("NNKernels") and not isinstance(node, torch.autograd.function.BackwardCFunction)


def tensors(name, layout, dtype):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator) for shape in ((6, 8, 10), *CALLS[name][1])]
    made = [LAYOUTS[layout](t) if t.dim() == 3 else t for t in (t.to(DEVICE, dtype) for t in made)]
    return [t.detach().requires_grad_() for t in made]


def once(name, given, grad=None):
    torch.manual_seed(3)
    y = CALLS[name][0](*given)
    grad = torch.cos(torch.arange(y.numel(), device=DEVICE)).view(y.shape).to(y.dtype) if grad is None else grad
    return [y.detach(), *torch.autograd.grad(y, given, grad)], y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_every_call_gives_the_same(name, layout, dtype):
    given = tensors(name, layout, dtype)
    first, _ = once(name, given)
    for _ in range(3):
        again, y = once(name, given)
        pairs = zip(first, again, strict=True)
        assert all(torch.equal(one, other) and one.stride() == other.stride() for one, other in pairs)
    made_by = [y.grad_fn, *(before for before, _ in y.grad_fn.next_functions if before is not None)]
    assert not has_cpp_node() or any(map(is_ours_in_cpp, made_by))


@needs_node
@pytest.mark.parametrize("name", CALLS)
def test_other_contents_shapes_and_gradients_are_not_confused(name):
    for scale in (1.0, 3.0, -2.0, 0.5):
        for rows in (6, 5, 6):
            given = [t.detach() * scale for t in tensors(name, "dense", torch.float64)]
            given = [(t[:rows] if t.dim() == 3 else t).contiguous().requires_grad_() for t in given]
            y = once(name, given)[1]
            for grad in (torch.ones_like(y), torch.ones((), dtype=y.dtype, device=DEVICE).expand(y.shape), None):
                found, _ = once(name, given, grad)
                with nnkernels.backend("reference"):
                    expected, _ = once(name, given, grad)
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@needs_node
@pytest.mark.parametrize("name", CALLS)
def test_second_derivatives_come_through_a_repeated_call(name):
    def twice():
        given = tensors(name, "dense", torch.float64)
        torch.manual_seed(3)
        y = CALLS[name][0](*given)
        gradients = torch.autograd.grad(y.sin().sum(), given, create_graph=True)
        total = sum(g.square().sum() for g in gradients)
        return torch.autograd.grad(total, given, allow_unused=True)

    with nnkernels.backend("reference"):
        expected = twice()
    for _ in range(4):
        for one, other in zip(twice(), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@needs_node
@pytest.mark.parametrize("name", ["dropout", "rrelu", "bias_act with all"])
def test_each_repeated_call_draws_anew(name):
    given = tensors(name, "dense", torch.float32)
    torch.manual_seed(0)
    values = [CALLS[name][0](*given).detach() for _ in range(6)]
    assert all(not torch.equal(one, other) for one, other in pairwise(values))
    torch.manual_seed(0)
    assert all(torch.equal(CALLS[name][0](*given), value) for value in values)


@needs_node
def test_running_statistics_move_in_every_call():
    x = torch.randn(16, 4, 5, device=DEVICE)
    ours, theirs = nnkernels.nn.BatchNormAct1d(4).to(DEVICE), torch.nn.BatchNorm1d(4).to(DEVICE)
    for step in range(6):
        torch.testing.assert_close(ours(x + step), theirs(x + step), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
        assert ours.running_mean._version == theirs.running_mean._version


@needs_node
def test_only_some_gradients_are_asked_for():
    for wanted in ((True, False, True), (False, True, False), (True, True, False)) * 3:
        whole = tensors("layer norm", "dense", torch.float64)
        given = [t.detach().requires_grad_(w) for t, w in zip(whole, wanted, strict=True)]
        y = CALLS["layer norm"][0](*given)
        leaves = [t for t in given if t.requires_grad]
        found = torch.autograd.grad(y.sum(), leaves)
        with nnkernels.backend("reference"):
            expected = torch.autograd.grad(CALLS["layer norm"][0](*given).sum(), leaves)
        torch.testing.assert_close(found, expected)


@needs_node
def test_threads_share_plans():
    expected = once("layer norm", tensors("layer norm", "dense", torch.float32))[0]
    wrong = []

    def run():
        for _ in range(30):
            found, _ = once("layer norm", tensors("layer norm", "dense", torch.float32))
            wrong.extend(one for one, other in zip(found, expected, strict=True) if not torch.equal(one, other))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_node
def test_a_backward_pass_twice_and_hooks_on_what_is_kept():
    packed = []
    for calls in range(1, 5):
        given = tensors("swiglu of two", "dense", torch.float64)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t.clone(), lambda t: t):
            y = F.swiglu(*given)
        one = torch.autograd.grad(y.sum(), given, retain_graph=True)
        two = torch.autograd.grad(y.sum(), given)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True)) and len(packed) == 2 * calls
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(y.sum(), given)


@needs_node
def test_what_was_kept_may_not_change_in_place():
    for _ in range(4):
        gate, up = (t * 1 for t in tensors("swiglu of two", "dense", torch.float64))
        y = F.swiglu(gate, up)
        gate.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@needs_node
def test_a_tensor_given_twice_is_not_two_tensors():
    x, other = tensors("swiglu of two", "dense", torch.float64)
    for _ in range(4):
        torch.testing.assert_close(F.swiglu(x, x), torch.nn.functional.silu(x) * x)
    for gate, up in ((x, other), (other, x), (x, x)):
        y = F.swiglu(gate, up)
        torch.testing.assert_close(y, torch.nn.functional.silu(gate) * up)
    y = F.bias_act(x, activation="silu", residual=x)
    for _ in range(4):
        found = torch.autograd.grad(F.bias_act(x, activation="silu", residual=x).sum(), x)
    expected = torch.autograd.grad((torch.nn.functional.silu(x) + x).sum(), x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(F.bias_act(x, activation="silu", residual=other), torch.nn.functional.silu(x) + other)


@needs_node
def test_tensors_that_share_memory_are_told_apart():
    whole = torch.randn(6, 20, dtype=torch.float64, device=DEVICE)
    for _ in range(4):
        left, right = whole.chunk(2, -1)
        torch.testing.assert_close(F.swiglu(left, right), torch.nn.functional.silu(left) * right)
    apart = [torch.randn(6, 20, dtype=torch.float64, device=DEVICE)[:, :10] for _ in range(2)]
    torch.testing.assert_close(F.swiglu(*apart), torch.nn.functional.silu(apart[0]) * apart[1])
