"""Each activation of a configuration as a formula, in the symbols that most languages share."""

from __future__ import annotations

ACTIVATIONS: dict[str, str] = {
    "gelu_erf": "x * (1 + erf(x / sqrt(2))) / 2",
    "gelu_tanh": "x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))) / 2",
    "relu": "max(x, 0)",
    "squared_relu": "max(x, 0) * max(x, 0)",
    "silu": "x / (1 + exp(-x))",
    "gelu_10": "min(max(x * (1 + erf(x / sqrt(2))) / 2, -10), 10)",
    "hardswish": "x * min(max(x + 3, 0), 6) / 6",
    "identity": "x",
    "laplace": "(1 + erf((x - 0.707107) / (0.282095 * sqrt(2)))) / 2",
    "leaky_relu": "max(x, 0) + 0.01 * min(x, 0)",
    "mish": "x * tanh(log(1 + exp(x)))",
    "quick_gelu": "x / (1 + exp(-1.702 * x))",
    "relu6": "min(max(x, 0), 6)",
    "sigmoid": "1 / (1 + exp(-x))",
    "sqrt_softplus": "sqrt(log(1 + exp(x)))",
    "tanh": "tanh(x)",
}
"""By the name of `Conventions.activation`."""
