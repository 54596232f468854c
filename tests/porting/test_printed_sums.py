"""Sums that a text prints: a right layer in float32, summed one element after the other, is never accused; an error in
what is not shown is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import erf
from support import normal

from perceiver_ref.porting.compare.printed import Statistic, cornered_entries, entry_of, statistics
from perceiver_ref.porting.dumps import Printed, corners

LAYERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "GELU": lambda x: x * (1 + erf(x / np.sqrt(2).astype(x.dtype))) / 2,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "squares": lambda x: np.maximum(x, 0) ** 2,
    "a large mean": lambda x: x + 100,
}


def told(reference: np.ndarray, candidate: np.ndarray) -> Statistic:
    total = float(np.cumsum(candidate.ravel(), dtype=np.float32)[-1])  # in order, as C adds
    shown = np.round(corners(candidate, 3).astype(np.float64), 4).astype(np.float32)
    printed = Printed(shown, candidate.shape, 3, np.full(shown.shape, 5e-5), "float32", {"sum": (total, 5e-7)})
    pair = cornered_entries([entry_of("trace", "x", reference), entry_of("trace", "x", printed)], 3)
    (found,) = statistics(*pair)
    return found


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("n", "d", "e"), [(33, 64, 61), (64, 128, 509), (197, 256, 2048)])
def test_sums_of_right_and_wrong_layers(layer: str, n: int, d: int, e: int) -> None:
    x, w = normal(n, n, d), normal(d, d, e) / np.sqrt(d)
    right = LAYERS[layer](x @ w)
    candidate = LAYERS[layer](x.astype(np.float32) @ w.astype(np.float32))
    assert candidate.dtype == np.float32
    found = told(right, candidate)
    assert abs(found.candidate - found.reference) < 0.5 * found.limit
    wrong = candidate.copy()
    wrong[n // 4 : -n // 4] *= 1.5  # rows that no text shows
    assert not told(right, wrong).passed or abs(right[n // 4 : -n // 4].sum()) < 2 * found.limit
