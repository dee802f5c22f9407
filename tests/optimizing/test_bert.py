"""BERT's layers and those of its many descendants: fused where all in them is theirs, and called where it is not."""

from __future__ import annotations

import copy

import pytest
import torch
from library_models import MODELS, built

import nnkernels
from nnkernels.optimizing.adapting import Call, is_adapted


def bert_output(**options):
    bert = pytest.importorskip("transformers.models.bert")
    config = bert.BertConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4, **options)
    torch.manual_seed(0)
    output = bert.modeling_bert.BertOutput(config)
    torch.nn.init.normal_(output.LayerNorm.weight)
    return output, torch.randn(6, 48, requires_grad=True), torch.randn(6, 32, requires_grad=True)


def operators(output, hidden, stream):
    """The operators of the last of a few training steps under autocast, forward and backward."""
    for _ in range(6):  # from the fifth on C++ repeats what Python did
        with torch.profiler.profile() as profile:
            with torch.autocast("cpu", torch.bfloat16):
                made = output(hidden, stream)
            torch.autograd.grad(made, (hidden, stream, *output.parameters()), torch.ones_like(made))
    return [event.name for event in profile.events()]


def test_a_block_of_bert_adds_and_normalizes_at_once_and_casts_nothing_more():
    output, hidden, stream = bert_output(hidden_dropout_prob=0.0)
    theirs = operators(output, hidden, stream)
    nnkernels.optimize(output, always=True, verbose=False)
    ours = operators(output, hidden, stream)
    for name, times in (("aten::add", 1), ("aten::native_layer_norm", 1), ("aten::native_layer_norm_backward", 1)):
        assert theirs.count(name) == times and name not in ours
    assert ours.count("nnkernels::norm_forward") == ours.count("nnkernels::norm_backward") == 1
    # Of the product's output, which torch's sum casts first on a CPU, and of its gradient.
    assert ours.count("aten::_to_copy") == theirs.count("aten::_to_copy") - 2


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("training", [False, True])
def test_a_block_of_bert_draws_what_torch_draws(p, training):
    output, hidden, stream = bert_output(hidden_dropout_prob=p)
    output.train(training)
    results = []
    for optimised in (False, True):
        if optimised:
            nnkernels.optimize(output, always=True, verbose=False)
        torch.manual_seed(1)
        made = output(hidden, stream)
        results.append((made, *torch.autograd.grad(made.square().sum(), (hidden, stream)), torch.rand(3)))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_norm_with_a_hook_is_called():
    output, hidden, stream = bert_output()
    nnkernels.optimize(output, always=True, verbose=False)
    seen = []
    output.eval().LayerNorm.register_forward_hook(lambda module, given, made: seen.append(made))
    assert output(hidden, stream) is seen[0]


def test_the_input_of_self_attention_is_cast_once():
    bert = pytest.importorskip("transformers.models.bert")
    config = bert.BertConfig(hidden_size=32, num_attention_heads=4, attn_implementation="sdpa")
    attention, x = bert.modeling_bert.BertSelfAttention(config).eval(), torch.randn(2, 5, 32, requires_grad=True)

    def run():
        casts = []
        for layer in (attention.query, attention.key, attention.value):
            handle = layer.register_forward_pre_hook(lambda module, given: casts.append(given[0]))
            handles.append(handle)
        with torch.autocast("cpu", torch.bfloat16):
            return attention(x)[0], casts

    handles = []
    expected, given = run()
    assert all(one.dtype == torch.float32 for one in given)
    nnkernels.optimize(attention, always=True, verbose=False)
    for handle in handles:
        handle.remove()
    found, given = run()
    assert torch.equal(found, expected) and len({id(one) for one in given}) == 1 and given[0].dtype == torch.bfloat16


