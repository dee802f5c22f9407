"""The activations with parameters of their own. Swish and StarReLU, whose constants may be numbers or learned, stand in
`elementwise` and `derived`."""

from __future__ import annotations

from math import expm1, log
from typing import TYPE_CHECKING

from ..registry import Example, Learned, Moment, Picture, add

if TYPE_CHECKING:
    from torch import Tensor

_SLOPE = 0.25  # with which PyTorch's PReLU starts

add(
    Learned(
        "prelu",
        "PReLU",
        formula="x if x > 0 else weight x",
        derivative="1 if x > 0 else weight; for the weight 0 if x > 0 else x",
        range="(-inf, inf) for weight > 0, [0, inf) for weight <= 0",
        source="He, Zhang, Ren & Sun 2015",
        good_for="a leaky ReLU that finds its own slope; super-resolution, face recognition",
        drawback="weight decay would pull the slope to ReLU's",
        example=Example(lambda F, x, weight: F.prelu(x, weight), ((3, 4, 5), (4,))),
        picture=Picture(lambda F, x: F.prelu(x, x.new_tensor([_SLOPE])), f"weight = {_SLOPE}, where training starts"),
        moment=Moment(lambda mean, q, init: q * (1 + init**2) / 2, {"init": _SLOPE}),
    )
)
add(
    Learned(
        "apl",
        "APL",
        formula="max(0, x) + sum over s of slope_s max(0, offset_s - x)",
        derivative="(1 if x > 0 else 0) - sum of slope_s where x < offset_s",
        range="(-inf, inf)",
        source="Agostinelli, Hoffman, Sadowski & Baldi 2015",
        good_for="a shape that is learned piece by piece, not necessarily convex or monotonic",
        drawback="the number of segments is one more choice; the authors needed a weight decay on slopes and offsets",
        example=Example(lambda F, x, slopes, offsets: F.apl(x, slopes, offsets), ((3, 4, 5), (2, 4), (2, 4))),
        picture=Picture(
            lambda F, x: F.apl(x, x.new_tensor([0.6, -0.5]), x.new_tensor([-2.0, 2.0])),
            "slopes 0.6 and -0.5, offsets -2 and 2",
        ),
        # As it starts: slopes uniform in [-0.2, 0.2], offsets normal with standard deviation 0.5.
        moment=Moment(lambda mean, q, segments: q / 2 + segments * (0.4**2 / 12) * (q + 0.25) / 2, {"num_segments": 5}),
    )
)


def _xielu(x: Tensor, alpha_p: float, alpha_n: float, beta: float) -> Tensor:
    above, below = x.clamp(min=0), x.clamp(max=0)
    return alpha_p * above.square() + alpha_n * (below.expm1() - below) + beta * x


add(
    Learned(
        "xielu",
        "XIELU",
        formula="a x^2 + beta x if x > 0, else b (exp(x) - 1 - x) + beta x; a = softplus(alpha_p), b = beta + "
        "softplus(alpha_n)",
        derivative="2 a x + beta if x > 0, else b (exp(x) - 1) + beta",
        range="[a value below 0 at exp(x) = 1 - beta / b, inf)",
        source="Huang & Schlag 2024, Deriving Activation Functions Using Integration",
        good_for="language models (Apertus): a squared ReLU whose gradient below 0 is learned and does not vanish",
        drawback="grows quadratically; below 0 it rises again, so that it is not monotonic",
        example=Example(lambda F, x, alpha_p, alpha_n: F.xielu(x, alpha_p, alpha_n), ((3, 4, 5), (1,), (1,))),
        picture=Picture(
            lambda F, x: F.xielu(x, x.new_tensor(log(expm1(0.8))), x.new_tensor(log(expm1(0.3)))),
            "a = b = 0.8, where training starts",
        ),
        moment=Moment(
            lambda mean, q, *constants: mean(q, lambda x: _xielu(x, *constants).square()),
            {"alpha_p_init": 0.8, "alpha_n_init": 0.8, "beta": 0.5},
        ),
    )
)
_PERIODIC = Moment(
    lambda mean, q, alpha: mean(q, lambda x: (x + (alpha * x).sin().square() / alpha).square()), {"alpha": 1.0}
)
add(
    Learned(
        "snake",
        "Snake",
        formula="x + sin(alpha x)^2 / (alpha + 1e-9)",
        derivative="1 + sin(2 alpha x)",
        range="(-inf, inf)",
        source="Ziyin, Hartwig & Ueda 2020, Neural Networks Fail to Learn Periodic Functions and How to Fix It",
        good_for="what repeats: vocoders and audio codecs (Descript Audio Codec, BigVGAN)",
        drawback="its derivative touches zero again and again; aliases where alpha x is large",
        example=Example(lambda F, x, alpha: F.snake(x, alpha), ((3, 4, 5), (4,))),
        picture=Picture(lambda F, x: F.snake(x, x.new_tensor(1.0)), "alpha = 1, where training starts"),
        moment=_PERIODIC,
    )
)
add(
    Learned(
        "snake_beta",
        "SnakeBeta",
        formula="x + sin(alpha x)^2 / (beta + 1e-9)",
        derivative="1 + alpha sin(2 alpha x) / (beta + 1e-9)",
        range="(-inf, inf)",
        source="Lee et al. 2023, BigVGAN; after Ziyin, Hartwig & Ueda 2020",
        good_for="vocoders (BigVGAN, Qwen2.5-Omni): the size of a period is learned apart from its length",
        drawback="not monotonic where alpha > beta; aliases where alpha x is large",
        example=Example(lambda F, x, alpha, beta: F.snake_beta(x, alpha, beta), ((3, 4, 5), (4,), (4,))),
        picture=Picture(
            lambda F, x: F.snake_beta(x, x.new_tensor(2.0), x.new_tensor(1.0)), "alpha = 2, beta = 1; both start at 1"
        ),
        moment=_PERIODIC,
    )
)
add(
    Learned(
        "dyt",
        "DyT",
        formula="weight tanh(alpha x) + bias",
        derivative="weight alpha (1 - tanh(alpha x)^2)",
        range="(bias - |weight|, bias + |weight|)",
        source="Zhu, Chen, He, LeCun & Liu 2025, Transformers without Normalization",
        good_for="transformers whose norms it replaces: it squeezes what is extreme and needs no sum",
        drawback="alpha's start has to be found for large language models; saturates",
        example=Example(
            lambda F, x, alpha, weight, bias: F.dyt(x, alpha, weight, bias),
            ((3, 4, 5), (1,), (5,), (5,)),
            slack=2.0,  # alpha's gradient is a sum of numbers that cancel
        ),
        picture=Picture(
            lambda F, x: F.dyt(x, *(x.new_tensor(number) for number in (0.5, 1.0, 0.0))),
            "alpha = 0.5, weight = 1, bias = 0, where training starts",
        ),
        moment=Moment(lambda mean, q, alpha: mean(q, lambda x: (alpha * x).tanh().square()), {"alpha_init_value": 0.5}),
    )
)
