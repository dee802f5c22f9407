"""The raw operators of torch.ops.nnkernels: what they do not take is refused by name, and nothing is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from operator_calls import CALLS, NOTHING, run
from torch import Tensor
from torch.library import opcheck

import nnkernels
import nnkernels.functional as F
from nnkernels import native

pytestmark = pytest.mark.skipif(isinstance(native.library("cpu"), str), reason="the C++ kernels were not built")


# Each: the operator, which argument is exchanged, for what, and the name that the refusal has to give.
REFUSED: list[tuple[str, int, Any, str]] = [
    ("forward", 1, -1, "-1"),
    ("forward", 1, 10**6, "1000000"),
    ("forward", 1, 2**32, "4294967296"),
    ("forward", 0, torch.zeros(3, dtype=torch.int64), "x is int64"),
    ("forward_", 0, torch.zeros(1).expand(4), ""),
    ("backward", 0, torch.zeros(2, 4, 2), "grad has shape [2, 4, 2]"),
    ("backward", 0, torch.zeros(2, 4, 3, dtype=torch.float64), "grad is float64"),
    ("double_backward", 0, torch.zeros(()), "grad_grad has shape []"),
    ("gated", 1, torch.zeros(24), "up has shape [24]"),
    ("gated", 2, torch.zeros(2, 4, 1).expand(2, 4, 3), ""),
    ("gated", 3, 2**32 + 1, "4294967297"),
    ("gated", 9, 0.0, "gate_cap and up_cap are 0 and 2"),
    ("gated_backward", 4, torch.zeros(2, 4), "grad_up"),
    ("gated_backward", 11, -1.0, "gate_cap and up_cap are -1 and 2"),
    ("gated_backward", 0, torch.zeros(2, 4, 3, dtype=torch.float16), "grad is float16"),
    ("learned_forward", 1, 8, "activation is 8"),
    ("learned_forward", 2, [], "0 parameters"),
    ("learned_forward", 2, [torch.zeros(5)], "[5]"),
    ("learned_forward", 2, [torch.zeros(0)], "[0]"),
    ("learned_forward", 2, [torch.zeros(1).expand(4)], "contiguous"),
    ("learned_forward", 1, 3, "1 parameters, expected 2"),
    ("learned_forward", 3, [0.5], "1 constants, expected 0"),
    ("learned_backward", 3, [torch.zeros(3, 4), torch.zeros(2, 4)], "[2, 4]"),
    ("learned_backward", 3, [torch.zeros(()), torch.zeros(())], "[]"),
    ("learned_backward", 0, torch.zeros(1), "grad"),
    ("rrelu_into", 0, torch.zeros(2), "y has shape [2]"),
    ("rrelu_into", 2, torch.zeros(2, dtype=torch.int64), "seed"),
    ("rrelu_into", 2, torch.zeros(()), "seed"),
    ("rrelu_kept_into", 1, torch.zeros(2), "slopes has shape [2]"),
    ("rrelu_backward_into", 1, torch.zeros(2, 4), "grad"),
    ("dropout_into", 3, -1, "threshold"),
    ("dropout_into", 3, 2**32, "threshold"),
    ("bernoulli_into", 0, torch.zeros(2, 4), "y has shape [2, 4]"),
    ("bernoulli_into", 2, torch.zeros(2, dtype=torch.int64), "seed has shape [2]"),
    ("maxout", 3, 1, "pieces"),
    ("maxout", 3, 257, "pieces"),
    ("maxout", 4, 0, "inner"),
    ("maxout", 4, 5, "inner"),
    ("maxout", 4, -3, "inner"),
    ("maxout", 1, torch.zeros(2, 3, 3), "x has shape [2, 6, 3]"),
    ("maxout", 0, torch.zeros(1).expand(2, 6, 3), "dense"),
    ("maxout", 2, torch.zeros(2, dtype=torch.uint8), "winners has shape [2]"),
    ("maxout", 2, torch.zeros(9), "winners is float32"),
    ("maxout_backward", 1, torch.zeros(1, dtype=torch.uint8), "winners has shape [1]"),
    ("maxout_backward", 2, torch.zeros(2, 10, 1, dtype=torch.float64), "float"),
    ("lif", 0, torch.zeros(6, 5), "current has shape [6, 5]"),
    ("lif", 1, torch.zeros(3), "start has shape [3]"),
    ("lif", 2, torch.zeros(4, 2, 3), "spikes has shape [4, 2, 3]"),
    ("lif", 3, torch.zeros(2, 3, dtype=torch.float64), "potential is float64"),
    ("lif_backward", 0, torch.zeros(5, 2, 2), "grad has shape [5, 2, 2]"),
    ("lif_backward", 1, torch.zeros(2, 3, dtype=torch.float16), "grad_potential is float16"),
    ("lif_backward", 4, torch.zeros(5, 6), "grad_current has shape [5, 6]"),
    ("lif_backward", 5, torch.zeros(3, 2), "grad_start has shape [3, 2]"),
    ("lif_backward", 8, 4, "surrogate is 4"),
    ("content_addressing", 0, torch.zeros(5, 4), "memory has shape [5, 4]"),
    ("content_addressing", 1, torch.zeros(2, 3, 5), "key has shape [2, 3, 5]"),
    ("content_addressing", 2, torch.zeros(2, 3, 1), "strength has shape [2, 3, 1]"),
    ("content_addressing", 3, None, "gate and previous"),
    ("content_addressing", 4, torch.zeros(2, 3, 4), "previous has shape [2, 3, 4]"),
    ("content_addressing", 5, torch.zeros(2, 3, 2), "shift has shape [2, 3, 2]"),
    ("content_addressing", 6, torch.zeros(2, 3, dtype=torch.float64), "sharpness is float64"),
    ("content_addressing", 7, torch.zeros(2, 3, 4), "where has shape [2, 3, 4]"),
    ("content_addressing_backward", 0, torch.zeros(2, 5, 3), "grad has shape [2, 5, 3]"),
    ("content_addressing_backward", 6, None, "grad_shift is given without shift"),
    ("content_addressing_backward", 8, torch.zeros(2, 4, 5), "grad_memory has shape [2, 4, 5]"),
    ("sparsemax", 1, torch.zeros(4, 3), "y has shape [4, 3]"),
    ("sparsemax", 0, torch.zeros(3, 4, 2).transpose(0, 1), "x of shape [4, 3, 2] is not contiguous"),
    ("sparsemax", 2, 5, "rows of size 5, 2 apart"),
    ("sparsemax", 3, 0, "0 apart"),
    ("sparsemax_backward", 0, torch.zeros(4, 5), "grad has shape [4, 5]"),
    ("sparsemax_backward", 1, torch.zeros(4, 5), "grad_x has shape [4, 6]"),
    ("squash", 1, torch.zeros(4, 3), "y has shape [4, 3]"),
    ("squash", 0, torch.zeros(3, 4, 2).transpose(0, 1), "x of shape [4, 3, 2] is not contiguous"),
    ("squash", 2, 5, "vectors of size 5, 2 apart"),
    ("squash", 3, 0, "0 apart"),
    ("squash_backward", 0, torch.zeros(4, 5), "grad has shape [4, 5]"),
    ("route", 0, torch.zeros(2, 5, 3), "votes has shape [2, 5, 3]"),
    ("route", 1, torch.zeros(2, 4, 3), "capsules has shape [2, 4, 3]"),
    ("route", 2, torch.zeros(2, 3, 5), "shares has shape [2, 3, 5]"),
    ("route", 3, torch.zeros(2, 3, 4, dtype=torch.float64), "sums is float64"),
    ("route", 4, 0, "rounds is 0"),
    ("route_backward", 0, torch.zeros(2, 3, 4, dtype=torch.float16), "grad is float16"),
    ("route_backward", 3, torch.zeros(2, 5, 12), "grad_votes has shape [2, 5, 12]"),
    ("gru_gates", 0, torch.zeros(2, 6), "given has shape [2, 6]"),
    ("gru_gates", 1, torch.zeros(9, 2).T, "recurred of shape [2, 9] has columns"),
    ("gru_gates", 2, torch.zeros(6), "hidden has shape [6]"),
    ("gru_gates", 3, torch.zeros(2, 3, dtype=torch.float16), "next is float16"),
    ("gru_gates_backward", 0, torch.zeros(3, 2), "grad has shape [3, 2]"),
    ("gru_gates_backward", 4, torch.zeros(9, 2).T, "grad_given of shape [2, 9] is not contiguous"),
    ("gru_gates_backward", 5, torch.zeros(2, 8), "grad_recurred has shape [2, 8]"),
    ("gru_gates_backward", 6, torch.zeros(1, 3), "grad_hidden has shape [1, 3]"),
    ("gaussians", 0, torch.zeros(4, 5), "y has shape [4, 5]"),
    ("gaussians", 1, torch.zeros(5), "x has shape [5]"),
    ("gaussians", 2, torch.zeros(4, 2), "centers has shape [4, 2]"),
    ("gaussians", 2, torch.zeros(4, 3, dtype=torch.float64), "centers is float64"),
    ("gaussians", 3, torch.zeros(3), "gamma has shape [3]"),
    ("gaussians_backward", 0, torch.zeros(4, 5).T, "grad of shape [5, 4] is not contiguous"),
    ("gaussians_backward", 5, torch.zeros(3, 5), "grad_x has shape [3, 5]"),
    ("gaussians_backward", 6, torch.zeros(1, 3), "grad_centers has shape [1, 3]"),
    ("gaussians_backward", 7, torch.zeros(1, dtype=torch.float16), "grad_gamma is float16"),
    ("gaussians_backward", 3, None, "grad_gamma is wanted"),
    ("fused_forward", 8, 0, "channels is 0"),
    ("fused_forward", 8, 3, "channels is 3"),
    ("fused_forward", 8, -4, "channels is -4"),
    ("fused_forward", 7, 3, "along is 3"),
    ("fused_forward", 0, torch.zeros(40), "x has shape [40]"),
    ("fused_forward", 0, torch.zeros(5, 8).T, "x of shape [8, 5] is not contiguous"),
    ("fused_forward", 1, torch.zeros(3), "bias has shape [3]"),
    ("fused_forward", 1, torch.zeros(4, dtype=torch.float16), "bias is float16"),
    ("fused_forward", 2, torch.zeros(1, 5), "residual has shape [1, 5]"),
    ("fused_forward", 2, torch.zeros(0, 5), "residual has shape [0, 5]"),
    ("fused_forward", 3, torch.zeros(3, dtype=torch.int64), "seed has shape [3]"),
    ("fused_forward", 9, 2**32, "threshold"),
    ("fused_backward", 1, torch.zeros(39, 5), "x has shape [39, 5]"),
    ("fused_backward", 7, 0, ""),
    ("norm_forward", 0, torch.zeros(0, 5), "x has shape [0, 5]"),
    ("norm_forward", 0, torch.zeros(5), "x has shape [5]"),
    ("norm_forward", 0, torch.zeros(5, 6).T, "adjacent"),
    ("norm_forward", 2, torch.zeros(5, 5), "addend has shape [5, 5]"),
    ("norm_forward", 2, torch.zeros(6, 5, dtype=torch.int64), "addend is int64"),
    ("norm_forward", 2, torch.zeros(5, 6, dtype=torch.float16).T, "addend of shape [6, 5]"),
    ("norm_forward", 3, torch.zeros(4), "weight has shape [4]"),
    ("norm_forward", 4, torch.zeros(5, dtype=torch.float64), "bias is float64"),
    ("norm_forward", 1, torch.zeros(5, 5), "residual has shape [5, 5]"),
    ("norm_forward", 7, 3, "gates is 3"),
    ("norm_backward", 10, -1, "gates is -1"),
    ("norm_backward", 0, NOTHING, "grad has shape [0]"),
    ("norm_backward", 3, torch.zeros(6, 4), "grad_sum has shape [6, 4]"),
    ("norm_backward", 6, torch.ones(2, 5, dtype=torch.float64), "statistics has shape [2, 5]"),
    ("norm_backward", 6, torch.ones(3, 6, dtype=torch.float64), "statistics has shape [3, 6]"),
    ("norm_backward", 6, torch.ones(2, 6), "statistics is float32"),
    ("norm_backward", 7, torch.zeros(5, 5), "narrowed has shape [5, 5]"),
    ("norm_backward", 7, torch.zeros(6, 10)[:, :5], "narrowed"),
    ("norm_statistics", 1, torch.zeros(3), "mean has shape [3]"),
    ("norm_statistics", 2, None, "var"),
    ("norm_statistics", 2, torch.zeros(4, dtype=torch.float16), "var is float16"),
    ("norm_statistics", 0, torch.zeros(2, 4, 6)[..., ::2], "dense"),
    *(
        ("norm_statistics", 6, frame, "")
        for frame in (
            [], [1, 2, 4, 3], [1, 2, 4, 3, 0], [1, 2, 4, 3, 3], [1, 2, 4, 3, -1], [1, 2, 4, 4, 1], [-1, -2, 4, 3, 1],
            [1, 2, -4, -3, 1], [2**32, 2**32, 4, 3, 1], [1, 6, 4, 1, 2**40], [1, 2, 12, 1, 1], [4, 2, 1, 3, 1],
        )
    ),
    ("norm_apply", 4, torch.zeros(3), "statistics has shape [3], expected [4, 4]"),
    ("norm_apply", 4, torch.zeros(4, 4, dtype=torch.float64), "statistics is float64"),
    ("norm_apply", 1, torch.zeros(2, 3, 4).mT, "residual"),
    ("norm_apply", 2, torch.zeros(2), "weight has shape [2]"),
    ("norm_sums", 5, torch.zeros(4, 1), "statistics has shape [4, 1]"),
    ("norm_sums", 6, torch.zeros(23), "dz has shape [23]"),
    ("norm_sums", 7, torch.zeros(2, 4, 2), "grad_x has shape [2, 4, 2]"),
    ("norm_sums", 8, torch.zeros(24), "grad_residual has shape [24]"),
    ("norm_spread", 0, torch.zeros(24, dtype=torch.float64), "dz is float64"),
    ("norm_spread", 0, NOTHING, "dz has shape [0]"),
    ("norm_spread", 1, torch.zeros(2, 4, 3), "either dz or grad is given"),
    ("norm_spread", 7, torch.zeros(2, 3), "totals has shape [2, 3]"),
    ("norm_spread", 8, torch.zeros(2, 4, 4), "grad_x has shape [2, 4, 4]"),
    ("quantised_forward", 5, 3, "bits is 3"),
    ("quantised_forward", 0, torch.zeros(37, 1), "x has shape [37, 1]"),
    ("quantised_forward", 1, torch.zeros(36), "y has shape [36]"),
    ("quantised_backward", 1, torch.zeros(18, dtype=torch.uint8), "packed has shape [18]"),
    ("quantised_backward", 1, torch.zeros(19, dtype=torch.int8), "packed"),
    ("prelu_signs", 3, 0, "inner is 0"),
    ("prelu_signs", 2, torch.zeros(0), "weight has shape [0]"),
    ("prelu_signs", 2, torch.zeros(4, dtype=torch.int64), "weight is int64"),
    ("prelu_from_signs", 1, torch.zeros(2, dtype=torch.uint8), "packed has shape [2]"),
    ("rrelu_signs", 1, torch.zeros(74)[::2], "y"),
    ("rrelu_from_signs", 1, NOTHING.to(torch.uint8), "packed has shape [0]"),
    ("rrelu_from_signs", 2, torch.zeros(0, dtype=torch.int64), "seed has shape [0]"),
    ("bias_act_drawn", 1, torch.zeros(4), "bias"),
    ("bias_act_drawn", 2, torch.zeros(5), "residual"),
    ("bias_act_drawn", 3, torch.zeros(()), "seed"),
    ("bias_act_drawn", 7, 2, "dim is 2"),
    ("bias_act_drawn", 7, None, "bias"),
    ("bias_act_drawn", 8, 1.0, "p is 1.0"),
    ("bias_act_drawn_backward", 1, torch.zeros(8, 4), "x"),
    ("bias_act_drawn_backward", 1, None, "x is None"),
    ("bias_act_drawn_backward", 4, [5], "strides"),
    ("bias_act_drawn_backward", 4, [0, 1], "strides"),
    ("bias_act_drawn_backward", 4, [6, 1], "strides"),
    ("quantize", 0, torch.zeros(4, 5), "input"),
    ("quantize", 1, torch.zeros(4, 5), "up"),
    ("quantize", 7, 2, "halves along 2"),
    ("quantize", 12, torch.int16, "int16"),
    ("quantize", 13, "column", "column"),
]  # fmt: skip


def _everything(arguments: list[Any]) -> list[Tensor]:
    flat = [one for argument in arguments for one in (argument if isinstance(argument, list) else [argument])]
    return [one for one in flat if isinstance(one, Tensor)]


@pytest.mark.parametrize("name", CALLS)
def test_legal_calls_are_taken(name: str) -> None:
    run(name, CALLS[name]())


@pytest.mark.parametrize(("name", "at", "value", "told"), REFUSED, ids=lambda v: v if isinstance(v, str) else None)
def test_a_refusal_names_operator_and_argument_and_touches_nothing(name: str, at: int, value: Any, told: str) -> None:
    arguments = CALLS[name]()
    arguments[at] = value
    before = [tensor.clone() for tensor in _everything(arguments)]
    with pytest.raises((RuntimeError, ValueError)) as refusal:
        run(name, arguments)
    assert f"nnkernels::{name}:" in str(refusal.value)
    assert told in str(refusal.value)
    for tensor, was in zip(_everything(arguments), before, strict=True):
        assert torch.equal(tensor, was)


@pytest.mark.parametrize(
    ("name", "written", "read", "shift"),
    [
        ("gated", 2, 0, 1), ("gated_backward", 3, 1, 1), ("gated_backward", 4, 3, 0), ("rrelu_into", 0, 1, 1),
        ("rrelu_backward_into", 0, 1, 1), ("rrelu_kept_into", 0, 2, 0), ("rrelu_kept_into", 1, 0, 0),
        ("dropout_into", 0, 1, 1), ("norm_statistics", 2, 1, 0), ("norm_spread", 8, 2, 0), ("norm_sums", 7, 1, 0),
        ("norm_sums", 6, 8, 0), ("quantised_forward", 1, 0, 1),
        ("rrelu_signs", 1, 0, 1), ("prelu_signs", 1, 0, 1), ("bernoulli_into", 0, 1, 1), ("norm_backward", 7, 1, 1),
    ],
)  # fmt: skip
def test_outputs_may_not_overlap_what_is_read_after_them(name: str, written: int, read: int, shift: int) -> None:
    arguments = CALLS[name]()
    shapes = [arguments[at].shape for at in (written, read)]
    memory = torch.zeros(max(shape.numel() for shape in shapes) + shift)
    arguments[written] = memory[shift : shift + shapes[0].numel()].view(shapes[0])
    arguments[read] = memory[: shapes[1].numel()].view(shapes[1])
    with pytest.raises(RuntimeError, match=f"nnkernels::{name}: .* overlaps"):
        run(name, arguments)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("quantize",) and "drawn" not in name])
def test_memory_that_was_taken_away_is_noticed(name: str) -> None:
    """As of a parameter whose storage a sharding wrapper has freed."""
    arguments = CALLS[name]()
    whole = torch.zeros(arguments[0].numel() + 1000)
    arguments[0] = whole[1000:].view(arguments[0].shape)
    whole.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=f"nnkernels::{name}: .* storage of 0 bytes"):
        run(name, arguments)


@pytest.mark.parametrize("pieces", [5, 7, 100])
def test_winners_beyond_the_pieces_write_nowhere(pieces: int) -> None:
    """What was kept for backward may come back with other bytes."""
    memory = torch.full((4 * pieces + 512,), 7.0)
    grad_x = memory[: 4 * pieces].view(4, pieces)
    winners = torch.full((8,), 255, dtype=torch.uint8)
    torch.ops.nnkernels.maxout_backward(torch.ones(4, 1), winners, grad_x, pieces, 1)
    assert torch.equal(memory[4 * pieces :], torch.full((512,), 7.0))
    assert torch.equal(grad_x, torch.zeros(4, pieces))


def test_no_elements_are_no_division_by_zero() -> None:
    empty, silu = torch.zeros(0, 5), native.index_of("silu")
    for along, channels in ((0, 0), (1, 5), (2, 3)):
        tail = (silu, 0.0, 0.0, along, channels, 0, 1.0)
        assert torch.ops.nnkernels.fused_forward(empty, None, None, None, *tail).shape == (0, 5)
        torch.ops.nnkernels.fused_backward(empty, empty, None, None, *tail, along > 0)
    wide, frame = torch.zeros(2, 4, 0), [1, 0, 4, 3, 1]
    statistics = torch.ops.nnkernels.norm_statistics(wide, None, None, 0.0, 1e-5, True, frame)
    assert statistics.shape == (4, 4)
    y = torch.ops.nnkernels.norm_apply(wide, None, None, None, statistics, silu, 0.0, 0.0, frame)
    assert y.shape == wide.shape


@pytest.mark.parametrize("name", CALLS)
def test_schemas_say_what_is_written(name: str) -> None:
    tests = ["test_schema"]
    if name in ("forward", "forward_", "backward", "double_backward", "bias_act_drawn", "quantize"):
        tests.append("test_faketensor")
    opcheck(getattr(torch.ops.nnkernels, name).default, tuple(CALLS[name]()), test_utils=tests)


def _normalized(x: Tensor) -> Tensor:
    return F.layer_norm_act(x, 12, torch.ones(12), torch.zeros(12), activation="silu")


FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "prelu": lambda x: F.prelu(x, torch.full((12,), 0.25, requires_grad=True)),
    "swish": lambda x: F.swish(x, torch.ones(12, requires_grad=True)),
    "apl": lambda x: F.apl(x, torch.ones(2, 12), torch.zeros(2, 12)),
    "xielu": lambda x: F.xielu(x, torch.ones(1), torch.ones(1)),
    "snake_beta": lambda x: F.snake_beta(x, torch.ones(12), torch.ones(12)),
    "starrelu": lambda x: F.starrelu(x, torch.ones(1), torch.ones(12)),
    "dyt": lambda x: F.dyt(x, torch.ones(1), torch.ones(12), torch.ones(12)),
    "swiglu": lambda x: F.swiglu(x),
    "swiglu of two": lambda x: F.swiglu(x, x * 2),
    "bias_act": lambda x: F.bias_act(x, torch.ones(12), "gelu", dropout_p=0.5),
    "layer_norm_act": _normalized,
    "rms_norm_act": lambda x: F.rms_norm_act(x, 12, activation="silu"),
    "gated_rms_norm": lambda x: F.gated_rms_norm(x, x.detach(), 12),
    "add_rms_norm": lambda x: sum(F.add_rms_norm(x, x.detach(), 12)),
    "batch_norm_act": lambda x: F.batch_norm_act(x, None, None, training=True, activation="silu"),
    "group_norm_act": lambda x: F.group_norm_act(x, 3, activation="silu"),
    "maxout": lambda x: F.maxout(x, 3),
    "lif": lambda x: F.lif(x),
    "content_addressing": lambda x: F.content_addressing(x.view(2, 6, 4), torch.ones(2, 1, 4), torch.ones(2, 1)),
    "sparsemax": lambda x: F.sparsemax(x),
    "squash": lambda x: F.squash(x),
    "route": lambda x: F.route(x.view(1, 4, 3, 4)),
    "gru_gates": lambda x: F.gru_gates(x, 2 * x, x[..., :4]),
    "gaussian_rbf": lambda x: F.gaussian_rbf(x, torch.ones(2, 12)),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "bernoulli": lambda x: F.bernoulli_straight_through(x),
    "dropout": lambda x: nnkernels.nn.Dropout(0.5)(x),
    "silu in bits": lambda x: _under("compressed", F.silu, x),
    "relu in bits": lambda x: _under("bits", F.relu, x),
    "tanh from its output": lambda x: _under("output", F.tanh, x),
    "silu from its input": lambda x: _under("input", F.silu, x),
    "rrelu from its input": lambda x: _under("input", lambda x: F.rrelu(x, training=True), x),
}


def _under(policy: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with nnkernels.saving(policy):
        return function(x)


OTHER: dict[str, Callable[[Tensor], Tensor]] = {
    "longer": lambda t: torch.cat([t.flatten(), t.flatten()]),
    "shorter": lambda t: t.flatten()[:0],
    "transposed": lambda t: t.unsqueeze(0).mT if t.dim() else t.unsqueeze(0),
    "wider": lambda t: t.to(torch.float64) if t.dtype != torch.float64 else t.float(),
}


@pytest.mark.parametrize("change", OTHER)
@pytest.mark.parametrize("family", FAMILIES)
def test_backward_refuses_what_a_hook_returns_in_another_shape_or_type(family: str, change: str) -> None:
    x = torch.linspace(-2, 2, 48).view(4, 12).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, OTHER[change]):
        y = FAMILIES[family](x)
    with pytest.raises(RuntimeError, match="came back as"):
        y.backward(torch.ones_like(y))
    assert x.grad is None


@pytest.mark.parametrize(
    "family",
    ["prelu", "swish", "apl", "xielu", "snake_beta", "starrelu", "dyt", "swiglu", "bias_act",
     "layer_norm_act", "rms_norm_act", "batch_norm_act",
     "group_norm_act", "rrelu from its input", "silu from its input"],
)  # fmt: skip
def test_backward_refuses_an_input_whose_data_was_exchanged(family: str) -> None:
    x = torch.linspace(-2, 2, 48).view(4, 12).requires_grad_()
    y = FAMILIES[family](x)
    x.data = torch.randn(50_000)
    with pytest.raises(RuntimeError, match="came back as"):
        y.backward(torch.ones_like(y))
