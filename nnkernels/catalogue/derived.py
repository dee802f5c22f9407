"""The stateless activations that are another one, scaled or under a root; as those in `elementwise`."""

from ..registry import Activation, add

add(
    Activation(
        "softcap",
        "Softcap",
        formula="cap tanh(x / cap)",
        derivative="1 - tanh(x / cap)^2",
        range="(-cap, cap)",
        source="Bello et al. 2017, Neural Combinatorial Optimization; Gemma 2 (Gemma Team 2024)",
        good_for="logits of attention and of the last layer (Gemma 2), which it keeps from growing",
        drawback="flattens what is beyond the cap; fused attention kernels have to know it",
        parameters={"cap": 30.0},
        refuses=lambda a, b: None if a > 0 else ValueError(f"softcap(): cap must be greater than 0, got {a}"),
        peer=lambda F, x, cap: cap * (x / cap).tanh(),
        shown=(2.0,),
    )
)
add(
    Activation(
        "hardmish",
        "HardMish",
        formula="x min(max(x + 2, 0), 2) / 2",
        derivative="0 if x <= -2, x + 1 if x < 0, else 1",
        range="[-0.5, inf)",
        source="Misra 2020, H-Mish; timm's hard_mish",
        good_for="a Mish without exponentials",
        drawback="no gradient below -2; its slope jumps there",
        masks=True,
        peer=lambda F, x: x * F.relu6(3 * x + 6) / 6,
    )
)
add(
    Activation(
        "starrelu",
        "StarReLU",
        formula="scale_value max(x, 0)^2 + bias_value",
        derivative="2 scale_value max(x, 0)",
        range="[bias_value, inf) for scale_value > 0",
        source="Yu et al. 2022, MetaFormer Baselines for Vision",
        good_for="vision backbones (CAFormer, ConvFormer): mean 0 and variance 1 for normal inputs",
        drawback="grows quadratically; a unit whose input stays negative never learns again",
        parameters={"scale_value": 0.8944, "bias_value": -0.4472},
        masks=True,
        peer=lambda F, x, scale, bias: scale * F.relu(x).square() + bias,
    )
)
add(
    Activation(
        "sqrtsoftplus",
        "SqrtSoftplus",
        formula="sqrt(log(1 + exp(x)))",
        derivative="sigmoid(x) / (2 sqrt(log(1 + exp(x))))",
        range="(0, inf)",
        source="DeepSeek-V4 (DeepSeek-AI 2026)",
        good_for="scores of a router of experts, which grow slowly and do not saturate",
        drawback="never zero, so not sparse; its slope falls to 0 on both sides",
        inplace=False,
        peer=lambda F, x: F.softplus(x).sqrt(),
    )
)
