"""Models of torchvision, timm, transformers and diffusers compute the same after `optimize`, faster or not."""

from __future__ import annotations

import copy
import importlib
import io

import pytest
import torch

import nnkernels
from nnkernels.optimizing.adapting import fingerprint, is_adapted
from nnkernels.optimizing.step import Step, difference


def image_model(library, name, side=32, **options):
    def build():
        module = pytest.importorskip(library)
        if library == "timm":
            return module.create_model(name, num_classes=7, **options), torch.randn(4, 3, side, side)
        return getattr(module.models, name)(num_classes=7, **options), torch.randn(4, 3, side, side)

    return pytest.param(build, id=f"{library}-{name}")


def language_model(kind, head="ForCausalLM", **options):
    small = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "hidden_size": 32}
    small |= {"num_key_value_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

    def build():
        module = pytest.importorskip("transformers")
        config = getattr(module, f"{kind}Config")(**{**small, **options})
        ids = torch.randint(3, 100, (2, 16))
        return getattr(module, f"{kind}{head}")(config), {"input_ids": ids, "labels": ids}

    return pytest.param(build, id=f"transformers-{kind}")


def vision_tower():
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8
    )
    return transformers.CLIPVisionModel(config), {"pixel_values": torch.randn(2, 3, 16, 16)}


def speech_encoder():
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, conv_dim=(8, 8),
        conv_kernel=(4, 4), conv_stride=(4, 4), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0, layerdrop=0.0,
    )  # fmt: skip
    return transformers.Wav2Vec2Model(config), {"input_values": torch.randn(2, 400)}


class Blocks(torch.nn.Module):
    """Two blocks as a UNet has them, the second with another width."""

    def __init__(self, block):
        super().__init__()
        self.first = block(in_channels=8, out_channels=8, temb_channels=6, groups=4)
        self.second = block(in_channels=8, out_channels=16, temb_channels=6, groups=4)

    def forward(self, x, temb):
        return self.second(self.first(x, temb), temb)


def unet_blocks():
    resnet = pytest.importorskip("diffusers.models.resnet")
    return Blocks(resnet.ResnetBlock2D), {"x": torch.randn(2, 8, 8, 8), "temb": torch.randn(2, 6)}


def feed_forward(kind):
    def build():
        attention = pytest.importorskip("diffusers.models.attention")
        return attention.FeedForward(16, activation_fn=kind), torch.randn(2, 5, 16)

    return pytest.param(build, id=f"diffusers-{kind}")


GATED = {"intermediate_size": 48}
MODELS = [
    image_model("torchvision", "resnet18"),
    image_model("torchvision", "resnet50"),
    image_model("torchvision", "mobilenet_v3_small"),
    image_model("torchvision", "convnext_tiny"),
    image_model("timm", "resnet18"),
    image_model("timm", "resnet26"),
    image_model("timm", "seresnet33ts"),
    image_model("timm", "efficientnet_b0"),
    image_model("timm", "efficientnetv2_rw_t"),
    image_model("timm", "mobilenetv3_small_050"),
    image_model("timm", "cspdarknet53", side=64),
    image_model("timm", "convnext_atto"),
    image_model("timm", "resnetv2_50d_gn"),
    image_model("timm", "vit_tiny_patch16_224", img_size=32),
    image_model("timm", "deit3_small_patch16_224", img_size=32),
    image_model("timm", "poolformerv2_s12"),
    image_model("timm", "vit_small_patch14_reg4_dinov2", img_size=28, side=28),
    language_model("Llama", **GATED),
    language_model("Mistral", **GATED),
    language_model("Qwen2", **GATED),
    language_model("Qwen3", head_dim=8, **GATED),
    language_model("Gemma", head_dim=8, **GATED),
    language_model("Phi3", **GATED),
    language_model("Apertus", **GATED),
    language_model("Olmo2", **GATED),
    language_model("Bert", "ForMaskedLM", **GATED),
    language_model("Roberta", "ForMaskedLM", max_position_embeddings=40, **GATED),
    language_model("Electra", "ForMaskedLM", embedding_size=32, **GATED),
    language_model("DebertaV2", "ForMaskedLM", **GATED),
    language_model("DistilBert", "ForMaskedLM", dim=32, hidden_dim=48, n_layers=2, n_heads=4),
    pytest.param(speech_encoder, id="transformers-Wav2Vec2"),
    pytest.param(vision_tower, id="transformers-CLIP"),
    language_model("GPT2", "LMHeadModel"),
    language_model("Phi", **GATED),
    language_model("Nemotron", hidden_act="relu2", **GATED),
    language_model("GPTNeoX", max_position_embeddings=40, **GATED),
    pytest.param(unet_blocks, id="diffusers-resnet"),
    feed_forward("geglu"),
    feed_forward("swiglu"),
    feed_forward("gelu-approximate"),
]


