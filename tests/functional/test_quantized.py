"""Activation and cast to 8 bits: against a table of all 8-bit numbers, on every backend, in every layout.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported, and
are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import re
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from triton_tools import INTERPRETED, NVIDIA, compile_ahead, compiles, interpret, on_each_backend

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, nn
from nnkernels.autograd import quantized as autograd
from nnkernels.contracts.quantized import BLOCK, LARGEST

DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "int8": torch.int8}
on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")


device = on_each_backend("reference", "triton")


@pytest.fixture(params=DTYPES.values(), ids=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def nearest(v: Tensor, dtype: torch.dtype) -> Tensor:
    """The 8-bit number nearest to each of `v`, of two the one with the even code, in float64; found in a table."""
    codes = torch.arange(128, dtype=torch.uint8)
    numbers = codes.view(dtype).double()
    numbers = numbers[numbers <= LARGEST[dtype]]
    middles = (numbers[1:] + numbers[:-1]) / 2
    size = v.double().abs().nan_to_num(0.0, posinf=math.inf)
    below, above = (torch.searchsorted(middles, size, right=right) for right in (False, True))
    index = torch.where(below % 2 == 0, below, above)
    found = torch.copysign(numbers[index], v.double())
    return torch.where(v.isnan(), 0.0 if dtype == torch.int8 else math.nan, found)


def same(q: Tensor, expected: Tensor) -> bool:
    """Whether all numbers agree, NaN with NaN, and the signs of zeros in floats."""
    q, expected = q.cpu(), expected.cpu()
    wide, exact = q.double(), expected.double()
    signs = q.dtype == torch.int8 or torch.equal(wide.signbit() | wide.isnan(), exact.signbit() | exact.isnan())
    return signs and q.shape == expected.shape and torch.equal(wide.nan_to_num(7), exact.nan_to_num(7))


def spread(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    """Numbers of many magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * sizes.exp()).to(dtype)


@pytest.mark.parametrize("scale", [1.0, 0.013])
def test_every_16_bit_number_is_rounded_to_the_nearest(scale, dtype, device):
    x = accuracy.inputs(torch.bfloat16).to(device)
    q, amax = F.act_quantize(x, dtype=dtype, scale=scale)
    v = x.float().cpu() * (1 / torch.tensor(scale))
    assert q.dtype == dtype and same(q, nearest(v, dtype))
    assert amax.shape == () and amax.isnan()
    finite = torch.where(x.isfinite(), x, 0)
    assert F.act_quantize(finite, dtype=dtype, scale=scale)[1] == finite.abs().max()


