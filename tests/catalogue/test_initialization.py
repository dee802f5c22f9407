"""Gains, initialisers and SELU's companions: what they promise is measured on stacks of layers."""

from __future__ import annotations

import math
from pathlib import Path

import initialization_table
import pytest
import torch

import nnkernels
from nnkernels import accuracy, initialization, nn, reference
from nnkernels.initialization import has_gain, init_for
from nnkernels.registry import Activation, Fused, catalogue

ROOT = Path(__file__).parents[2]
DEPTH, WIDTH, BATCH, NETS = 20, 512, 16, 3


def constants_of(row):
    return accuracy.constants_of(row)[: len(row.parameters)] if isinstance(row, Activation) else ()


def stack(function, init, depth, width=WIDTH):
    """The second moments of the pre-activations, layer by layer, in the mean of a few networks."""
    generator = torch.Generator().manual_seed(3)
    moments = torch.zeros(depth, dtype=torch.float64)
    weight = torch.empty(width, width, dtype=torch.float64)
    for _ in range(NETS):
        x = torch.randn(BATCH, width, dtype=torch.float64, generator=generator)
        for layer in range(depth):
            x = function(x) @ init(weight, generator).T
            moments[layer] += x.square().mean() / NETS
    return moments


def test_a_stack_of_layers_keeps_the_second_moment(row):
    """Over 20 layers; where deviations grow, as far as they have not grown fourfold."""
    constants = constants_of(row)
    init = init_for(row.name, *constants)
    a, b = accuracy.constants_of(row)
    depth = DEPTH if init.sensitivity < 1.02 else min(DEPTH, int(math.log(4) / math.log(init.sensitivity)))
    moments = stack(lambda x: reference.FORMULAS[row.name].value(x, a, b), init, depth)
    assert moments.min() > 0.5 and moments.max() < 2