def test_a_layer_of_bert_calls_a_half_that_somebody_listens_to():
    (build,) = (one.values[0] for one in MODELS if one.id == "transformers-Bert")
    model, example = built(build)
    nnkernels.optimize(model, always=True, verbose=False)
    heard = []
    layer = model.bert.encoder.layer[0]
    for module in (layer.intermediate, layer.output.dense):
        module.register_forward_hook(lambda module, *_: heard.append(module))
    torch.manual_seed(0)
    found = model(**example).logits
    assert heard == [layer.intermediate, layer.output.dense]
    torch.manual_seed(0)
    torch.testing.assert_close(found, nnkernels.restore(model)(**example).logits)


class Wrapped(torch.nn.Module):
    """What somebody puts around a module, which shows none of its attributes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


PARTS = ["intermediate", "output", "intermediate.dense", "output.dense", "output.dropout", "attention.self.query"]


def layers():
    """The same small BERT twice, and its input."""
    (build,) = (one.values[0] for one in MODELS if one.id == "transformers-Bert")
    model, example = built(build)
    return model.eval(), copy.deepcopy(model), example


def exchange(model, part, make):
    for layer in model.bert.encoder.layer:
        layer.set_submodule(part, make(layer.get_submodule(part)))


@pytest.mark.parametrize("first", [False, True], ids=["afterwards", "first"])
@pytest.mark.parametrize("part", PARTS)
def test_parts_that_somebody_has_wrapped_are_called(part, first):
    model, plain, example = layers()
    if not first:
        nnkernels.optimize(model, always=True, verbose=False)
    exchange(model, part, Wrapped)
    nnkernels.optimize(model, always=True, verbose=False)
    torch.testing.assert_close(model(**example).logits, plain(**example).logits)


@pytest.mark.parametrize("part", ["intermediate", "output"])
def test_a_half_of_another_class_is_called(part):
    model, plain, example = layers()
    nnkernels.optimize(model, always=True, verbose=False)

    def twice(half):
        kind = getattr(type(half), "adapted_from", type(half))
        half.__class__ = type("Twice", (kind,), {"forward": lambda self, *args: 2 * kind.forward(self, *args)})
        return half

    exchange(model, part, twice)
    exchange(plain, part, twice)
    torch.testing.assert_close(model(**example).logits, plain(**example).logits)


def test_a_layer_without_what_a_half_needs_says_so():
    model, _, _ = layers()
    exchange(model, "output", Wrapped)
    report = nnkernels.optimize(model, always=True, verbose=False)
    (row,) = (row for row in report.rows if row.shown.startswith("BertLayer"))
    assert not row.fused and "feed-forward half" in row.why


def test_a_layer_is_timed_against_its_own_forward(monkeypatch):
    """Also in the methods that its forward calls."""
    model, _, _ = layers()
    nnkernels.optimize(model, always=True, verbose=False)
    layer, x, called = model.bert.encoder.layer[0], torch.randn(2, 4, 32), []
    mlp = nnkernels.functional.mlp
    monkeypatch.setattr(nnkernels.functional, "mlp", lambda *args, **kwargs: called.append(1) or mlp(*args, **kwargs))
    expected = layer.theirs(Call((x,), {}))
    assert not called and is_adapted(layer)
    torch.testing.assert_close(layer.ours(Call((x,), {})), expected)
    assert called == [1]


@pytest.mark.parametrize("first", [False, True], ids=["afterwards", "first"])
def test_an_activation_may_be_a_function(first):
    model, plain, example = layers()
    if not first:
        nnkernels.optimize(model, always=True, verbose=False)
    for one in (model, plain):
        for layer in one.bert.encoder.layer:
            del layer.intermediate.intermediate_act_fn
            layer.intermediate.intermediate_act_fn = torch.nn.functional.relu
    nnkernels.optimize(model, always=True, verbose=False)
    torch.testing.assert_close(model(**example).logits, plain(**example).logits)


def test_what_is_around_is_decided_before_what_is_inside():
    model, _, _ = layers()
    model.bert.encoder.layer[1].output.dropout.p = 0.2  # another kind, found after the first one's parts
    report = nnkernels.optimize(model, always=True, verbose=False)
    kinds = [row.shown.partition("(")[0] for row in report.fused]
    assert kinds.count("BertLayer") == 2 and "BertIntermediate" not in kinds and "BertOutput" not in kinds