@pytest.mark.parametrize("pow2", [False, True], ids=["any", "pow2"])
@pytest.mark.parametrize("shape", [(3, 300), (2, 3, 256), (5, 1), (130,)], ids=str)
def test_rows_and_blocks_have_scales_of_their_own(shape, pow2, dtype, device):
    x = spread(*shape).to(device)
    x.view(-1)[: shape[-1] // 2] = 0
    cols = shape[-1]
    padded = torch.nn.functional.pad(x.float(), (0, -cols % BLOCK)).unflatten(-1, (-1, BLOCK))
    for granularity, groups in (("row", x.float().unsqueeze(-2)), ("block", padded)):
        q, scale = F.act_quantize(x, dtype=dtype, granularity=granularity, pow2=pow2)
        exact = groups.abs().amax(-1) * (1 / LARGEST[dtype])
        if pow2:
            exact = torch.exp2(exact.double().log2().ceil()).float()
        exact = torch.where(groups.abs().amax(-1) == 0, 1.0, exact)
        assert scale.dtype == torch.float32 and torch.equal(scale, exact)
        v = (groups * (1 / exact).unsqueeze(-1)).flatten(-2)[..., :cols]
        assert same(q, nearest(v.cpu(), dtype)) and q.is_contiguous()


def test_a_whole_tensor_has_one_scale(dtype, device):
    x = spread(7, 40).to(device)
    q, scale = F.act_quantize(x, dtype=dtype)
    assert scale.shape == () and scale == x.float().abs().max() * (1 / LARGEST[dtype])
    assert same(q, F.act_quantize(x, dtype=dtype, scale=scale)[0])
    q, scale = F.act_quantize(x, dtype=dtype, pow2=True)
    assert math.frexp(scale.item())[0] == 0.5 and 2 * q.double().abs().max() > LARGEST[dtype] * (1 - 2**-3)


def test_what_is_not_finite_or_too_small(dtype, device):
    x = torch.ones(5, 256)
    x[0, 3], x[1, 200], x[2], x[3], x[3, 0] = math.nan, -math.inf, 0.0, 1e-44, -1e-42
    x = x.to(device)
    for pow2 in (False, True):
        q, scale = F.act_quantize(x, dtype=dtype, granularity="block", pow2=pow2)
        assert scale[0, 0].isnan() and scale[1, 1] == math.inf and (scale[2:4] == 1).all()
        first, infinite = q[0, :BLOCK].double(), q[1, BLOCK:].double()
        integers = dtype == torch.int8
        assert (first == 0).all() if integers else first.isnan().all()
        assert (infinite[72] == 0 if integers else infinite[72].isnan()) and infinite.nan_to_num(0).abs().sum() == 0
        assert (q[2:4].double() == 0).all() and (q[4].double() >= LARGEST[dtype] / 2).all()
    assert F.act_quantize(x, dtype=dtype)[1].isnan()


@pytest.mark.parametrize("granularity", ["tensor", "row", "block"])
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "softplus", "tanh"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64], ids=["bf16", "fp32", "fp64"])
def test_values_are_the_activation_rounded_once(kind, name, granularity, device):
    x = spread(4, 200, dtype=kind).to(device)
    exact = accuracy.truth_of(
        nnkernels.activation(name), "value", x, *accuracy.constants_of(nnkernels.activation(name))
    )
    q, scale = F.act_quantize(x, name, granularity=granularity)
    scale = scale.repeat_interleave(BLOCK, -1)[..., :200] if granularity == "block" else scale
    # Half a step of e4m3 (3 bits), and what the activation and the scale are off.
    limit = exact.abs() * (2.0**-4 + 2.0**-12) + scale.double() * 2.0**-10 * (1 + 2.0**-12)
    assert ((q.double() * scale.double() - exact).abs() <= limit).all()