def test_deviations_grow_as_the_sensitivity_says(row):
    a, b = accuracy.constants_of(row)
    init = init_for(row.name, *constants_of(row))
    z = torch.randn(2_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = reference.FORMULAS[row.name].value
    up, down = (value(z * math.sqrt(q), a, b).square().mean() for q in (1.1, 1 / 1.1))
    assert math.log(up / down) / math.log(1.1**2) == pytest.approx(init.sensitivity, abs=0.02)


@pytest.mark.parametrize(
    ("name", "constants", "gain"),
    [
        ("linear", (), 1),
        ("relu", (), math.sqrt(2)),
        ("leaky_relu", (0.2,), math.sqrt(2 / 1.04)),
        ("tanh", (), 5 / 3),
        ("selu", (), 1),
        ("prelu", (), math.sqrt(2 / (1 + 0.25**2))),
        ("maxout", (2,), 1),
        ("maxout", (1,), 1),
        ("relu_squared", (), math.sqrt(2 / 3)),
        ("hardtanh", (-1e9, 1e9), 1),
        ("softshrink", (0.0,), 1),
        ("threshold", (0.0, 0.0), math.sqrt(2)),
        ("hardshrink", (1.0,), 1 / math.sqrt(math.erfc(math.sqrt(0.5)) + 2 * math.exp(-0.5) / math.sqrt(2 * math.pi))),
        ("reglu", (), math.sqrt(2)),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_known_gains(name, constants, gain):
    assert init_for(name, *constants).gain == pytest.approx(gain, rel=1e-9)


def test_gains_that_torch_knows_and_we_share():
    for name, constants in (("relu", ()), ("leaky_relu", (0.3,)), ("tanh", ()), ("linear", ())):
        assert init_for(name, *constants).gain == torch.nn.init.calculate_gain(name, *constants)


def test_quadrature_gives_selu_its_fixed_point():
    """E[selu(z)^2] = 1 is what its constants were derived from."""
    assert initialization._elementwise("selu", 1.0, ()) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_maxout(pieces):
    drawn = torch.randn(400_000, pieces, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    init = init_for("maxout", pieces)
    assert init.gain == pytest.approx(1 / drawn.amax(1).square().mean().sqrt().item(), rel=5e-3)
    assert init.sensitivity == pytest.approx(1)


@pytest.mark.parametrize("name", ["rrelu", "glu", "geglu", "swiglu"])
def test_random_slopes_and_gates(name):
    generator = torch.Generator().manual_seed(0)
    z, other = torch.randn(2, 2_000_000, dtype=torch.float64, generator=generator)
    out = {
        "rrelu": lambda: torch.where(z > 0, z, z * torch.empty_like(z).uniform_(1 / 8, 1 / 3, generator=generator)),
        "glu": lambda: other * z.sigmoid(),
        "geglu": lambda: other * torch.nn.functional.gelu(z),
        "swiglu": lambda: other * torch.nn.functional.silu(z),
    }[name]()
    assert init_for(name).gain == pytest.approx(1 / out.square().mean().sqrt().item(), rel=5e-3)


@pytest.mark.parametrize("mode, fan", [("fan_in", 3 * 25), ("fan_out", 64 * 25), ("fan_avg", 67 * 25 / 2)])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_weights_have_the_deviation_that_the_gain_asks_for(mode, fan, distribution):
    init = init_for("relu", mode=mode, distribution=distribution)
    assert (init.mode, init.distribution, init.activation) == (mode, distribution, "relu")
    weight = torch.nn.Parameter(torch.empty(64, 3, 5, 5))
    assert init(weight, torch.Generator().manual_seed(0)) is weight
    assert weight.requires_grad and weight.grad_fn is None
    assert weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.05)
    bound = math.sqrt(3) * math.sqrt(2 / fan)
    assert (weight.abs().max().item() <= bound * (1 + 1e-6)) == (distribution == "uniform")


def test_the_generator_decides():
    first, second = (init_for("gelu")(torch.empty(4, 4), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_rows_are_accepted_for_names():
    assert init_for(nnkernels.activation("mish")) == init_for("mish")


@pytest.mark.parametrize(
    ("error", "said", "call"),
    [
        (ValueError, "mish", lambda: init_for("mihs")),
        (TypeError, "relu", lambda: init_for("relu", 1.0)),
        (TypeError, "value", lambda: init_for("threshold", 1.0)),
        (ValueError, "min_val", lambda: init_for("hardtanh", 1.0, -1.0)),
        (ValueError, "hardshrink", lambda: init_for("hardshrink", 30.0)),
        (ValueError, "fan_in", lambda: init_for("relu", mode="fan")),
        (ValueError, "uniform", lambda: init_for("relu", distribution="cauchy")),
        (ValueError, "(8,)", lambda: init_for("relu")(torch.empty(8))),
    ],
    ids=["name", "constants", "missing", "refused", "zero", "mode", "distribution", "bias"],
)
def test_errors_name_what_is_wrong(error, said, call):
    with pytest.raises(error, match=said.replace("(", r"\(").replace(")", r"\)")):
        call()


@pytest.mark.parametrize("row", catalogue(), ids=lambda row: row.name)
def test_every_activation_has_a_gain_and_a_fused_form_that_of_its_activation(row):
    assert has_gain(row) == (not isinstance(row, Fused))
    if has_gain(row):
        assert 0 < init_for(row, *constants_of(row)).gain < 10
    else:
        with pytest.raises(ValueError, match=f"{row.name}.*Fused"):
            init_for(row)


def test_gains_do_not_depend_on_the_default_device_or_type():
    expected = init_for("mish", mode="fan_out").gain
    initialization._measured.cache_clear()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"), torch.inference_mode():
            assert init_for("mish").gain == expected
            assert init_for("mish")(torch.empty(4, 4)).is_meta
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_empty_weight_is_left_alone():
    assert init_for("relu")(torch.empty(4, 0)).shape == (4, 0)


def test_the_table_in_the_docs_is_that_of_the_catalogue():
    text = initialization_table.PAGE.read_text()
    assert initialization_table.rewritten(text) == text, "run: python tools/initialization_table.py"


def test_the_docstrings_examples_run():
    import doctest

    assert doctest.testmod(initialization).failed == 0


@pytest.mark.parametrize("dropout", [nn.AlphaDropout(0.1), torch.nn.Identity()], ids=["alpha-dropout", "none"])
def test_selu_with_lecun_weights_normalises_itself(dropout):
    torch.manual_seed(2)
    x = 1.5 * torch.randn(256, WIDTH) + 0.5
    with torch.no_grad():
        for _ in range(DEPTH):
            layer = torch.nn.Linear(WIDTH, WIDTH)
            init_for("selu")(layer.weight)
            torch.nn.init.zeros_(layer.bias)
            x = dropout(nn.SELU()(layer(x)))
    assert abs(x.mean().item()) < 0.1
    assert 0.8 < x.var().item() < 1.25


def test_the_companions_are_torchs():
    for name in ("AlphaDropout", "FeatureAlphaDropout"):
        assert getattr(nn, name) is getattr(torch.nn, name) and name in nn.__all__
