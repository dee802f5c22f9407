"""Layer and rms norm over a dimension that is not the last: as the composition in float64 says, in every layout.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported.
"""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from row_norms import EVERY_DTYPE, composition, each_backend, holds, leaves, on_torch_alone, ours  # noqa: F401
from torch.autograd.graph import saved_tensors_hooks
from triton_tools import HAS_TRITON, INTERPRETED, compile_ahead, compiles, interpret, spills

import nnkernels.functional as F
from nnkernels import nn
from nnkernels.autograd import channel_normalization

NORMS = pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "some channels": lambda x: torch.stack([x, x + 1], 2).flatten(1, 2)[:, ::2],
    "some samples": lambda x: torch.cat([x, x])[: len(x)],
    "some lines": lambda x: torch.cat([x, x], 2)[:, :, : x.shape[2]],
    "positions apart": lambda x: torch.stack([x, x], -1)[..., 0],
    "channels first": lambda x: x.movedim(1, 0).contiguous().movedim(0, 1),
}


@pytest.fixture(params=["held", "chunks"])
def tile(request, device, monkeypatch):
    """What a program of Triton's takes at once: all channels, or a few of them, and these by wide offsets."""
    if request.param == "chunks":
        if not INTERPRETED and device == "cpu":
            pytest.skip("tiles are Triton's")
        from nnkernels.triton import channel_normalization

        for name, value in {"_SHARING": 0, "_ELEMENTS": 2, "_FARTHEST": 0}.items():
            monkeypatch.setattr(channel_normalization, name, value)


@EVERY_DTYPE
@pytest.mark.parametrize(
    ("norm", "activation", "residual", "shape", "dim"),
    [
        ("layer_norm", "identity", False, (2, 7, 5), 1),
        ("layer_norm", "silu", True, (2, 24, 4, 12), 1),
        ("layer_norm", "gelu", True, (3, 20, 33), 1),
        ("layer_norm", "relu", False, (40, 70), 0),
        ("rms_norm", "identity", True, (2, 3, 16, 32), -2),
        ("rms_norm", "mish", True, (2, 5, 2, 3, 3), 1),
        ("rms_norm", "identity", False, (1, 70, 16), 1),
    ],
    ids=str,
)
def test_value_and_gradients_are_the_composition(norm, activation, residual, shape, dim, dtype, device, tile):
    if INTERPRETED and (dtype != torch.bfloat16 if shape == (2, 3, 16, 32) else dtype != torch.float32):
        pytest.skip("interpreted, each tile costs")
    holds(norm, leaves(norm, shape, device, dtype, residual, dim=dim), activation, dim=dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_a_mean_much_larger_than_the_spread_costs_no_digits(dtype, device, tile):
    if INTERPRETED and dtype != torch.float32:
        pytest.skip("interpreted, each tile costs")
    holds("layer_norm", leaves("layer_norm", (2, 24, 10), device, dtype, residual=False, mean=1e4, dim=1), dim=1)


def test_a_beginning_unlike_the_rest_costs_no_digits(device, tile):
    x, *others = leaves("layer_norm", (1, 24, 10), device, torch.float32, residual=False, mean=1e4, dim=1)
    with torch.no_grad():
        x[:, :10, :5] = 0
        x[:, :3, 5:] = -1e6
    holds("layer_norm", (x, *others), dim=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@NORMS
def test_every_layout_is_read_where_it_lies(norm, layout, device, tile):
    if INTERPRETED and (norm == "rms_norm" or layout in ("contiguous", "last", "some samples")):
        pytest.skip("interpreted, each tile costs")
    x, weight, bias, residual = leaves(norm, (2, 12, 3, 8), device, torch.float32, dim=1)
    x = LAYOUTS[layout](x.detach()).requires_grad_()
    holds(norm, (x, weight, bias, residual), "silu", dim=1)
    if layout in ("contiguous", "last"):
        y = ours(norm, x, weight, bias, residual, dim=1)
        (found,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert y.stride() == found.stride() == x.stride()


@on_torch_alone
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "last"])
def test_only_positions_that_lie_apart_are_copied(layout):
    x = LAYOUTS[layout](torch.randn(2, 12, 3, 8))
    given = channel_normalization._channels(x, (2, 12, 24))
    assert (given.data_ptr() == x.data_ptr()) == (layout != "positions apart")


@on_torch_alone
@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), norm=st.sampled_from(["layer_norm", "rms_norm"]),
       data=st.data())  # fmt: skip
