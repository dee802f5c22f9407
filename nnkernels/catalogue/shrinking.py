"""The stateless activations that cut off or shrink what is small; as those in `elementwise`."""

from ..registry import REQUIRED, Activation, add

add(
    Activation(
        "threshold",
        "Threshold",
        formula="x if x > threshold else value",
        derivative="1 if x > threshold else 0",
        range="{value} and (threshold, inf)",
        source="Torch7 (Collobert, Kavukcuoglu & Farabet 2011)",
        good_for="cutting off small activations",
        drawback="jumps unless value = threshold; no gradient below",
        parameters={"threshold": REQUIRED, "value": REQUIRED},
        keeps_output=lambda a, b: b <= a,
        masks=True,
        slopes=lambda a, b: (0.0, 1.0),
        shown=(1.0, -1.0),
    )
)
add(
    Activation(
        "thresholded_relu",
        "ThresholdedReLU",
        formula="x if x > theta else 0",
        derivative="1 if x > theta else 0",
        range="{0} and (theta, inf) for theta >= 0",
        source="Konda, Memisevic & Krueger 2014, Zero-bias autoencoders",
        good_for="sparse autoencoders without biases",
        drawback="jumps by theta; no gradient below",
        parameters={"theta": 1.0},
        keeps_output=lambda a, b: a >= 0,
        masks=True,
        slopes=lambda a, b: (0.0, 1.0),
        peer=lambda F, x, theta: F.threshold(x, theta, 0.0),
    )
)
add(
    Activation(
        "softshrink",
        "Softshrink",
        formula="x - lambd if x > lambd, x + lambd if x < -lambd, else 0",
        derivative="0 if -lambd <= x <= lambd else 1",
        range="(-inf, inf)",
        source="Donoho 1995, De-noising by soft-thresholding",
        good_for="sparse coding (the proximal step of an L1 penalty)",
        drawback="biases every value towards zero by lambd",
        parameters={"lambd": 0.5},
        refuses=lambda a, b: RuntimeError(f"softshrink(): lambd must be at least 0, got {a}") if a < 0 else None,
        inplace=False,
        masks=True,
        slopes=lambda a, b: (0.0, 1.0),
    )
)
add(
    Activation(
        "hardshrink",
        "Hardshrink",
        formula="0 if -lambd <= x <= lambd else x",
        derivative="0 if -lambd <= x <= lambd else 1",
        range="(-inf, -lambd), {0} and (lambd, inf) for lambd >= 0",
        source="Donoho & Johnstone 1994, Ideal spatial adaptation by wavelet shrinkage",
        good_for="sparse codes whose large values are kept as they are",
        drawback="jumps at both edges",
        parameters={"lambd": 0.5},
        inplace=False,
        keeps_output=lambda a, b: a >= 0,
        masks=True,
        slopes=lambda a, b: (0.0, 1.0),
    )
)
add(
    Activation(
        "tanhshrink",
        "Tanhshrink",
        formula="x - tanh(x)",
        derivative="tanh(x)^2",
        range="(-inf, inf)",
        source="Torch7 (Collobert, Kavukcuoglu & Farabet 2011)",
        good_for="shrinking small values smoothly, about x^3 / 3 near zero",
        drawback="no gradient at zero and little around it; never exactly sparse",
        inplace=False,
    )
)
