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
    language_model("GPT2", "LMHeadModel"),
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
