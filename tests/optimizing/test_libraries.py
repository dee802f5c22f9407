"""Models of torchvision, timm, transformers and diffusers compute the same after `optimize`, faster or not."""

from __future__ import annotations

import copy
import importlib
import io

import pytest
import torch
from library_models import MODELS, built

import nnkernels
from nnkernels.optimizing.adapting import fingerprint, is_adapted
from nnkernels.optimizing.step import Results, Step, difference


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("build", MODELS)
def test_outputs_gradients_and_running_statistics_are_the_same(build, autocast):
    model, example = built(build)
    plain = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        report = nnkernels.optimize(model, example, always=True, verbose=False)
        assert report.fused, str(report)
        moved = copy.deepcopy(plain)
        nudged = Step(moved, example).nudged()
        found, expected = (Step(one, example).repeated() for one in (model, plain))
        assert not difference(found, expected, nudged)
    statistics = [
        Results([one for one in side.buffers() if one.is_floating_point()], []) for side in (model, plain, moved)
    ]
    assert not difference(*statistics)
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

    monkeypatch.setattr(layers.BatchNormAct2d, "forward", forward)
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


IMAGE_NORMS = ["torchvision.models.convnext.LayerNorm2d", "timm.layers.LayerNorm2d", "timm.layers.RmsNorm2d"]


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=lambda one: str(one)[6:])
@pytest.mark.parametrize("name", IMAGE_NORMS)
def test_norms_over_the_channels_of_images(name, layout, autocast):
    library, _, kind = name.rpartition(".")
    pytest.importorskip(library.partition(".")[0])
    norm = getattr(importlib.import_module(library), kind)(6)
    x = torch.randn(2, 6, 4, 5).to(memory_format=layout).requires_grad_()
    plain = copy.deepcopy(norm)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        report = nnkernels.optimize(norm, x, always=True, verbose=False)
        found, expected = norm(x), plain(x)
    assert is_adapted(norm), str(report)
    assert found.dtype == expected.dtype and found.stride() == expected.stride()
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    mine, theirs = (torch.autograd.grad(y, (x, *of.parameters()), grad) for y, of in ((found, norm), (expected, plain)))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


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
    assert len(heard) == len(listened) > 3 and set(heard) == set(listened)


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