def test_any_layout_and_dimension(shape, norm, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    order = data.draw(st.permutations(range(len(shape))))
    x = torch.randn([shape[d] for d in order]).double().permute([order.index(d) for d in range(len(shape))])
    weight = torch.randn(shape[dim]).double().requires_grad_()
    x.requires_grad_()
    y, exact = (one(norm, x, weight, activation="tanh", dim=dim) for one in (ours, composition))
    assert y.shape == x.shape and torch.allclose(y, exact, rtol=1e-12, atol=1e-13)
    grad = torch.randn(shape[::-1]).double().permute(list(reversed(range(len(shape)))))
    mine, truth = (torch.autograd.grad(one, (x, weight), grad) for one in (y, exact))
    for got, want in zip(mine, truth, strict=True):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9) and got.shape == want.shape


@NORMS
def test_types_may_differ_and_the_result_may_be_of_another(norm, device, tile):
    inputs = leaves(norm, (2, 24, 8), device, torch.bfloat16, parameters=torch.float32, dim=1)
    holds(norm, inputs, "silu", dim=1)
    if not INTERPRETED:
        y, exact = (one(norm, *inputs, "silu", dim=1) for one in (ours, composition))
        wide = ours(norm, *inputs, "silu", dim=1, dtype=torch.float32)
        assert wide.dtype == torch.float32 and torch.equal(wide.bfloat16(), y)
        assert torch.allclose(wide.double(), exact, rtol=1e-5, atol=1e-6)
        (found,) = torch.autograd.grad(wide.sum(), inputs[0])
        assert found.dtype == torch.bfloat16


def test_a_position_of_nan_is_alone(device, tile):
    x = torch.randn(2, 20, 40, device=device)
    x[1, 3, 7], x[0, 5, 9] = torch.nan, torch.inf
    y = ours("layer_norm", x, dim=1)
    assert y[1, :, 7].isnan().all() and y[0, :, 9].isnan().any()
    assert y.isfinite().sum() == y.numel() - 40


def test_the_residual_broadcasts_and_each_gradient_can_be_had_alone(device):
    x, weight, bias, _ = leaves("layer_norm", (2, 4, 6), device, dim=1)
    residual = torch.randn(4, 1, dtype=torch.float32, device=device).requires_grad_()
    for activation in ("identity", "silu"):
        tensors = (x, weight, bias, residual)
        spread = (x, weight, bias, residual.expand(2, 4, 6))
        truth = torch.autograd.grad(composition("layer_norm", *spread, activation, dim=1).sum(), tensors)
        for i, tensor in list(enumerate(tensors))[3 if INTERPRETED else 0 :]:
            others = [other if j == i else other.detach() for j, other in enumerate(tensors)]
            (found,) = torch.autograd.grad(ours("layer_norm", *others, activation, dim=1).sum(), tensor)
            assert found.dtype == tensor.dtype and torch.allclose(found, truth[i], rtol=1e-5, atol=1e-5)


@on_torch_alone
@pytest.mark.parametrize("activation", ["identity", "mish"])
@NORMS
def test_gradients_of_every_order(norm, activation):
    given = [tensor for tensor in leaves(norm, (2, 4, 3), "cpu", dim=1) if tensor is not None]

    def function(x, weight, *others):
        bias, residual = others if norm == "layer_norm" else (None, *others)
        return ours(norm, x, weight, bias, residual, activation, dim=1)

    assert torch.autograd.gradcheck(function, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, given)


@on_torch_alone
def test_backward_keeps_the_input_and_the_statistics():
    kept = []
    x, weight, bias, _ = leaves("layer_norm", (2, 8, 5), "cpu", torch.float32, residual=False, dim=1)
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ours("layer_norm", x, weight, bias, dim=1)
    parameters = {tensor.data_ptr() for tensor in (weight, bias)}
    assert sum(t.nbytes for t in kept if t.data_ptr() not in parameters) == x.nbytes + 2 * 2 * 5 * 8


