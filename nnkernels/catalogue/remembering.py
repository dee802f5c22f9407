"""The fused forms of networks that remember and route."""

from ..registry import Example, Fused, add

add(
    Fused(
        "content_addressing",
        "ContentAddressing",
        formula="sharpen(shift(previous + gate (softmax(strength cos(key, slots)) - previous)))",
        derivative="backward through the steps, which it takes again: the memory is read twice, and nothing is kept",
        range="[0, 1]",
        source="Graves, Wayne & Danihelka 2014, Neural Turing Machines; Graves et al. 2016",
        good_for="heads on a memory: the neural Turing machine, the differentiable neural computer",
        drawback="every head looks at every slot",
        example=Example(
            lambda F, memory, key, strength, gate, previous, shift, sharpness: F.content_addressing(
                memory,
                key,
                strength.exp(),
                gate.sigmoid(),
                previous.softmax(-1),
                shift.softmax(-1),
                1 + sharpness.exp(),
            ),
            ((2, 6, 4), (2, 3, 4), (2, 3), (2, 3), (2, 3, 6), (2, 3, 3), (2, 3)),
            slack=2.0,  # the gradients are sums of numbers that have been rounded
        ),
    )
)
