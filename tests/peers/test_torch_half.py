"""PyTorch's functions that are several operations here, in float16: computed in float32 and rounded once."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.halves import HALF, assert_rounded_once, full

from perceiver_ref.autograd.backend import to_host
from perceiver_ref.models.call import Call
from perceiver_ref.peers import Given, peer

rng = np.random.default_rng(0)
images = (rng.standard_normal((4, 2, 30, 30)) * 300).astype(HALF)
small = (rng.standard_normal((3, 40)) * 2e-3).astype(HALF)
ROWS: dict[str, tuple[str, dict[str, np.ndarray], dict[str, Any]]] = {
    "batch norm": ("batch_norm", {"input": images}, {"training": True}),
    "batch norm, affine": (
        "batch_norm",
        {"input": images, "weight": full(2, 3), "bias": full(2, 1)},
        {"training": True},
    ),
    "normalize": ("normalize", {"input": images}, {}),
    "normalize, small": ("normalize", {"input": small}, {"p": 3.0}),
    "smooth L1": ("smooth_l1_loss", {"input": images, "target": -images}, {"beta": 900.0}),
    "cross-entropy of probabilities": (
        "cross_entropy",
        {"input": full((2, 4000), 3), "target": full((2, 4000), 1 / 4000)},
        {},
    ),
    "interpolate": ("interpolate", {"input": images}, {"size": [70, 70], "mode": "bilinear"}),
}


def computed(name: str, xp: ModuleType, dtype: Any, inputs: dict[str, np.ndarray], call: dict[str, Any]) -> Any:
    rebuilt = peer("torch").rebuild(f"torch.nn.functional.{name}", Given({}))
    return rebuilt.run(rebuilt.model, {}, {key: xp.asarray(x, dtype) for key, x in inputs.items()}, call, Call())


@pytest.mark.parametrize("row", ROWS)
def test_a_function_rounds_its_results_once(xp: ModuleType, row: str) -> None:
    name, inputs, call = ROWS[row]
    whole = np.float32 if name == "interpolate" else np.float64  # PyTorch's places are float32 for both
    made, exact = (computed(name, xp, dtype, inputs, call) for dtype in (HALF, whole))
    for key, array in exact.items():
        assert_rounded_once(made[key], to_host(array))


def test_rms_norms_eps_is_that_of_float32(xp: ModuleType) -> None:
    """PyTorch 2.13: F.rms_norm(x, (4,)) of half gives [0.5347, -1.0693, 1.6035, 0]; float16's unit would halve it."""
    x = np.array([[1e-2, -2e-2, 3e-2, 0]], HALF)
    made = computed("rms_norm", xp, HALF, {"input": x}, {"normalized_shape": [4]})
    np.testing.assert_allclose(to_host(next(iter(made.values()))), [[0.5347, -1.0693, 1.6035, 0]], rtol=2.0**-10)