@on_torch_alone
@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_compilers_transforms_and_modes(layout):
    x, *others = leaves("layer_norm", (2, 6, 3, 4), "cpu", torch.float32, dim=1)
    x = LAYOUTS[layout](x.detach()).requires_grad_()

    def f(x, *others):
        return ours("layer_norm", x, *others, "gelu", dim=1)

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")(x, *others)
    assert torch.allclose(compiled, f(x, *others), rtol=1e-5, atol=1e-6) and compiled.stride() == x.stride()
    both = torch.stack([x, -x], 1)
    for of in (f, torch.func.grad(lambda *given: f(*given).square().sum())):
        batch = torch.func.vmap(lambda x: of(x, *others), in_dims=1)(both)  # noqa: B023
        for one, alone in zip(batch, (x, -x), strict=True):
            assert torch.allclose(one, of(alone, *others), rtol=1e-4, atol=1e-5)
    tangent = torch.randn_like(x)
    _, along = torch.func.jvp(lambda x: f(x, *others), (x,), (tangent,))
    _, exact = torch.func.jvp(
        lambda x: composition("layer_norm", x, *(one.double() for one in others), activation="gelu", dim=1),
        (x.double(),), (tangent.double(),),
    )  # fmt: skip
    assert torch.allclose(along.double(), exact, rtol=1e-4, atol=1e-5)
    kept = torch.utils.checkpoint.checkpoint(f, x, *others, use_reentrant=False)
    for mine, other in zip(*(torch.autograd.grad(y.sum(), (x, *others)) for y in (kept, f(x, *others))), strict=True):
        assert torch.equal(mine, other)
    with torch.autocast("cpu", torch.bfloat16):
        assert f(x, *others).dtype == torch.float32 and f(x.bfloat16(), *others).dtype == torch.bfloat16


@on_torch_alone
@pytest.mark.parametrize(
    ("error", "says", "call"),
    [
        (ValueError, r"dim=1.*4 in .*\[2, 4, 6\].*got \[6\]", lambda x: F.layer_norm_act(x, 6, dim=1)),
        (RuntimeError, r"dim=-2.*\[4, 6\]", lambda x: F.rms_norm_act(x, (4, 6), dim=-2)),
        (IndexError, r"dim 3 is out of range.*\(2, 4, 6\)", lambda x: F.layer_norm_act(x, 4, dim=3)),
        (IndexError, "dim -4", lambda x: F.rms_norm_act(x, 4, dim=-4)),
        (TypeError, "dim must be an int, got float: 1.0", lambda x: F.rms_norm_act(x, 4, dim=1.0)),
        (ValueError, r"weight of shape \[6\].*\[4\]", lambda x: F.layer_norm_act(x, 4, torch.ones(6), dim=1)),
        (ValueError, r"\(3, 6\).*\(2, 4, 6\)", lambda x: F.rms_norm_act(x, 4, residual=torch.zeros(3, 6), dim=1)),
        (IndexError, "dim 5", lambda x: nn.LayerNormAct(4, dim=5)(x)),
        (ValueError, r"dim=2.*got \[4, 6\]", lambda x: F.layer_norm_act(x, (4, 6), dim=2)),
        (ValueError, r"dim=1.*\(4, 6\)", lambda x: nn.RMSNormAct((4, 6), dim=1)),
        (TypeError, "dim must be an int, got str", lambda x: nn.LayerNormAct(4, dim="x")),
    ],
)
def test_bad_input_is_named(error, says, call):
    with pytest.raises(error, match=says):
        call(torch.zeros(2, 4, 6))


@on_torch_alone
def test_the_modules():
    x, residual = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4)
    for own, theirs in ((nn.LayerNormAct, torch.nn.LayerNorm), (nn.RMSNormAct, torch.nn.RMSNorm)):
        module, other = own(6, 1e-3, activation="leaky_relu", dim=1, negative_slope=0.2), theirs(6, 1e-3)
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter)
        module.load_state_dict(other.state_dict())
        expected = torch.nn.functional.leaky_relu(other(x.movedim(1, -1)).movedim(-1, 1) + residual, 0.2)
        assert torch.allclose(module(x, residual), expected, rtol=1e-5, atol=1e-5)
        assert repr(module).endswith(", dim=1, activation='leaky_relu', negative_slope=0.2)")
        for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert repr(again) == repr(module) and torch.equal(again(x), module(x))


