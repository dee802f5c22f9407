"""Small models of torchvision, timm, transformers and diffusers, each with an example of its input."""

from __future__ import annotations

import pytest
import torch


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
