"""The table of measures: each against an independent definition, at the edges, and as a threshold."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from scipy.spatial import distance
from support import normal

from perceiver_ref.errors import InputError
from perceiver_ref.porting.cases import compare
from perceiver_ref.porting.cases.compare import difference
from perceiver_ref.porting.measures import MEASURES, Threshold, is_logits, measures, missed, thresholds

CLOSE = 1e-9
"""Two orders of the same float64 sums of some hundred terms differ by 1e-14; a wrong definition by far more."""


def measured(a: Any, b: Any, tolerance: float = 1e-5, *, logits: bool = False) -> dict[str, float]:
    a, b = np.asarray(a), np.asarray(b)
    return measures(a, b, tolerance=tolerance, error=difference(a, b), logits=logits)


EXPECTED = {
    "error": lambda a, b: np.abs(a - b).max() / max(np.abs(b).max(), 1),
    "max_abs": lambda a, b: np.abs(a - b).max(),
    "nmse": lambda a, b: 10 * np.log10(np.mean((a - b) ** 2) / np.mean(b**2)),
    "snr": lambda a, b: 20 * np.log10(np.linalg.norm(b) / np.linalg.norm(a - b)),
    "cosine": lambda a, b: 1 - distance.cosine(a.ravel(), b.ravel()),
    "correlation": lambda a, b: stats.pearsonr(a.ravel(), b.ravel())[0],
    "rtol": lambda a, b: np.max(np.abs(a - b) / np.abs(b)),
    "atol": lambda a, b: np.abs(a - b).max(),
    "beyond": lambda a, b: np.mean(np.abs(a - b) > 0.01 * max(np.abs(b).max(), 1)),
    "top1": lambda a, b: np.mean(a.argmax(-1) == b.argmax(-1)),
    "kl": lambda a, b: special.rel_entr(special.softmax(b, -1), special.softmax(a, -1)).sum(-1).mean(),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_each_is_what_others_define(name: str, scale: float) -> None:
    b = scale * normal(1, 3, 5, 7)
    a = b + 0.02 * scale * normal(2, 3, 5, 7) + 0.01 * scale
    assert measured(a, b, 0.01, logits=True)[name] == pytest.approx(EXPECTED[name](a, b), rel=CLOSE, abs=1e-15)


def test_every_row_has_a_definition_here() -> None:
    assert set(EXPECTED) == set(MEASURES)


@given(st.integers(0, 1 << 30), st.floats(1e-8, 1.0))
def test_numpy_agrees_at_the_needed_tolerances_and_not_below(seed: int, size: float) -> None:
    b = normal(seed, 2, 11)
    found = measured(a := b * (1 + size * normal(seed + 1, 2, 11)), b)
    for key in ("rtol", "atol"):
        others = {"rtol": 0.0, "atol": 0.0}
        assert np.allclose(a, b, **{**others, key: found[key] * (1 + 1e-9)})
        assert not np.allclose(a, b, **{**others, key: found[key] * (1 - 1e-9)})


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 18])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_blocks_and_layouts_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int, order: tuple[int, ...]) -> None:
    a, b = normal(3, 5, 3, 7), normal(4, 5, 3, 7)
    a[1, 2, 3], b[4, 0, 6], a[0, 0, 1], b[0, 0, 1] = np.nan, np.inf, np.inf, np.inf
    whole = measured(a, b)
    monkeypatch.setattr(compare, "BLOCK", block)
    assert measured(a.transpose(order), b.transpose(order)) == pytest.approx(whole, rel=CLOSE, nan_ok=True)


def test_large_arrays_are_not_copied() -> None:
    a = np.zeros((2048, 1024), np.float16)
    a[::3] = 1.5
    b = (a + np.float16(0.25)).T.copy().T  # not in one piece
    tracemalloc.start()
    measures(a, b, tolerance=0.1, error=0.25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20  # a dozen blocks of a quarter MB; the two in float64 would be 32 MB, with their difference 48


# ------------------------------------------------------------------------------------------------------------- edges

ZEROS, ONES = np.zeros((2, 3)), np.ones((2, 3))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (ZEROS, ZEROS, {"max_abs": 0, "nmse": -math.inf, "snr": math.inf, "cosine": 1, "correlation": 1, "rtol": 0}),
        (ONES, ZEROS, {"max_abs": 1, "nmse": math.inf, "cosine": 0, "correlation": math.nan, "rtol": math.inf}),
        (ZEROS, ONES, {"max_abs": 1, "nmse": 0, "snr": 0, "cosine": 0, "correlation": math.nan, "rtol": 1}),
        (3 * ONES, 2 * ONES, {"cosine": 1, "correlation": math.nan, "rtol": 0.5, "beyond": 1}),
        (0.1 * ONES, 0.3 * ONES, {"correlation": math.nan}),  # whose mean is not quite 0.1
        ([-2.0], [2.0], {"cosine": -1, "correlation": math.nan, "nmse": 10 * math.log10(4), "atol": 4}),
        (np.float32(2), np.float32(2), {"cosine": 1, "nmse": -math.inf}),
        ([1.0, np.nan], [1.0, 2.0], {"max_abs": math.inf, "nmse": math.inf, "snr": -math.inf, "cosine": math.nan}),
        ([1.0, np.nan], [1.0, np.nan], {"max_abs": 0, "nmse": -math.inf, "cosine": 1, "beyond": 0}),
        ([np.inf, 3.0], [np.inf, 4.0], {"max_abs": 1, "rtol": 0.25, "beyond": 0.5}),
        ([np.inf, 3.0], [-np.inf, 3.0], {"max_abs": math.inf, "beyond": 0.5}),
        ([3e200, 4e200], [3e200, 4e200 * (1 + 1e-8)], {"cosine": 1}),
        ([1e308], [-1e308], {"nmse": 10 * math.log10(4), "cosine": -1}),
        ([1e-310, 0.0], [0.0, 0.0], {"nmse": math.inf, "cosine": 0}),
        (np.array([1, 2, 4], np.int8), np.array([1, 2, 3], np.uint8), {"max_abs": 1, "beyond": 1 / 3}),
        (np.array([True, False]), np.array([True, True]), {"max_abs": 1, "beyond": 0.5, "nmse": 10 * math.log10(0.5)}),
        (np.zeros((0, 3)), np.zeros((0, 3)), {"max_abs": 0, "beyond": 0, "nmse": -math.inf, "cosine": 1}),
    ],
)
def test_edges(a: Any, b: Any, expected: dict[str, float]) -> None:
    assert {n: v for n, v in measured(a, b).items() if n in expected} == pytest.approx(expected, nan_ok=True, rel=CLOSE)


def test_float16_is_measured_in_float64() -> None:
    a, b = np.full(4096, 60000, np.float16), np.full(4096, 59968, np.float16)  # whose squares overflow in float16
    found = measured(a, b)
    assert found["max_abs"] == 32
    assert found["nmse"] == pytest.approx(20 * math.log10(32 / 59968), rel=CLOSE)


def test_the_lowest_number_of_each_dtype_is_the_same_mask() -> None:
    lowest = (
        np.array([np.finfo(np.float16).min, 1.0], np.float16),
        np.array([np.finfo(np.float32).min, 1.0], np.float32),
    )
    assert measured(*lowest)["nmse"] == -math.inf


def test_other_shapes_have_no_measures() -> None:
    assert measured(ZEROS, np.zeros((3, 2))) == {}


@pytest.mark.parametrize(
    ("a", "b", "top1", "kl"),
    [
        ([[0.0, 1.0, 1.0]], [[0.0, 1.0, 1.0]], 1.0, 0.0),
        ([[0.0, 2.0, 1.0]], [[0.0, 1.0, 1.0]], 1.0, None),  # a tie of the reference: either is right
        ([[np.nan, 2.0]], [[0.0, 1.0]], 0.0, math.nan),
        ([[0.0, -np.inf]], [[0.0, -np.inf]], 1.0, 0.0),
        ([[0.0, 0.0]], [[0.0, -np.inf]], 1.0, math.log(2)),
        ([[1000.0, 0.0], [0.0, 0.0]], [[1001.0, 0.0], [0.0, 0.0]], 1.0, 0.0),
    ],
)
def test_logits_at_the_edges(a: Any, b: Any, top1: float, kl: float | None) -> None:
    found = measured(a, b, logits=True)
    assert found["top1"] == top1
    assert kl is None or found["kl"] == pytest.approx(kl, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "shape", "is_one"),
    [
        ("logits", (2, 5), True),
        ("output/logits", (2, 5), True),
        ("decoder.logits@1", (5,), True),
        ("start_logits", (2, 5), True),
        ("logits", (2, 1), False),
        ("logits", (), False),
        ("logits_scale", (2, 5), False),
        ("last_hidden_state", (2, 5), False),
    ],
)
def test_which_arrays_are_logits(name: str, shape: tuple[int, ...], is_one: bool) -> None:
    assert is_logits(name, np.zeros(shape)) == is_one


# -------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("name", MEASURES)
def test_a_threshold_is_met_by_what_is_closer_alone(name: str) -> None:
    b = normal(5, 4, 9)
    near, far = (measured(b + size * normal(6, 4, 9), b, 0.05, logits=True)[name] for size in (0.01, 3.0))
    assert near != far
    threshold = Threshold(MEASURES[name], (near + far) / 2)
    assert threshold.holds({name: near})
    assert not threshold.holds({name: far})
    assert not threshold.holds({name: math.nan})
    assert threshold.holds({})  # no logits: nothing to be held to
    start = "--max-" if near < far else "--min-"
    assert threshold.measure.option.startswith(start)


def test_unknown_measures_are_refused() -> None:
    with pytest.raises(InputError, match="unknown measure 'rmse'"):
        thresholds({"rmse": 1.0})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cosine", 1.0, "1"),
        ("cosine", 1 - 3e-9, "1-3.0e-09"),
        ("cosine", 0.5, "0.5"),
        ("cosine", 0.99936, "0.99936"),
        ("nmse", -math.inf, "-inf"),
        ("nmse", -81.26, "-81.3"),
        ("beyond", 0.125, "12.5"),
        ("correlation", math.nan, "undefined"),
        ("max_abs", 0.0013, "1.3e-03"),
    ],
)
def test_how_a_value_is_written(name: str, value: float, text: str) -> None:
    assert MEASURES[name].text(value) == text


@pytest.mark.parametrize("reference", [np.array(0.7), np.full((2, 3), 0.7)], ids=["a loss", "constant"])
def test_a_constant_has_no_correlation_and_is_held_to_its_tolerance(reference: np.ndarray) -> None:
    found = measures(reference * (1 + 1e-15), reference, tolerance=1e-10, error=1e-15)
    assert math.isnan(found["correlation"])
    assert missed(thresholds({"correlation": 0.9}), found, reference) is None
    assert missed(thresholds({"correlation": 0.9, "max_abs": 1e-3}), found, reference) == ()
    assert missed(thresholds({"correlation": 0.9, "max_abs": 1e-30}), found, reference) == ("--max-abs 1e-30",)
    other = np.array([0.7, 0.8, 0.7])
    opposite = measures(-other, other, tolerance=1e-10, error=1.0)
    assert missed(thresholds({"correlation": 0.9}), opposite, other) == ("--min-correlation 0.9",)
