"""What random configurations of live implementations are drawn with."""

from __future__ import annotations

from typing import Any

import numpy as np

Made = tuple[str, str, dict[str, Any], Any, dict[str, np.ndarray], dict[str, Any]]
"""Peer, class, configuration, live module, inputs, options of the call."""


class Draw:
    """Numbers, choices and arrays of one example, all equally likely: hypothesis would favour the smallest."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def of(self, *choices: Any) -> Any:
        return choices[self(0, len(choices) - 1)]

    def array(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape)

    def bits(self, *shape: int) -> np.ndarray:
        return self.generator.random(shape) < self.of(0.0, 0.3, 0.7, 1.0)


COUNTS = (1, 2, 3, 5, 7)
"""Of heads."""


def left_out(draw: Draw, config: dict[str, Any], *names: str) -> dict[str, Any]:
    """Half the configurations without some of these options, whose defaults are small enough."""
    absent = {name for name in names if draw.of(True, False)} if draw.of(True, False) else set()
    return {name: value for name, value in config.items() if name not in absent}


def gradient(tensor: Any) -> np.ndarray:
    return np.zeros(tuple(tensor.shape)) if tensor.grad is None else tensor.grad.numpy()