LAYOUTS = {
    "dense": lambda x: x,
    "transposed": lambda x: x.transpose(0, 1),
    "rows apart": lambda x: x[..., :24],
    "every other row": lambda x: x[:, ::2],
    "columns apart": lambda x: x[..., ::2],
    "repeated": lambda x: x[:, :1].expand(-1, 5, -1),
    "channels last": lambda x: x.unsqueeze(0).contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("granularity", ["tensor", "row", "block"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, granularity, device):
    x = LAYOUTS[layout](spread(6, 4, 144).to(device))
    q, scale = F.act_quantize(x, "relu", granularity=granularity)
    with nnkernels.backend("reference"):
        exact = F.act_quantize(x.contiguous(), "relu", granularity=granularity)
    assert same(q, exact[0]) and torch.equal(scale, exact[1])
    if granularity == "tensor":
        assert q.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("granularity", ["tensor", "row", "block"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"interleaved": True},
        {"gate_first": False, "interleaved": True},
        {"dim": 1},
        {"dim": 0, "limit": 0.5, "offset": 1.0},
    ],
    ids=str,
)
def test_gated(options, granularity, device):
    x = spread(4, 6, 272).to(device)
    q, scale = F.gated_quantize(x, "relu", granularity=granularity, **options)
    exact = F.gated(x.double(), "relu", **options).float()
    expected = F.act_quantize(exact, granularity=granularity)
    assert same(q, expected[0]) and torch.equal(scale, expected[1])
    gate, up = x.unbind(0)[:2]
    two = F.gated_quantize(gate, "relu", up=up, granularity=granularity)
    packed = F.gated_quantize(torch.cat([gate, up], -1), "relu", granularity=granularity)
    assert same(two[0], packed[0]) and torch.equal(two[1], packed[1])
    assert F.gated_quantize(x, "relu", scale=2.0, **options)[1] == exact.abs().max()


def test_rows_longer_than_a_program_holds(dtype, device):
    x = spread(2, 17000).to(device)
    q, scale = F.act_quantize(x, "relu", dtype, granularity="row")
    with nnkernels.backend("reference"):
        exact = F.act_quantize(x, "relu", dtype, granularity="row")
    assert same(q, exact[0]) and torch.equal(scale, exact[1])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    granularity=st.sampled_from(["tensor", "row", "block"]),
    gated=st.booleans(),
)
def test_any_shape(device, shape, granularity, gated):
    if granularity != "tensor" or gated:
        shape = [*shape, 2 * len(shape)]
    x = spread(*shape).to(device)
    call = F.gated_quantize if gated else F.act_quantize
    q, scale = call(x, "relu", granularity=granularity)
    with nnkernels.backend("reference"):
        exact = call(x, "relu", granularity=granularity)
    assert same(q, exact[0]) and torch.equal(scale, exact[1])
    values = F.gated(x, "relu") if gated else x
    scales = {
        "tensor": (),
        "row": (*values.shape[:-1], 1),
        "block": (*values.shape[:-1], -(-values.shape[-1:].numel() // BLOCK)),
    }
    assert q.shape == values.shape and scale.shape == scales[granularity]


@on_torch_alone
def test_compilers_transforms_and_subclasses():
    x = spread(3, 4, 160)
    compiled = torch.compile(F.act_quantize, fullgraph=True, backend="aot_eager")
    for options in ({"granularity": "row"}, {"granularity": "block", "pow2": True}, {"scale": 0.5}):
        for got, exact in zip(compiled(x, "relu", **options), F.act_quantize(x, "relu", **options), strict=True):
            assert same(got, exact)
    batch = torch.func.vmap(lambda x: F.act_quantize(x, "relu", granularity="block"))(x)
    assert all(itertools.starmap(same, zip(batch, F.act_quantize(x, "relu", granularity="block"), strict=True)))
    _, tangent = torch.func.jvp(lambda x: F.act_quantize(x, "relu")[1], (x.float(),), (x.float(),))
    assert tangent.sum() == 0

    class Logged(Tensor):
        calls: ClassVar[list[Any]] = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.calls.append(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    F.act_quantize(x.as_subclass(Logged))
    F.gated_quantize(x.as_subclass(Logged))
    assert F.act_quantize in Logged.calls and F.gated_quantize in Logged.calls


@pytest.mark.parametrize("layout", ["dense", "transposed", "rows apart"])
def test_compiled_on_a_gpu_the_kernels_are_called(layout, device, monkeypatch):
    """On the CPU the GPU's route is opened: what runs there is what the backend has."""
    if device == "cpu":
        monkeypatch.setattr(autograd, "compiles_kernels", lambda *tensors: torch.compiler.is_compiling())
    torch._dynamo.reset()
    graphs: list[str] = []

    def compiler(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    x = LAYOUTS[layout](spread(6, 4, 144).to(device))
    for call, options in (
        (F.act_quantize, {"granularity": "row"}),
        (F.act_quantize, {"scale": 0.5}),
        (F.gated_quantize, {"granularity": "block", "limit": 7.0, "offset": 1.0}),
        (F.gated_quantize, {"interleaved": True}),
    ):
        found = torch.compile(call, fullgraph=True, backend=aot_autograd(fw_compiler=compiler))(x, "relu", **options)
        exact = call(x, "relu", **options)
        assert all(itertools.starmap(same, zip(found, exact, strict=True))) and "nnkernels.quantize" in graphs.pop()


@on_torch_alone
def test_results_carry_no_gradient():
    x = torch.randn(4, 6, requires_grad=True)
    assert not any(tensor.requires_grad for tensor in F.act_quantize(x, "gelu", granularity="row"))


@on_torch_alone
@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (ValueError, "got 0.0", {"scale": 0.0}),
        (ValueError, "-2.0", {"scale": torch.tensor(-2.0)}),
        (ValueError, "inf", {"scale": math.inf}),
        (ValueError, "nan", {"scale": torch.tensor([math.nan])}),
        (ValueError, "1e-40", {"scale": 1e-40}),
        (ValueError, r"\(3,\)", {"scale": torch.ones(3)}),
        (ValueError, "float64", {"scale": torch.ones((), dtype=torch.float64)}),
        (ValueError, "'row'", {"scale": 1.0, "granularity": "row"}),
        (ValueError, "pow2", {"scale": 1.0, "pow2": True}),
        (ValueError, "'column'", {"granularity": "column"}),
        (ValueError, "nosuch", {"activation": "nosuch"}),
        (TypeError, "alpha", {"activation": "relu", "alpha": 1.0}),
        (TypeError, "float16", {"dtype": torch.float16}),
        (NotImplementedError, "int64", {"input": torch.zeros(6, dtype=torch.int64)}),
        (TypeError, "list", {"input": [1.0]}),
        (ValueError, "no blocks", {"input": torch.zeros(()), "granularity": "block"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_bad_input_is_named(error, says, arguments):
    with pytest.raises(error, match=says):
        F.act_quantize(**{"input": torch.zeros(4, 6), **arguments})


@on_torch_alone
def test_bad_gated_input_is_named():
    with pytest.raises(RuntimeError, match=r"gated_quantize\(\).*odd size 5"):
        F.gated_quantize(torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"\(4, 6\) and \(4, 5\)"):
        F.gated_quantize(torch.zeros(4, 6), up=torch.zeros(4, 5))
    with nnkernels.backend("cpu"), pytest.raises(RuntimeError, match="no kernels"):
        F.act_quantize(torch.zeros(4, 6))


@on_torch_alone
def test_modules():
    plain = nn.ActQuantize("leaky_relu", torch.int8, "row", pow2=True, negative_slope=0.2)
    assert repr(plain) == (
        "ActQuantize('leaky_relu', dtype=torch.int8, granularity='row', pow2=True, negative_slope=0.2)"
    )
    gated = nn.GatedQuantize("silu", granularity="block", interleaved=True)
    assert (
        repr(gated) == "GatedQuantize('silu', dim=-1, interleaved=True, dtype=torch.float8_e4m3fn, granularity='block')"
    )
    x = spread(3, 6)
    pairs = [
        (plain, F.act_quantize(x, "leaky_relu", torch.int8, granularity="row", pow2=True, negative_slope=0.2)),
        (gated, F.gated_quantize(x, "silu", granularity="block", interleaved=True)),
    ]
    for module, exact in pairs:
        for one in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert all(itertools.starmap(same, zip(one(x), exact, strict=True)))
    assert nn.ActQuantize("relu")(x, 2.0)[1] == x.max()
    with pytest.raises(ValueError, match="'column'"):
        nn.ActQuantize(granularity="column")


@on_torch_alone
@pytest.mark.parametrize("module", ["functional.quantized", "nn.quantized"])
def test_examples(module):
    import doctest
    import importlib

    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="not softplus and not tanh and not fp64")


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_for_every_gpu(arch, fresh_cache):
    from nnkernels.triton import quantized, quantized_kernels
    from nnkernels.triton.activations import FORMULAS

    native = arch != "sm_80"
    types = {"q_ptr": "*u8", "scale_ptr": "*fp32", "amax_ptr": "*i32"}
    usual = {
        "VALUE": FORMULAS["gelu"].value, "GATED": False, "BOUNDED": False, "PAIRS": 0, "KIND": 0, "LARGEST": 448.0,
        "NATIVE": native, "POW2": False, "FLAT": True, "EVEN": True, "GROUP": BLOCK, "BLOCK_ROWS": 1,
        "BLOCK_COLS": quantized._TILE,
    }  # fmt: skip

    def ptx(kind: str, **constants: Any) -> str:
        kernel, warps = getattr(quantized_kernels, kind), quantized._warps(quantized._TILE)
        return compile_ahead(kernel, arch, "bf16", usual | constants, warps, types).asm["ptx"]

    for kind in ("scaled", "grouped", "long_rows"):
        text = ptx(kind)
        assert ".local" not in text and len(re.findall(r"ld\.global\S*\.v4\.b32", text)) >= 2
        assert ("cvt.rn.satfinite.e4m3x2.f32" in text) == native
    assert ".local" not in ptx("grouped", GATED=True, PAIRS=1, KIND=1, POW2=True)
