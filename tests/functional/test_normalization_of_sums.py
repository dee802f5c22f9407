"""Norms of a sum, which they give as well, norms that gate, and RMS norm's offset: as the separate operations."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from row_norms import EVERY_DTYPE, composition, each_backend, leaves, off, on_torch_alone, ours  # noqa: F401
from triton_tools import INTERPRETED, compiles, interpret

import nnkernels.functional as F
from nnkernels import accuracy, nn


def summed(norm, x, addend, weight, bias=None, offset=0.0, **how):
    if norm == "rms_norm":
        return F.add_rms_norm(x, addend, x.shape[-1], weight, 1e-5, offset=offset, **how)
    return F.add_layer_norm(x, addend, x.shape[-1], weight, bias, 1e-5, **how)


@EVERY_DTYPE
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("shape", [(5, 7), (35, 24), (2, 3, 300)], ids=str)
def test_a_sum_and_its_norm_are_those_of_two_operations(norm, shape, dtype, device):
    if INTERPRETED and dtype not in (torch.float32, torch.bfloat16):
        pytest.skip("interpreted, each row costs")
    x, weight, bias, addend = leaves(norm, shape, device, dtype)
    given = [tensor for tensor in (x, addend, weight, bias) if tensor is not None]
    y, total = summed(norm, x, addend, weight, bias)
    assert torch.equal(total, x + addend) and total.dtype == dtype and total.is_contiguous()
    alone = total.detach().requires_grad_()
    assert torch.equal(y, ours(norm, alone, weight, bias))
    one, two = torch.randn_like(y), torch.randn_like(y)
    found = torch.autograd.grad([y, total], given, [one, two])
    wide = [tensor.detach().double().requires_grad_() for tensor in (alone, *given[2:])]
    exact = torch.autograd.grad(composition(norm, *wide), wide, one.double())
    exact = [exact[0] + two.double()] * 2 + list(exact[1:])
    for got, want, tensor in zip(found, exact, given, strict=True):
        assert got.dtype == tensor.dtype and got.shape == tensor.shape
        over = (y.numel() / got.numel()) ** 0.5 if got.numel() < y.numel() else 3.0
        assert off(got, want, over) <= 3 * accuracy.LIMITS[dtype]


@pytest.mark.parametrize(
    ("of", "beside"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.float64),
    ],
    ids=str,
)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("shape", [(35, 24), (2, 3, 300)], ids=str)
def test_the_operands_of_a_sum_may_differ_in_type(norm, shape, of, beside, device):
    if INTERPRETED and (of, beside) != (torch.bfloat16, torch.float32):
        pytest.skip("interpreted, each row costs")
    x, weight, bias, addend = leaves(norm, shape, device, of)
    addend = addend.detach().to(beside).requires_grad_()
    given = [tensor for tensor in (x, addend, weight, bias) if tensor is not None]
    expected = x.detach() + addend.detach()
    alone = expected.requires_grad_()
    for _ in range(1 if INTERPRETED else 4):  # the later ones by the C++ node
        y, total = summed(norm, x, addend, weight, bias)
        assert total.dtype == y.dtype == torch.promote_types(of, beside)
        assert torch.equal(total, expected) and torch.equal(y, ours(norm, alone, weight, bias))
        one, two = torch.randn_like(y), torch.randn_like(y)
        found = torch.autograd.grad([y, total], given, [one, two], retain_graph=True)
        joined = torch.autograd.grad([ours(norm, alone, weight, bias), alone * 1], [alone, *given[2:]], [one, two])
        for got, want in zip(found, [joined[0].to(of), joined[0].to(beside), *joined[1:]], strict=True):
            tolerance = 4 * torch.finfo(got.dtype).eps
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.abs().max().item())
        for got, want, operand in zip(found, given, (x, addend), strict=False):
            assert got.dtype == want.dtype
            (apart,) = torch.autograd.grad([y, total], operand, [one, two], retain_graph=True)
            assert torch.equal(apart, got)
        (passed,) = torch.autograd.grad(total, x, two)
        assert torch.equal(passed, two.to(of))


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_either_output_of_a_sum_can_be_left_alone(norm, device):
    x, weight, bias, addend = leaves(norm, (3, 40), device, torch.float32)
    for _ in range(1 if INTERPRETED else 4):  # the later ones by the C++ node
        y, total = summed(norm, x, addend, weight, bias)
        for_x, for_addend = torch.autograd.grad(total, (x, addend), torch.full_like(total, 2.0), retain_graph=True)
        assert torch.equal(for_x, torch.full_like(x, 2.0)) and torch.equal(for_addend, for_x)
        (alone,) = torch.autograd.grad(y, x, torch.ones_like(y).cumsum(-1))
        z = total.detach().requires_grad_()
        (other,) = torch.autograd.grad(ours(norm, z, weight, bias), z, torch.ones_like(y).cumsum(-1))
        assert torch.equal(alone, other)


def test_an_offset_is_added_to_the_weight(device):
    x, weight, _, addend = leaves("rms_norm", (6, 200), device, torch.float32)
    for activation in ("identity", "silu"):
        mine = F.rms_norm_act(x, 200, weight, 1e-5, activation, offset=1.0)
        whole = (weight.detach() + 1).requires_grad_()
        other = F.rms_norm_act(x, 200, whole, 1e-5, activation)
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        for got, want in zip(
            torch.autograd.grad(mine.sum(), (x, weight)), torch.autograd.grad(other.sum(), (x, whole)), strict=True
        ):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    mine, _ = summed("rms_norm", x, addend, weight, offset=1.0)
    torch.testing.assert_close(mine, summed("rms_norm", x, addend, weight + 1)[0], rtol=1e-6, atol=1e-6)


@on_torch_alone
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_gradients_of_every_order_of_a_sum(norm):
    x, weight, bias, addend = leaves(norm, (2, 3, 4), "cpu")
    given = [tensor for tensor in (x, addend, weight, bias) if tensor is not None]

    def function(*tensors):
        return summed(norm, *tensors)

    assert torch.autograd.gradcheck(function, given, check_forward_ad=True)
    for _ in range(4):
        assert torch.autograd.gradgradcheck(function, given)


@on_torch_alone
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_a_broadcast_residual_of_another_type_gets_an_exact_gradient(norm):
    x, weight, bias, _ = leaves(norm, (4096, 16), "cpu", torch.float32)
    residual = torch.randn(16, dtype=torch.float64).bfloat16().requires_grad_()
    y, total = summed(norm, x, residual, weight, bias)
    assert torch.equal(total, x + residual)
    for_x, for_residual = torch.autograd.grad(y.sum() + total.sum(), (x, residual))
    torch.testing.assert_close(for_residual, for_x.double().sum(0).bfloat16(), rtol=2**-8, atol=0)


@on_torch_alone
def test_second_derivatives_of_a_sum_of_two_types():
    x, weight, _, addend = leaves("rms_norm", (2, 5), "cpu", torch.float32)
    addend = addend.detach().double().requires_grad_()

    def penalty(function):
        y, total = function()
        grads = torch.autograd.grad((y.square() * total).sum(), (x, addend), create_graph=True)
        return torch.autograd.grad(sum(grad.double().square().sum() for grad in grads), (x, addend, weight))

    for _ in range(4):
        found = penalty(lambda: summed("rms_norm", x, addend, weight))
        truth = penalty(lambda: (composition("rms_norm", x + addend, weight), x + addend))
        for got, want, operand in zip(found, truth, (x, addend, weight), strict=True):
            assert got.dtype == operand.dtype
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@on_torch_alone
def test_no_operator_casts_an_operand_of_a_sum():
    """What autocast gives a block: a product's output in 16 bits, and the stream that it is added to in 32."""
    x, weight, bias, addend = leaves("layer_norm", (8, 32), "cpu", torch.bfloat16, parameters=torch.float32)
    addend = addend.detach().float().requires_grad_()

    def step(forward):
        outputs = forward()
        torch.autograd.grad(outputs, (x, addend, weight, bias), [torch.ones_like(one) for one in outputs])

    def operators(forward):
        for _ in range(3):
            step(forward)
        with torch.profiler.profile() as profile:
            step(forward)
        return [event.name for event in profile.events() if event.name.startswith(("aten::_to_copy", "aten::copy_"))]

    mine = operators(lambda: summed("layer_norm", x, addend, weight, bias))
    theirs = operators(lambda: [torch.nn.functional.layer_norm(x + addend, (32,), weight, bias), (x + addend)])
    assert not mine and theirs


