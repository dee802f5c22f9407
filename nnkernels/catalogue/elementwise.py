"""The stateless activations: one tensor in, one of its shape out, at most two constants.

How each is computed stands under the same name in `reference/`, `triton/` and `csrc/activations.h`; a test holds the
four sets of names against each other.
"""

import math

from ..registry import Activation, add

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946

add(
    Activation(
        "sigmoid",
        "Sigmoid",
        formula="1 / (1 + exp(-x))",
        derivative="s (1 - s), s = sigmoid(x)",
        range="(0, 1)",
        source="Verhulst 1845; in networks Rumelhart, Hinton & Williams 1986",
        good_for="gates and binary outputs",
        drawback="saturates on both sides and is not centred on zero",
        inplace=False,
        output_tells=True,
    )
)
add(
    Activation(
        "tanh",
        "Tanh",
        formula="(exp(x) - exp(-x)) / (exp(x) + exp(-x))",
        derivative="1 - tanh(x)^2",
        range="(-1, 1)",
        source="LeCun et al. 1998, Efficient BackProp",
        good_for="recurrent cells, bounded outputs",
        drawback="saturates on both sides",
        inplace=False,
        output_tells=True,
        gain=lambda: 5 / 3,
        searched=True,
    )
)
add(
    Activation(
        "relu",
        "ReLU",
        formula="max(x, 0)",
        derivative="1 if x > 0 else 0",
        range="[0, inf)",
        source="Fukushima 1969; Nair & Hinton 2010",
        good_for="the default of convolutional networks",
        drawback="a unit whose input stays negative never learns again",
        keeps_output=lambda a, b: True,
        masks=True,
        slopes=lambda a, b: (0.0, 1.0),
        gain=lambda: math.sqrt(2),
        searched=True,
    )
)
add(
    Activation(
        "relu6",
        "ReLU6",
        formula="min(max(x, 0), 6)",
        derivative="1 if 0 < x < 6 else 0",
        range="[0, 6]",
        source="Krizhevsky 2010, Convolutional Deep Belief Networks on CIFAR-10",
        good_for="mobile networks in low precision",
        drawback="no gradient outside (0, 6)",
        keeps_output=lambda a, b: True,
        masks=True,
        slopes=lambda a, b: (0.0, 1.0),
        window=(-2.0, 8.0),
    )
)
add(
    Activation(
        "relu_squared",
        "ReLUSquared",
        formula="max(x, 0)^2",
        derivative="2 max(x, 0)",
        range="[0, inf)",
        source="So et al. 2021, Primer",
        good_for="feed-forward blocks of language models, sparse activations",
        drawback="grows quadratically: float16 overflows from 256 on, and deep stacks need normalisation",
        masks=True,
        peer=lambda F, x: F.relu(x).square(),
    )
)
add(
    Activation(
        "leaky_relu",
        "LeakyReLU",
        formula="x if x > 0 else negative_slope x",
        derivative="1 if x > 0 else negative_slope",
        range="(-inf, inf) for negative_slope > 0",
        source="Maas, Hannun & Ng 2013",
        good_for="discriminators; nets in which ReLU units die",
        drawback="one more constant to choose, with little gain over ReLU in its own paper",
        parameters={"negative_slope": 0.01},
        keeps_output=lambda a, b: a > 0,
        slopes=lambda a, b: (a, 1.0),
        gain=lambda slope: math.sqrt(2 / (1 + slope**2)),
        shown=(0.1,),
        searched=True,
    )
)
add(
    Activation(
        "elu",
        "ELU",
        formula="x if x > 0 else alpha (exp(x) - 1)",
        derivative="1 if x > 0 else alpha exp(x)",
        range="(-alpha, inf) for alpha > 0",
        source="Clevert, Unterthiner & Hochreiter 2016",
        good_for="mean activations near zero without normalisation",
        drawback="its slope jumps at zero unless alpha = 1; saturates below",
        parameters={"alpha": 1.0},
        output_tells=True,
        searched=True,
    )
)
add(
    Activation(
        "celu",
        "CELU",
        formula="x if x > 0 else alpha (exp(x / alpha) - 1)",
        derivative="1 if x > 0 else exp(x / alpha)",
        range="(-alpha, inf) for alpha > 0",
        source="Barron 2017",
        good_for="ELU with a continuous slope for every alpha",
        drawback="saturates below; alpha = 0, the limit that would be ReLU, is not allowed",
        parameters={"alpha": 1.0},
        refuses=lambda a, b: None if a else RuntimeError("celu(): alpha cannot be 0"),
        output_tells=True,
        shown=(2.0,),
    )
)
add(
    Activation(
        "selu",
        "SELU",
        formula=f"scale (x if x > 0 else alpha (exp(x) - 1)), alpha = {SELU_ALPHA:.5f}..., scale = {SELU_SCALE:.5f}...",
        derivative="scale (1 if x > 0 else alpha exp(x))",
        range=f"({-SELU_SCALE * SELU_ALPHA:.4f}, inf)",
        source="Klambauer et al. 2017",
        good_for="deep fully connected networks that normalise themselves",
        drawback="needs LeCun-normal weights and alpha dropout, and biases that start at 0; no batch normalisation",
        output_tells=True,
        gain=lambda: 1.0,
        searched=True,
    )
)
add(
    Activation(
        "silu",
        "SiLU",
        formula="x sigmoid(x)",
        derivative="s (1 + x (1 - s)), s = sigmoid(x)",
        range="[-0.2785, inf)",
        source="Hendrycks & Gimpel 2016; Elfwing et al. 2018; Ramachandran et al. 2017",
        good_for="modern convolutional networks; the gate of SwiGLU",
        drawback="not monotonic: falls to -0.2785 at x = -1.2785; dearer than ReLU when it is not fused",
        searched=True,
    )
)
add(
    Activation(
        "swish",
        "Swish",
        formula="x sigmoid(beta x)",
        derivative="s (1 + beta x (1 - s)), s = sigmoid(beta x)",
        range="[-0.2785 / beta, inf) for beta > 0",
        source="Ramachandran, Zoph & Le 2017",
        good_for="SiLU with a chosen sharpness",
        drawback="not monotonic; one more constant to choose",
        parameters={"beta": 1.0},
        peer=lambda F, x, beta: x * F.sigmoid(beta * x),
        shown=(2.0,),
    )
)
add(
    Activation(
        "gelu",
        "GELU",
        formula="x Phi(x), Phi the standard normal distribution function",
        derivative="Phi(x) + x phi(x)",
        range="[-0.1700, inf)",
        source="Hendrycks & Gimpel 2016",
        good_for="transformers",
        drawback="not monotonic: falls to -0.1700 at x = -0.7518; needs the error function, which is dear",
        inplace=False,
        variant="none",
        searched=True,
    )
)
add(
    Activation(
        "gelu_tanh",
        "GELUTanh",
        formula="x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
        derivative="s + x s (1 - s) z', s = sigmoid(z), z = 2 sqrt(2/pi) (x + 0.044715 x^3)",
        range="[-0.1700, inf)",
        source="Hendrycks & Gimpel 2016",
        good_for="checkpoints trained with it (GPT-2, Google's BERT, Gemma)",
        drawback="not monotonic; differs from the exact GELU by up to 0.0005",
        inplace=False,
        variant="tanh",
        peer=lambda F, x: F.gelu(x, approximate="tanh"),
    )
)
add(
    Activation(
        "gelu_sigmoid",
        "QuickGELU",
        formula="x sigmoid(1.702 x)",
        derivative="s (1 + 1.702 x (1 - s)), s = sigmoid(1.702 x)",
        range="[-0.1636, inf)",
        source="Hendrycks & Gimpel 2016; CLIP (Radford et al. 2021)",
        good_for="checkpoints trained with it (CLIP)",
        drawback="not monotonic; differs from the exact GELU by up to 0.0203",
        inplace=False,
        variant="sigmoid",
        peer=lambda F, x: x * F.sigmoid(1.702 * x),
    )
)
add(
    Activation(
        "hardsigmoid",
        "Hardsigmoid",
        formula="min(max(x + 3, 0), 6) / 6",
        derivative="1/6 if -3 < x < 3 else 0",
        range="[0, 1]",
        source="Courbariaux, Bengio & David 2015, with slope 1/2; in this form Howard et al. 2019",
        good_for="gates on small devices",
        drawback="reaches 0 and 1 and has no gradient beyond",
        masks=True,
        slopes=lambda a, b: (0.0, 1 / 6),
    )
)
add(
    Activation(
        "hardswish",
        "Hardswish",
        formula="x min(max(x + 3, 0), 6) / 6",
        derivative="0 if x <= -3, 1 if x >= 3, else x/3 + 1/2",
        range="[-0.375, inf)",
        source="Howard et al. 2019, Searching for MobileNetV3",
        good_for="mobile networks",
        drawback="not monotonic; its slope jumps by 1/2 at -3 and at 3",
        masks=True,
        searched=True,
    )
)
add(
    Activation(
        "hardtanh",
        "Hardtanh",
        formula="min(max(x, min_val), max_val)",
        derivative="1 if min_val < x < max_val else 0",
        range="[min_val, max_val]",
        source="Collobert 2004",
        good_for="bounded outputs, quantised networks",
        drawback="no gradient outside the interval",
        parameters={"min_val": -1.0, "max_val": 1.0},
        refuses=lambda a, b: ValueError(f"hardtanh(): min_val {a} is greater than max_val {b}") if a > b else None,
        keeps_output=lambda a, b: True,
        masks=True,
        slopes=lambda a, b: (0.0, 1.0),
    )
)
add(
    Activation(
        "mish",
        "Mish",
        formula="x tanh(softplus(x))",
        derivative="t + x (1 - t^2) sigmoid(x), t = tanh(softplus(x))",
        range="[-0.3088, inf)",
        source="Misra 2019",
        good_for="detectors (YOLOv4); a smooth alternative to SiLU",
        drawback="not monotonic: falls to -0.3088 at x = -1.1924; an exp, a log and a tanh unless it is fused",
        searched=True,
    )
)
add(
    Activation(
        "softplus",
        "Softplus",
        formula="log(1 + exp(beta x)) / beta, and x where beta x > threshold",
        derivative="sigmoid(beta x), and 1 where beta x > threshold",
        range="(0, inf) for beta > 0",
        source="Dugas et al. 2001",
        good_for="positive outputs: scales, rates, variances",
        drawback="never zero, so not sparse; its mean of 0.81 on normal inputs adds up from layer to layer",
        parameters={"beta": 1.0, "threshold": 20.0},
        inplace=False,
        float32_under_cuda_autocast=True,
        output_tells=True,
        searched=True,
    )
)
add(
    Activation(
        "softsign",
        "Softsign",
        formula="x / (1 + |x|)",
        derivative="1 / (1 + |x|)^2",
        range="(-1, 1)",
        source="Elliott 1993; Bergstra et al. 2009; Turian, Bergstra & Bengio 2009",
        good_for="a tanh that saturates polynomially",
        drawback="approaches its limits slowly: 0.99 only at x = 99",
        inplace=False,
        output_tells=True,
    )
)
add(
    Activation(
        "logsigmoid",
        "LogSigmoid",
        formula="-log(1 + exp(-x))",
        derivative="sigmoid(-x)",
        range="(-inf, 0)",
        source="Cox 1958, the logistic log-likelihood",
        good_for="losses (binary cross-entropy, preference learning)",
        drawback="a loss's term rather than a hidden layer's: never positive, and nearly linear below zero",
        inplace=False,
        output_tells=True,
    )
)
