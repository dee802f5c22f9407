"""The gated activations with names of their own; `functional.gated` takes any stateless row as its gate.

One that is no more than a name for its gate needs nothing but its row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Gated, Moment, Picture, add

if TYPE_CHECKING:
    from torch import Tensor

add(
    Gated(
        "glu",
        "GLU",
        formula="a sigmoid(b), a and b the first and second half of x",
        derivative="for a: s, for b: a s (1 - s), s = sigmoid(b)",
        range="(-inf, inf)",
        source="Dauphin, Fan, Auli & Grangier 2017, Language Modeling with Gated Convolutional Networks",
        good_for="gated convolutions, speech models (Conformer)",
        drawback="needs twice the features that it returns; its gate saturates",
        gate="sigmoid",
        picture=Picture(
            lambda F, x: F.glu(x.unsqueeze(1) * x.new_tensor([0.0, 1.0]) + x.new_tensor([1.0, 0.0])).squeeze(1),
            "what it gates is 1",
            "gate",
            "product",
        ),
    )
)
add(
    Gated(
        "swiglu",
        "SwiGLU",
        formula="g sigmoid(beta g) u, g the gate and u what it gates",
        derivative="for g: u s (1 + beta g (1 - s)), for u: g s, s = sigmoid(beta g)",
        range="(-inf, inf)",
        source="Shazeer 2020, GLU Variants Improve Transformer",
        good_for="feed-forward blocks of language models (PaLM, Llama)",
        drawback="a third weight matrix; products of large factors overflow float16",
        gate="swish",
        searched=True,
    )
)
add(
    Gated(
        "geglu",
        "GEGLU",
        formula="g Phi(g) u, g the gate, u what it gates, Phi the standard normal distribution function",
        derivative="for g: u (Phi(g) + g phi(g)), for u: g Phi(g)",
        range="(-inf, inf)",
        source="Shazeer 2020, GLU Variants Improve Transformer",
        good_for="feed-forward blocks of language models (T5 1.1, Gemma) and of diffusion models",
        drawback="a third weight matrix; checkpoints differ in which GELU they mean",
        gate="gelu",
    )
)
add(
    Gated(
        "reglu",
        "ReGLU",
        formula="max(g, 0) u, g the gate and u what it gates",
        derivative="for g: u if g > 0 else 0, for u: max(g, 0)",
        range="(-inf, inf)",
        source="Dauphin, Fan, Auli & Grangier 2017; named by Shazeer 2020, GLU Variants Improve Transformer",
        good_for="feed-forward blocks whose gates are sparse",
        drawback="a gate that stays negative never learns again",
        gate="relu",
    )
)


def _capped(x: Tensor, cap: float) -> Tensor:
    return cap * (x / cap).tanh()


add(
    Gated(
        "situ_glu",
        "SiTUGLU",
        formula="c tanh(g / c) sigmoid(g) d tanh(u / d), g the gate and u what it gates",
        derivative="for g: v (s (1 - t^2) + c t s (1 - s)), s = sigmoid(g), t = tanh(g / c), v = d tanh(u / d); "
        "for u: c t s (1 - tanh(u / d)^2)",
        range="(-c d, c d)",
        source="Moonshot AI 2026, Kimi K3",
        good_for="experts of language models in narrow types: SwiGLU whose products stay below c d (100 in Kimi K3)",
        drawback="two more hyperbolic tangents; no gradient far beyond the caps",
        gate="sigmoid",
        moment=Moment(
            lambda mean, q, beta, linear_beta: (
                mean(q, lambda x: (_capped(x, beta) * x.sigmoid()).square())
                * mean(q, lambda x: _capped(x, linear_beta).square())
            ),
            {"beta": 4.0, "linear_beta": 25.0},
        ),
    )
)