@on_torch_alone
def test_backward_of_a_sum_keeps_the_sum_alone():
    kept = []
    x, weight, _, addend = leaves("rms_norm", (4, 32), "cpu", torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        _, total = summed("rms_norm", x, addend, weight)
    assert sum(t.numel() * t.element_size() for t in kept if t.data_ptr() != weight.data_ptr()) == 512 + 4 * 8
    assert total.data_ptr() in {t.data_ptr() for t in kept}


@on_torch_alone
def test_a_sum_that_somebody_writes_is_found_out():
    x, weight, _, addend = leaves("rms_norm", (4, 32), "cpu", torch.float32)
    for _ in range(4):
        y, total = summed("rms_norm", x, addend, weight)
        with torch.no_grad():
            total.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@on_torch_alone
def test_compilers_transforms_and_types_of_a_sum():
    x, weight, _, addend = leaves("rms_norm", (4, 6), "cpu", torch.float32)
    compiled = torch.compile(lambda *t: summed("rms_norm", *t), fullgraph=True, backend="aot_eager")
    for mine, other in zip(compiled(x, addend, weight), summed("rms_norm", x, addend, weight), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    batch = torch.func.vmap(lambda x: summed("rms_norm", x, addend[0], weight))(x)
    torch.testing.assert_close(batch, summed("rms_norm", x, addend[:1], weight), rtol=1e-5, atol=1e-6)
    empty = summed("rms_norm", x[:0], addend[:0], weight)
    assert empty[0].shape == empty[1].shape == (0, 6)
    for narrow in (torch.bfloat16, torch.float16):
        y, total = summed("rms_norm", x, addend, weight, dtype=narrow)
        assert y.dtype == narrow and total.dtype == torch.float32
        low = x.detach().to(narrow).requires_grad_()
        y, total = summed("rms_norm", low, addend, weight, dtype=torch.float32)
        assert y.dtype == total.dtype == torch.float32
        assert torch.autograd.grad([y.sum() + total.sum()], low)[0].dtype == narrow


@on_torch_alone
def test_modules_of_a_sum():
    x, residual = torch.randn(3, 6), torch.randn(6)
    for mine, norm in ((nn.AddLayerNorm(6), torch.nn.LayerNorm(6)), (nn.AddRMSNorm(6), torch.nn.RMSNorm(6))):
        y, total = mine(x, residual)
        torch.testing.assert_close(y, norm(x + residual), rtol=1e-5, atol=1e-6)
        assert torch.equal(total, x + residual) and mine.state_dict().keys() == norm.state_dict().keys()
    gemma = nn.AddRMSNorm(6, offset=1.0)
    assert not gemma.weight.any() and repr(gemma).endswith("offset=1.0)")
    torch.testing.assert_close(gemma(x, residual)[0], torch.nn.RMSNorm(6)(x + residual), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(nn.RMSNormAct(6, offset=1.0)(x), torch.nn.RMSNorm(6)(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="'residual' must be Tensor, not NoneType"):
        F.add_rms_norm(x, None, 6)
    with pytest.raises(TypeError, match="offset"):
        F.rms_norm_act(x, 6, offset="one")


@EVERY_DTYPE
@pytest.mark.parametrize("first", ["norm", "gate"])
@pytest.mark.parametrize("activation", ["silu", "relu", "identity"])
@pytest.mark.parametrize("shape", [(35, 24), (2, 3, 300)], ids=str)
def test_a_gated_norm_is_the_composition(activation, shape, first, dtype, device):
    if INTERPRETED and (dtype not in (torch.float32, torch.bfloat16) or activation == "relu"):
        pytest.skip("interpreted, each row costs")
    x, weight, _, gate = leaves("rms_norm", shape, device, dtype)
    y = F.gated_rms_norm(x, gate, shape[-1], weight, 1e-5, activation, norm_before_gate=first == "norm")
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, gate, weight)]
    factor = wide[1] * 1 if activation == "identity" else getattr(F, activation)(wide[1])
    exact = composition("rms_norm", wide[0], wide[2]) * factor
    if first == "gate":
        exact = composition("rms_norm", wide[0] * factor, wide[2])
    assert y.dtype == dtype and off(y, exact) <= accuracy.LIMITS[dtype]
    grad = torch.cos(torch.arange(y.numel())).view_as(y).to(y)  # the same on each device
    found, truth = torch.autograd.grad(y, (x, gate, weight), grad), torch.autograd.grad(exact, wide, grad.double())
    for got, want in zip(found, truth, strict=True):
        over = (y.numel() / got.numel()) ** 0.5 if got.numel() < y.numel() else 3.0
        assert off(got, want, over) <= (1 if dtype.itemsize == 2 else 4) * accuracy.LIMITS[dtype]


@on_torch_alone
@pytest.mark.parametrize("group_size", [None, 2])
@pytest.mark.parametrize("before", [True, False], ids=["norm first", "gate first"])
def test_a_gated_norm_in_every_context(before, group_size):
    x, weight, _, gate = leaves("rms_norm", (2, 3, 4), "cpu")

    def function(x, gate, weight):
        options = {"activation": "mish", "offset": 0.5, "norm_before_gate": before, "group_size": group_size}
        return F.gated_rms_norm(x, gate, 4, weight, **options)

    assert torch.autograd.gradcheck(function, (x, gate, weight), check_forward_ad=True)
    for _ in range(4):
        assert torch.autograd.gradgradcheck(function, (x, gate, weight))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, gate, weight), function(x, gate, weight))