@on_torch_alone
@pytest.mark.skipif(not HAS_TRITON, reason="asks for Triton's tiles")
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("channels", [1, 3, 96, 256, 700, 5000])
@pytest.mark.parametrize("inner", [2, 49, 196, 3136])
def test_tiles_have_whole_sectors_and_few_numbers_in_a_thread(channels, inner, size, monkeypatch):
    from nnkernels.triton import channel_normalization, hardware

    monkeypatch.setattr(hardware, "shared_memory", lambda device: 2**17)
    monkeypatch.setattr(hardware, "multiprocessors", lambda device: 132)
    dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[size]
    x = torch.empty(2, channels, inner, dtype=dtype, device="meta")
    for operands, most in ((1, 64), (2, 32), (3, 32)):
        tile = channel_normalization.tile_of(*[x] * operands)
        assert not tile.is_held or tile.channels >= channels
        assert tile.width * size >= 32 or tile.width >= inner
        assert tile.channels * tile.groups * tile.width * max(1, size // 4) <= most * 32 * 4
        assert tile.lanes <= tile.channels and min(tile.groups, tile.stages) >= 1


@compiles
@pytest.mark.parametrize(
    ("name", "shape", "activation", "arch"),
    [
        ("forward", (32, 256, 3136), "identity", "sm_80"),
        ("forward", (64, 96, 3136), "gelu", "sm_90"),
        ("forward", (32, 512, 784), "identity", "sm_100"),
        ("forward_chunks", (32, 768, 1024), "gelu", "sm_90"),
        ("forward_chunks", (32, 768, 1024), "identity", "sm_100"),
        ("backward", (32, 256, 3136), "identity", "sm_80"),
        ("backward", (64, 96, 3136), "gelu", "sm_90"),
        ("backward", (32, 256, 3136), "silu", "sm_100"),
        ("backward", (64, 32, 3136), "silu", "sm_90"),
        ("backward_chunks", (32, 768, 1024), "gelu", "sm_90"),
        ("backward_chunks", (32, 768, 1024), "identity", "sm_100"),
    ],
)
def test_kernels_compile_with_few_numbers_spilled(name, shape, activation, arch, tmp_path, monkeypatch):
    from nnkernels.triton import (
        channel_normalization,
        channel_normalization_backward,
        channel_normalization_kernels,
        hardware,
    )  # fmt: skip
    from nnkernels.triton.activations import FORMULAS

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(hardware, "shared_memory", lambda device: 160 * 1024)
    monkeypatch.setattr(hardware, "multiprocessors", lambda device: 132)
    forward, identity = name.startswith("forward"), activation == "identity"
    kernel = getattr(channel_normalization_kernels if forward else channel_normalization_backward, name)
    x = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    residual = None if identity else x
    tile = channel_normalization.tile_of(*[x] * (2 - forward + (not identity)))
    assert tile.is_held == ("chunks" not in name)
    names = ("FULL", "EVEN", "DENSE", "WIDE", "ALIGN")
    constants = dict(zip(names, channel_normalization._layout(tile, x, residual), strict=True))
    constants |= {"STAGES": tile.stages, "STEPS": tile.steps, "GROUPS": tile.groups}
    constants |= {"LANES": tile.lanes, "WIDTH": tile.width}
    constants |= {"VALUE": FORMULAS[activation].value, "D1": None if identity else FORMULAS[activation].d1}
    constants |= {"MASKS": False, "CENTRED": True}
    constants |= dict.fromkeys(("residual_ptr", "grad_residual_ptr") if identity else ())
    types = dict.fromkeys(("statistics_ptr", "for_weight_ptr", "for_bias_ptr"), "*fp32")
    options = channel_normalization._registers(tile, x)
    sizes = channel_normalization_kernels.SIZES
    compiled = compile_ahead(kernel, arch, "bf16", constants, options.pop("num_warps"), types, uneven=sizes, **options)
    assert spills(compiled, tmp_path) <= 48 and compiled.metadata.shared * tile.each <= hardware.shared_memory(None)
    assert re.search(r"ld\.global\S*\.v[24]\.b32|cp\.async\.c[ag]\S* .*, 0x(8|10)", compiled.asm["ptx"])
    assert re.search(r"st\.global\S*\.v[24]\.b32", compiled.asm["ptx"])
    # A warp keeps what it loads: whole tiles never go from thread to thread.
    whole = f"tensor<{tile.steps}x{tile.groups}x{tile.lanes}x{tile.width}x"
    assert not any("convert_layout" in line and whole in line for line in compiled.asm["ttgir"].splitlines())


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="")
