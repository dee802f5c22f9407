"""The activations made of straight (or squared) pieces."""

from __future__ import annotations

import torch

from .base import Formula, near, product, product_error


class identity(Formula):
    @staticmethod
    def value(x, a, b):
        return x.clone()

    @staticmethod
    def d1(x, a, b):
        return torch.ones_like(x)


class relu(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.relu(x)

    @staticmethod
    def d1(x, a, b):
        return torch.where(x <= 0, 0.0, torch.ones_like(x))


class relu6(Formula):
    @staticmethod
    def value(x, a, b):
        return hardtanh.value(x, 0.0, 6.0)

    @staticmethod
    def d1(x, a, b):
        return hardtanh.d1(x, 0.0, 6.0)


class relu_squared(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.relu(x) * torch.relu(x)

    @staticmethod
    def d1(x, a, b):
        return 2 * torch.relu(x)

    @staticmethod
    def d2(x, a, b):
        return torch.where(x > 0, 2.0, torch.zeros_like(x))


class leaky_relu(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x > 0, x, a * x)

    @staticmethod
    def d1(x, a, b):
        return torch.where(x > 0, 1.0, torch.full_like(x, a))


class hardsigmoid(Formula):
    @staticmethod
    def value(x, a, b):
        # Not `clamp`, whose derivative at its bounds has changed with torch's versions.
        return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (near(x, 3.0) + 3) / 6))

    @staticmethod
    def d1(x, a, b):
        return torch.where((x > -3) & (x < 3), 1 / 6, torch.zeros_like(x))


class hardswish(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x <= -3, 0.0, torch.where(x >= 3, x, near(x, 3.0) * (near(x, 3.0) + 3) / 6))

    @staticmethod
    def d1(x, a, b):
        return torch.where(x <= -3, 0.0, torch.where(x < 3, (near(x, 3.0) + 1.5) / 3, torch.ones_like(x)))

    @staticmethod
    def d2(x, a, b):
        return torch.where((x > -3) & (x < 3), 1 / 3, torch.zeros_like(x))


class hardtanh(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.nn.functional.hardtanh(x, a, b)

    @staticmethod
    def d1(x, a, b):
        return torch.where((x <= a) | (x >= b), 0.0, torch.ones_like(x))


class threshold(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x <= a, torch.full_like(x, b), x)

    @staticmethod
    def d1(x, a, b):
        return torch.where(x <= a, 0.0, torch.ones_like(x))


class thresholded_relu(Formula):
    @staticmethod
    def value(x, a, b):
        return threshold.value(x, a, 0.0)

    @staticmethod
    def d1(x, a, b):
        return threshold.d1(x, a, 0.0)


class softshrink(Formula):
    @staticmethod
    def value(x, a, b):
        # NaN is outside: Inductor may take 0 * NaN for 0.
        return torch.where((x >= -a) & (x <= a), 0 * near(x), torch.where(x > a, x - a, x + a))

    @staticmethod
    def d1(x, a, b):
        return torch.where((x >= -a) & (x <= a), 0.0, torch.ones_like(x))


class hardshrink(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where((x >= -a) & (x <= a), 0.0, x)

    @staticmethod
    def d1(x, a, b):
        return softshrink.d1(x, a, b)


class hardmish(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x <= -2, 0.0, torch.where(x < 0, 0.5 * x * (near(x, 2.0) + 2), x))

    @staticmethod
    def d1(x, a, b):
        return torch.where(x <= -2, 0.0, torch.where(x < 0, x + 1, torch.ones_like(x)))

    @staticmethod
    def d2(x, a, b):
        return torch.where((x > -2) & (x < 0), 1.0, torch.zeros_like(x))


class starrelu(Formula):
    @staticmethod
    def value(x, a, b):
        """Around its root the sum is no larger than what rounding took from its terms, which therefore joins it."""
        r = torch.relu(x)
        y = a * r * r + b
        held = r.detach()
        scaled = product(a, held)
        whole = product(scaled, held)
        lost = product_error(scaled, held, whole) + product_error(held, a, scaled) * held
        close = (whole + b).abs() < abs(b)
        return y + torch.where(close, ((whole + b) - y.detach()) + lost, 0.0)

    @staticmethod
    def d1(x, a, b):
        return 2 * a * torch.relu(x)

    @staticmethod
    def d2(x, a, b):
        return torch.where(x > 0, 2 * a, torch.zeros_like(x))
