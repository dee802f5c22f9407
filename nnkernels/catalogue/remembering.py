"""The fused forms of networks that remember and route."""

from ..registry import Example, Fused, add

_CAPSULES = "Sabour, Frosst & Hinton 2017, Dynamic Routing Between Capsules"

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
            slack=4.0,  # the gradients are sums of rounded numbers, over weights that may be small
        ),
    )
)
add(
    Fused(
        "squash",
        "Squash",
        formula="x n / (1 + n^2), n = |x|",
        derivative="n / (1 + n^2) I + (1 - n^2) / (n (1 + n^2)^2) x x^T",
        range="the open unit ball",
        source=_CAPSULES,
        good_for="capsules, whose lengths are to be probabilities",
        drawback="short vectors, and long ones, hardly have a gradient",
        example=Example(lambda F, x: F.squash(x, 1), ((3, 5, 4),), slack=2.0),
    )
)
add(
    Fused(
        "route",
        "Route",
        formula="squash(sum of shares votes), shares = softmax(votes . the capsules of the rounds before)",
        derivative="shares times that of squash: gradients pass by the shares",
        range="the open unit ball",
        source=_CAPSULES,
        good_for="capsules that choose among those above them",
        drawback="a vote for every pair of capsules",
        # Of one round, whose gradient is that of the value.
        example=Example(lambda F, votes: F.route(votes, 1), ((2, 7, 3, 5),), slack=2.0),
    )
)
