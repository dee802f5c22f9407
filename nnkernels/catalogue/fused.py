"""The fused forms: an activation in one pass with what stands before it, a bias, a norm, a distance or a gate."""

from ..registry import Example, Fused, add

_RANGE = "that of f"
_SLACK = 2.0  # the gradients are sums of numbers that have been rounded

add(
    Fused(
        "bias_act",
        "BiasAct",
        formula="dropout(f(x + bias)) + residual",
        derivative="f'(x + bias) / (1 - p) where dropout keeps, else 0",
        range="that of f, stretched by 1 / (1 - p) and moved by the residual",
        source="Srivastava et al. 2014 for dropout; the fused form is that of Megatron-LM (Shoeybi et al. 2019)",
        good_for="the end of a linear layer or convolution without a bias of its own",
        drawback="the layer before it must do without a bias",
        example=Example(
            lambda F, x, bias, residual: F.bias_act(x, bias, "silu", residual=residual),
            ((3, 4, 5), (5,), (3, 4, 5)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "layer_norm_act",
        "LayerNormAct",
        formula="f((x - mean) / sqrt(var + eps) weight + bias + residual), mean and var of the last dimensions or one",
        derivative="(d - mean(d) - n mean(d n)) / sqrt(var + eps), d what reaches the normalised x, which is n",
        range=_RANGE,
        source="Ba, Kiros & Hinton 2016, Layer Normalization",
        good_for="transformers, and what sees one sample at a time",
        drawback="two passes over a row that fits into no register",
        example=Example(
            lambda F, x, weight, bias, residual: F.layer_norm_act(
                x, 8, weight, bias, activation="silu", residual=residual
            ),
            ((5, 8), (8,), (8,), (5, 8)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "rms_norm_act",
        "RMSNormAct",
        formula="f(x / sqrt(mean(x^2) + eps) weight + residual), the mean over the last dimensions or one",
        derivative="(d - n mean(d n)) / sqrt(mean(x^2) + eps), d what reaches the normalised x, which is n",
        range=_RANGE,
        source="Zhang & Sennrich 2019, Root Mean Square Layer Normalization",
        good_for="language models (Llama, Gemma)",
        drawback="leaves the mean as it is",
        example=Example(
            lambda F, x, weight, residual: F.rms_norm_act(x, 8, weight, activation="silu", residual=residual),
            ((5, 8), (8,), (5, 8)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "batch_norm_act",
        "BatchNormAct2d",
        formula="f((x - mean) / sqrt(var + eps) weight + bias + residual), mean and var of each channel",
        derivative="(d - mean(d) - n mean(d n)) / sqrt(var + eps), d what reaches the normalised x, which is n",
        range=_RANGE,
        source="Ioffe & Szegedy 2015",
        good_for="convolutional networks",
        drawback="needs large batches, and differs between training and evaluation",
        example=Example(
            lambda F, x, weight, bias, residual: F.batch_norm_act(
                x, None, None, weight, bias, training=True, activation="silu", residual=residual
            ),
            ((5, 3, 4), (3,), (3,), (5, 3, 4)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "group_norm_act",
        "GroupNormAct",
        formula="f((x - mean) / sqrt(var + eps) weight + bias + residual), mean and var of a group of channels",
        derivative="(d - mean(d) - n mean(d n)) / sqrt(var + eps), d what reaches the normalised x, which is n",
        range=_RANGE,
        source="Wu & He 2018, Group Normalization",
        good_for="convolutional networks with small batches",
        drawback="the number of groups is one more choice",
        example=Example(
            lambda F, x, weight, bias, residual: F.group_norm_act(
                x, 2, weight, bias, activation="silu", residual=residual
            ),
            ((3, 4, 5), (4,), (4,), (3, 4, 5)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "scale_act",
        "LayerScale",
        formula="x f(scale) + residual, the scale broadcast to x",
        derivative="f(scale) for x; the sum of x f'(scale) over what a scale meets for the scale",
        range="every number",
        source="Touvron et al. 2021 for layer scale; Hu, Shen & Sun 2018 for squeeze-and-excitation",
        good_for="the gates of squeeze-and-excitation, and residual branches that start close to nothing",
        drawback="scales that vary along dimensions lying apart in memory are left to torch operations",
        example=Example(
            lambda F, x, scale, residual: F.scale_act(x, scale, "sigmoid", residual=residual),
            ((3, 4, 5), (3, 4, 1), (3, 4, 5)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "add_layer_norm",
        "AddLayerNorm",
        formula="layer_norm(x + residual) and x + residual",
        derivative="of both: the norm's at the sum, and what reaches the sum",
        range="(-inf, inf)",
        source="Ba, Kiros & Hinton 2016, Layer Normalization; before each block in GPT-2 (Radford et al. 2019)",
        good_for="transformers that normalise before each block (GPT-2, ViT)",
        drawback="the sum has to be handed on to the next block's end",
        example=Example(
            lambda F, x, residual, weight, bias: sum(F.add_layer_norm(x, residual, 8, weight, bias)),
            ((5, 8), (5, 8), (8,), (8,)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "add_rms_norm",
        "AddRMSNorm",
        formula="rms_norm(x + residual) and x + residual",
        derivative="of both: the norm's at the sum, and what reaches the sum",
        range="(-inf, inf)",
        source="Zhang & Sennrich 2019; before each block in Llama (Touvron et al. 2023)",
        good_for="language models that normalise before each block (Llama, Gemma)",
        drawback="the sum has to be handed on to the next block's end",
        example=Example(
            lambda F, x, residual, weight: sum(F.add_rms_norm(x, residual, 8, weight, offset=1.0)),
            ((5, 8), (5, 8), (8,)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "gated_rms_norm",
        "GatedRMSNorm",
        formula="x / sqrt(mean(x^2) + eps) weight f(gate), the mean over the last dimensions",
        derivative="for the gate: n weight f'(gate), n the normalised x; else as rms_norm_act's",
        range="(-inf, inf)",
        source="Dao & Gu 2024, Transformers are SSMs; Yang, Kautz & Hatamizadeh 2025, Gated Delta Networks",
        good_for="the end of linear attention: Qwen3-Next, and Mamba-2 with norm_before_gate=False",
        drawback="checkpoints differ in whether the gate comes before the norm",
        example=Example(
            lambda F, x, gate, weight: F.gated_rms_norm(x, gate, 8, weight),
            ((5, 8), (5, 8), (8,)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "gaussian_rbf",
        "GaussianRBF",
        formula="exp(-gamma |x - c|^2) for each center c",
        derivative="-2 gamma (x - c) exp(-gamma |x - c|^2)",
        range="[0, 1]",
        source="Broomhead & Lowe 1988, Multivariable Functional Interpolation and Adaptive Networks",
        good_for="interpolation, kernel methods and networks of locally tuned units",
        drawback="far from every center it says 0, and the number of centers grows with that of the features",
        # x and gamma so small that a rounding in the exponent is not magnified.
        example=Example(
            lambda F, x, centers, gamma: F.gaussian_rbf(x / 4, centers, gamma.abs() / 8),
            ((5, 3), (4, 3), (4,)),
            _SLACK,
        ),
    )
)
add(
    Fused(
        "gru_gates",
        "GRUCell",
        formula="n + z (h - n), r and z = sigmoid(i + h), n = tanh(i_n + r h_n)",
        derivative="z for h; (1 - z) tanh'(i_n + r h_n) for i_n; the gates' by the chain rule",
        range="(-inf, inf); (-1, 1) from a state within it",
        source="Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder",
        good_for="recurrent networks that remember for some hundreds of steps",
        drawback="one step waits for the other",
        example=Example(
            lambda F, given, recurred, hidden: F.gru_gates(given, recurred, hidden), ((3, 12), (3, 12), (3, 4)), _SLACK
        ),
    )
)

_PRODUCTS = 16.0  # sums of products of numbers that have been rounded, and a hidden tensor that has been as well

add(
    Fused(
        "linear_act",
        "LinearAct",
        formula="f(x W^T + b)",
        derivative="f'(x W^T + b) before the derivatives of a linear layer",
        range=_RANGE,
        source="Chetlur et al. 2014, cuDNN, for the fusion",
        good_for="layers of perceptrons and transformers",
        drawback="the activation is part of the layer: nothing can stand between them",
        example=Example(lambda F, x, w, b: F.linear_act(x, w, b, "silu"), ((3, 4, 5), (6, 5), (6,)), _PRODUCTS),
    )
)
add(
    Fused(
        "mlp",
        "MLP",
        formula="f(x W1^T + b1) W2^T + b2",
        derivative="(d W2) f'(z) W1 for x, z = x W1^T + b1; (d W2) f'(z) and f(z) enter the weights' gradients",
        range="(-inf, inf)",
        source="Vaswani et al. 2017, Attention Is All You Need",
        good_for="the feed-forward blocks of transformers (GPT-2, ViT), with half of the hidden memory",
        drawback="the hidden activation cannot be looked at",
        example=Example(
            lambda F, x, w1, b1, w2, b2: F.mlp(x, w1, b1, w2, b2, "gelu"),
            ((3, 4, 5), (6, 5), (6,), (3, 6), (3,)),
            _PRODUCTS,
        ),
    )
)
add(
    Fused(
        "gated_mlp",
        "GatedMLP",
        formula="(f(x Wg^T) (x Wu^T)) Wd^T",
        derivative="those of the gated activation between those of three products",
        range="(-inf, inf)",
        source="Shazeer 2020, GLU Variants Improve Transformer",
        good_for="the feed-forward blocks of Llama and its kin, with half of the hidden memory",
        drawback="the hidden activation cannot be looked at",
        example=Example(
            lambda F, x, gate, up, down: F.gated_mlp(x, gate, up, down), ((3, 4, 5), (6, 5), (6, 5), (3, 6)), _PRODUCTS
        ),
    )
)
add(
    Fused(
        "maxout_linear",
        "MaxoutLinear",
        formula="max over p of (x W^T + b)[o pieces + p]",
        derivative="that of the piece that won; 0 for the others",
        range="(-inf, inf)",
        source="Goodfellow, Warde-Farley, Mirza, Courville & Bengio 2013, Maxout Networks",
        good_for="networks that learn their activations, with dropout",
        drawback="as many times the work of a linear layer as there are pieces",
        example=Example(lambda F, x, w, b: F.maxout_linear(x, w, b, 2), ((3, 4, 5), (6, 5), (6,)), _PRODUCTS),
    )
)