@on_torch_alone
def test_gated_norms_of_mamba_2():
    from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

    if "group_size" not in inspect.signature(MambaRMSNormGated).parameters:
        pytest.skip("this version of transformers has no groups")
    for group_size, dtype in itertools.product((24, 8), (torch.float32, torch.bfloat16)):
        theirs = MambaRMSNormGated(24, group_size, 1e-5).to(dtype)
        torch.nn.init.normal_(theirs.weight)
        ours = nn.GatedRMSNorm(24, 1e-5, dtype=dtype, norm_before_gate=False, group_size=group_size)
        ours.load_state_dict(theirs.state_dict())
        x, gate = torch.randn(2, 2, 5, 24, dtype=dtype).requires_grad_()
        found, wanted = ours(x, gate), theirs(x, gate)
        limits = {"rtol": 2**-7, "atol": 2**-8} if dtype == torch.bfloat16 else {}  # they round twice
        torch.testing.assert_close(found, wanted, **limits)
        grads = [torch.autograd.grad(y, (x, gate), y.detach(), retain_graph=True) for y in (found, wanted)]
        torch.testing.assert_close(
            *grads, **({"rtol": 2**-5, "atol": 2**-4} if limits else {"rtol": 1e-4, "atol": 1e-5})
        )
    assert repr(ours).endswith("norm_before_gate=False, group_size=8)")
    for size in (7, 0, 48):
        with pytest.raises(ValueError, match=rf"group_size={size} .*\(24,\)"):
            F.gated_rms_norm(x, gate, 24, group_size=size)


@on_torch_alone
def test_the_module_and_the_types_of_a_gated_norm():
    x, _, _, gate = leaves("rms_norm", (2, 3, 4), "cpu")
    module = nn.GatedRMSNorm(4, activation="leaky_relu", negative_slope=0.5)
    expected = torch.nn.RMSNorm(4)(x.float()) * torch.nn.functional.leaky_relu(gate.float(), 0.5)
    torch.testing.assert_close(module(x.float(), gate.float()), expected, rtol=1e-5, atol=1e-6)
    assert repr(module).endswith("activation='leaky_relu', negative_slope=0.5)")
    for narrow in (torch.bfloat16, torch.float16):
        assert F.gated_rms_norm(x.float(), gate, 4, dtype=narrow).dtype == narrow
    with pytest.raises(ValueError, match=r"a gate of shape \(5,\)"):
        F.gated_rms_norm(x, torch.ones(5).double(), 4)


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="")