def built(build):
    torch.manual_seed(0)
    model, example = build()
    if not isinstance(example, dict) and example.dim() == 4:
        model, example = model.to(memory_format=torch.channels_last), example.to(memory_format=torch.channels_last)
    return model.train(), example


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("build", MODELS)
def test_outputs_gradients_and_running_statistics_are_the_same(build, autocast):
    model, example = built(build)
    plain = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        report = nnkernels.optimize(model, example, always=True, verbose=False)
        assert report.fused, str(report)
        steps = [Step(one, example) for one in (model, plain)]
        found, expected = (step.repeated() for step in steps)
        assert not difference(found, expected, steps[1].nudged())
    assert model.state_dict().keys() == plain.state_dict().keys() and repr(model) == repr(plain)
    nnkernels.restore(model)
    assert not any(is_adapted(module) for module in model.modules())


@pytest.mark.parametrize("build", [MODELS[2], MODELS[7], MODELS[17]])
def test_compilers_exporters_and_copies_meet_the_original(build):
    model, example = built(build)
    model.eval()
    plain = copy.deepcopy(model)
    nnkernels.optimize(model, always=True, verbose=False)
    given = ((), example) if isinstance(example, dict) else ((example,), {})
    with torch.no_grad():
        results = [
            one(*given[0], **given[1]) for one in (plain, copy.deepcopy(model), torch.compile(model, backend="eager"))
        ]
        first, *others = [getattr(result, "logits", result) for result in results]
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-3, atol=1e-4)
        if not isinstance(example, dict):
            programs = [torch.export.export(one, *given) for one in (plain, model)]
            targets = [
                [node.target for node in program.graph.nodes if node.op == "call_function"] for program in programs
            ]
            assert targets[0] == targets[1]
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    plain.load_state_dict(torch.load(file))


def test_a_source_that_has_changed_is_left_and_said_so(monkeypatch):
    layers = pytest.importorskip("timm.layers")
    fingerprint.cache_clear()

    def forward(self, x):
        return x + 1

    forward.__wrapped__ = None
    monkeypatch.setattr(layers.BatchNormAct2d, "forward", lambda self, x: x + 1)
    try:
        norm = layers.BatchNormAct2d(4)
        (row, *_) = nnkernels.optimize(norm, always=True, verbose=False).rows
        assert not row.fused and "timm" in row.why and not is_adapted(norm)
        assert torch.equal(norm(torch.zeros(1, 4, 2, 2)), torch.ones(1, 4, 2, 2))
    finally:
        fingerprint.cache_clear()


