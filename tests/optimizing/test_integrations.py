"""Models that timm and transformers build after `register` have our layers, and compute what they computed."""

from __future__ import annotations

import copy
import doctest

import pytest
import torch

import nnkernels
from nnkernels.integrations import timm as timm_integration
from nnkernels.integrations import transformers as transformers_integration


@pytest.fixture
def timm():
    module = pytest.importorskip("timm")
    yield module
    timm_integration.unregister()


@pytest.fixture
def transformers():
    module = pytest.importorskip("transformers")
    if not module.utils.import_utils.is_kernels_available():
        pytest.skip("needs the version of kernels that transformers asks for")
    yield module
    transformers_integration.unregister()


def assert_same(model, other, *args, **kwargs):
    """The same outputs and gradients."""
    for one in (model, other):
        one.zero_grad()
        out = one(*args, **kwargs)
        (out if isinstance(out, torch.Tensor) else out.logits).square().mean().backward()
    first, second = (one(*args, **kwargs) for one in (model, other))
    if not isinstance(first, torch.Tensor):
        first, second = first.logits, second.logits
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            one.grad, two.grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", sorted(timm_integration.NAMES))
def test_each_of_timms_names_gives_our_layer_and_function(timm, name):
    layers = timm.layers
    x = torch.linspace(-5, 5, 101)
    theirs, function = layers.create_act_layer(name), layers.get_act_fn(name)
    timm_integration.register()
    ours = layers.create_act_layer(name, inplace=False)
    assert isinstance(ours, getattr(nnkernels.nn, type(ours).__name__))
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(layers.get_act_fn(name)(x, inplace=False), function(x))
    assert isinstance(layers.get_act_layer(name)(inplace=True), type(ours))
    timm_integration.unregister()
    assert type(layers.create_act_layer(name)) is type(theirs) and layers.get_act_fn(name) is function


@pytest.mark.parametrize("name, act", [("resnet18", "gelu"), ("efficientnet_b0", "silu")])
def test_a_model_of_timm_has_our_activations(timm, name, act):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=3, act_layer=act).eval()
    timm_integration.register()
    ours = timm.create_model(name, num_classes=3, act_layer=act).eval()
    ours.load_state_dict(theirs.state_dict())
    kind = getattr(nnkernels.nn, {"gelu": "GELU", "silu": "SiLU"}[act])
    assert any(isinstance(module, kind) for module in ours.modules())
    assert_same(ours, theirs, torch.randn(2, 3, 32, 32))


def test_timm_scripts_what_it_has_itself(timm):
    timm_integration.register()
    with timm.layers.set_scriptable(True):
        layer = timm.layers.create_act_layer("gelu")
    assert type(layer) is timm.layers.GELU


def test_registering_twice_is_undone_at_once(timm):
    before = timm_integration.register()
    assert timm_integration.register() == before
    timm_integration.unregister()
    assert timm.layers.get_act_layer("relu") is torch.nn.ReLU is before["relu"]


def llama(transformers, **options):
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, vocab_size=50, **options))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_new", "gelu_fast", "quick_gelu", "gelu_pytorch_tanh"])
def test_a_model_of_transformers_has_our_layers(transformers, act, training):
    torch.manual_seed(0)
    theirs = llama(transformers, hidden_act=act).train(training)
    ours = copy.deepcopy(theirs)
    transformers_integration.register()
    ours.set_use_kernels(True)
    for module in ours.modules():
        if (
            hasattr(type(module), "kernel_layer_name")
            and type(module).kernel_layer_name in transformers_integration.LAYERS
        ):
            layer = transformers_integration.LAYERS[type(module).kernel_layer_name]
            assert module.forward.__func__ is layer.forward
    assert ours.model.norm.forward.__func__ is transformers_integration.RMSNorm.forward
    assert_same(ours, theirs, input_ids=torch.randint(0, 50, (2, 7)))
    transformers_integration.unregister()
    ours.set_use_kernels(True)
    assert ours.model.norm.forward.__func__ is type(ours.model.norm).forward


def test_a_kernelized_model_compiles_whole(transformers):
    torch.manual_seed(0)
    model, ids = llama(transformers).eval(), torch.randint(0, 50, (1, 5))
    transformers_integration.register()
    kernels = pytest.importorskip("kernels")
    model.set_use_kernels(True, mode=kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE)
    assert model.model.norm.forward.__func__ is transformers_integration.RMSNorm.forward
    compiled = torch.compile(model.model.layers[0].mlp, fullgraph=True, backend="aot_eager")
    norm = torch.compile(model.model.norm, fullgraph=True, backend="aot_eager")
    x = model.model.embed_tokens(ids)
    torch.testing.assert_close(compiled(norm(x)), model.model.layers[0].mlp(model.model.norm(x)))


def gated(activation):
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    norm = qwen.Qwen3NextRMSNormGated(16)
    norm.activation = activation
    norm.forward = transformers_integration.RMSNormGated.forward.__get__(norm)
    return norm


@pytest.mark.parametrize("activation", ["silu", "swish", "sigmoid"])
def test_a_gated_norm_follows_its_configured_activation(activation):
    norm = gated(activation)
    x, gate = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    torch.testing.assert_close(norm(x, gate), type(norm).forward(norm, x, gate))


def test_a_gated_norm_compiles_whole():
    norm, x, gate = gated("sigmoid"), torch.randn(2, 16), torch.randn(2, 16)
    torch.testing.assert_close(torch.compile(norm, fullgraph=True, backend="aot_eager")(x, gate), norm(x, gate))


def test_a_gated_norm_refuses_another_activation():
    with pytest.raises(ValueError, match="Qwen3NextRMSNormGated is 'relu'"):
        gated("relu")(torch.randn(2, 16), torch.randn(2, 16))


@pytest.mark.parametrize("kind", ["llama.modeling_llama.LlamaRMSNorm", "afmoe.modeling_afmoe.AfmoeRMSNorm"])
def test_an_rms_norm_of_half_numbers_has_the_type_that_it_had(kind):
    module, _, name = kind.rpartition(".")
    norm = getattr(pytest.importorskip(f"transformers.models.{module}"), name)(16)
    x = torch.randn(2, 16, dtype=torch.bfloat16)
    made, expected = transformers_integration.RMSNorm.forward(norm, x), norm(x)
    torch.testing.assert_close(made, expected, rtol=1e-2, atol=1e-2)  # which checks the type too


def test_without_the_right_kernels_the_error_says_what_to_install(monkeypatch):
    utils = pytest.importorskip("transformers.utils.import_utils")
    monkeypatch.setattr(utils, "is_kernels_available", lambda: False)
    with pytest.raises(ImportError, match=f"pip install 'kernels>={utils.KERNELS_MIN_VERSION}"):
        transformers_integration.register()


def test_the_examples_run(timm):
    assert doctest.testmod(timm_integration).failed == 0


def test_the_example_for_transformers_runs(transformers):
    assert doctest.testmod(transformers_integration).failed == 0