def test_a_subclass_is_left():
    layers = pytest.importorskip("timm.layers")

    class Mine(layers.BatchNormAct2d):
        def forward(self, x):
            return x - 1

    norm = Mine(4)
    nnkernels.optimize(norm, always=True, verbose=False)
    assert not is_adapted(norm) and torch.equal(norm(torch.ones(1, 4, 2, 2)), torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers", "diffusers"])
def test_every_class_that_an_adapter_names_exists_with_a_known_source(library):
    """With the installed version; another version's classes are left, which `optimize` says."""
    from nnkernels.optimizing import adapting

    pytest.importorskip(library)
    adapting.load_libraries()
    names = [name for name in adapting._names if name.startswith(f"{library}.")]
    assert names
    for name in names:
        module, _, kind = name.rpartition(".")
        assert adapting.source(getattr(importlib.import_module(module), kind)) in adapting._of_source, name


def test_batch_norms_frozen_afterwards_keep_their_activation():
    timm = pytest.importorskip("timm")
    from timm.utils.model import freeze_batch_norm_2d

    torch.manual_seed(0)
    model, x = timm.create_model("mobilenetv3_small_050", num_classes=3).eval(), torch.randn(2, 3, 32, 32)
    expected = model(x)
    nnkernels.optimize(model, always=True, verbose=False)
    torch.testing.assert_close(freeze_batch_norm_2d(model)(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_a_norm_in_front_of_products_has_the_type_that_they_are_given(dtype, autocast):
    """Weights of another type than the data's, and none to be cast: what the module itself makes is what counts."""
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from nnkernels.optimizing import adapting
    from nnkernels.optimizing.modules import norm_for_products

    adapting.load_libraries()
    norm, x = llama.LlamaRMSNorm(8), torch.randn(3, 8).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, expected = norm_for_products(norm, x), norm(x)
        product = torch.nn.functional.linear(expected, torch.eye(8, dtype=expected.dtype))
    assert found.dtype == product.dtype
    rounds = dtype == torch.bfloat16 or found.dtype == torch.bfloat16  # the module rounds before it multiplies
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-2 if rounds else 1e-6, atol=1e-6)


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


@pytest.mark.parametrize(
    ("named", "blocks"),
    [
        ("transformers-Bert", {"BertLayer", "BertSelfOutput", "BertSelfAttention"}),
        ("transformers-Roberta", {"RobertaLayer", "RobertaSelfOutput", "RobertaSelfAttention"}),
        ("transformers-DebertaV2", {"DebertaV2SelfOutput", "DebertaV2Output"}),
        ("transformers-DistilBert", {"TransformerBlock"}),
        ("transformers-Wav2Vec2", {"Wav2Vec2EncoderLayer"}),
        ("transformers-CLIP", {"CLIPEncoderLayer", "CLIPMLP"}),
        ("transformers-Phi", {"PhiMLP"}),
        ("transformers-Nemotron", {"NemotronMLP"}),
        ("transformers-GPTNeoX", {"GPTNeoXMLP"}),
        ("timm-vit_tiny_patch16_224", {"Mlp"}),
    ],
)
def test_blocks_with_the_same_source_are_known(named, blocks):
    (build,) = (one.values[0] for one in MODELS if one.id == named)
    model, _ = built(build)
    nnkernels.optimize(model, always=True, verbose=False)
    adapted = {type(module).__name__ for module in model.modules() if is_adapted(module)}
    assert blocks <= adapted and not adapted & {"BertIntermediate", "BertOutput"}


@pytest.mark.parametrize(
    "named", ["transformers-Llama", "transformers-GPT2", "transformers-CLIP", "timm-vit_tiny_patch16_224"]
)
def test_the_second_norm_of_a_layer_is_one_with_the_sum_in_front_of_it(named, monkeypatch):
    """Under autocast a product's 16 bits and the float32 stream go in, 16 bits for products and the stream come out."""
    (build,) = (one.values[0] for one in MODELS if one.id == named)
    model, example = built(build)
    nnkernels.optimize(model, always=True, verbose=False)
    types = set()

    def watching(function):
        def watched(x, addend, *args, **kwargs):
            y, total = function(x, addend, *args, **kwargs)
            types.add((x.dtype, addend.dtype, y.dtype, total.dtype))
            return y, total

        return watched

    for name in ("add_layer_norm", "add_rms_norm"):
        monkeypatch.setattr(nnkernels.functional, name, watching(getattr(nnkernels.functional, name)))
    with torch.autocast("cpu", torch.bfloat16):
        model(**example) if isinstance(example, dict) else model(example)
    assert types == {(torch.bfloat16, torch.float32, torch.bfloat16, torch.float32)}


@pytest.mark.parametrize("named", ["timm-vit_tiny_patch16_224", "transformers-Llama", "transformers-Phi3"])
def test_linear_layers_that_somebody_listens_to_are_called(named):
    (build,) = (one.values[0] for one in MODELS if one.id == named)
    model, example = built(build)
    nnkernels.optimize(model, always=True, verbose=False)

    def outcome():
        torch.manual_seed(0)
        found = model(**example) if isinstance(example, dict) else model(example)
        return found.logits if isinstance(example, dict) else found

    expected, heard = outcome(), []
    listened = [
        module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and ".mlp." in name
    ]
    for module in listened:
        module.register_forward_hook(lambda module, *_: heard.append(module))
    torch.testing.assert_close(outcome(), expected)
    assert len(listened) > 3 and heard == sorted(listened, key=heard.index) and set(heard) == set(listened)


LEARNED = {
    "transformers.activations.XIELUActivation": lambda kind: kind(dtype=torch.float32),
    "transformers.models.qwen2_5_omni.modeling_qwen2_5_omni.Qwen2_5OmniSnakeBeta": lambda kind: kind(6),
    "timm.models.metaformer.StarReLU": lambda kind: kind(0.9, -0.4),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("learned", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_activation_has_its_classs_type_and_is_as_near_to_the_truth(name, dtype, learned, autocast):
    module, _, kind = name.rpartition(".")
    pytest.importorskip(module.partition(".")[0])
    ours = LEARNED[name](getattr(importlib.import_module(module), kind)).to(learned)
    theirs = copy.deepcopy(ours)
    nnkernels.optimize(ours, always=True, verbose=False)
    assert is_adapted(ours)

    def made(one, x, autocast=False):
        x = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = one(x)
        grad = torch.cos(torch.arange(48.0)).view_as(y).to(dtype).to(y.dtype)
        return [y, *torch.autograd.grad(y, [x, *one.parameters()], grad)]

    x = torch.linspace(-3, 3, 48).to(dtype).view(2, 6, 4)
    truth = made(copy.deepcopy(theirs).double(), x.double())
    for found, expected, exact in zip(made(ours, x, autocast), made(theirs, x, autocast), truth, strict=True):
        assert found.dtype == expected.dtype
        off, allowed = ((one - exact).abs().max() for one in (found, expected))
        assert off <= 1.5 * allowed + 2 * torch.finfo(found.dtype).eps * exact.abs().max()


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
