"""The error that two arrays are compared by: its definition, what it does with NaN, and that it cannot be fooled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perceiver_ref.porting.cases import TOLERANCES, agreement
from perceiver_ref.porting.cases.compare import difference

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
numbers = hnp.arrays(np.float64, shapes, elements=st.floats(-1e6, 1e6))


@given(theirs=numbers, data=st.data())
def test_error_is_the_largest_difference_in_units_of_the_largest_value(theirs: np.ndarray, data: st.DataObject) -> None:
    ours = data.draw(hnp.arrays(np.float64, theirs.shape, elements=st.floats(-1e6, 1e6)))
    pairs = list(zip(ours.ravel().tolist(), theirs.ravel().tolist()))
    largest = max((abs(b) for _, b in pairs), default=0.0)
    expected = max((abs(a - b) for a, b in pairs), default=0.0) / max(largest, 1.0)
    assert math.isclose(difference(ours, theirs), expected, rel_tol=1e-12)
    assert difference(theirs, theirs) == 0


@given(theirs=numbers, value=st.sampled_from([np.nan, np.inf, -np.inf]), data=st.data())
def test_what_is_not_finite_agrees_with_itself_alone(theirs: np.ndarray, value: float, data: st.DataObject) -> None:
    assume(theirs.size)
    spoilt = theirs.copy()
    spoilt.flat[data.draw(st.integers(0, theirs.size - 1))] = value
    assert difference(spoilt, spoilt) == 0
    assert difference(spoilt, theirs) == math.inf
    assert difference(theirs, spoilt) == math.inf
    assert difference(spoilt, np.where(np.isfinite(spoilt), spoilt, -1.0)) == math.inf


def test_infinities_of_either_sign_differ() -> None:
    assert difference(np.array([np.inf]), np.array([-np.inf])) == math.inf


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (1, 2)])
def test_another_shape_is_an_infinite_error_even_if_it_broadcasts(shape: tuple[int, ...]) -> None:
    assert difference(np.zeros(shape), np.zeros((2,))) == math.inf


def test_integers_and_low_precision_are_compared_as_numbers() -> None:
    assert difference(np.array([3], np.uint8), np.array([5], np.uint8)) == 2 / 5
    assert difference(np.array([250], np.uint8), np.array([-3], np.int8)) == 253 / 3
    assert difference(np.array([6e4], np.float16), np.array([-6e4], np.float16)) == 2  # would overflow in float16


@pytest.mark.parametrize("theirs", ["float64", "float32", "float16"])
@pytest.mark.parametrize("ours", ["float64", "float32", "float16"])
def test_the_lowest_number_of_one_dtype_is_that_of_another(theirs: str, ours: str) -> None:
    """Masks to be added hold it; what stands beside it is compared by its own size."""
    a, b = (np.array([[0.0, np.finfo(name).min, np.finfo(name).max, 2.0]], name) for name in (theirs, ours))
    assert difference(a, b) == 0
    assert difference(a + np.array([0, 0, 0, 1], theirs), b) == 0.5
    assert difference(a[:, [0, 2, 1, 3]], b) > 0.9
    assert difference(a / np.array(2, theirs), b) > 0.4


@pytest.mark.parametrize(("error", "passed"), [(0.0, True), (1e-10, True), (1.01e-10, False), (math.inf, False)])
def test_the_tolerance_itself_still_passes(error: float, passed: bool) -> None:
    ours, theirs = np.array([error if math.isfinite(error) else np.nan]), np.array([0.0])
    found = agreement("output", "x", ours, theirs, 1e-10)
    assert found.passed == passed
    assert (found.kind, found.name, found.tolerance) == ("output", "x", 1e-10)


def test_tolerances_are_those_of_the_vector_format() -> None:
    """The format's own numbers: other tools compare by them too."""
    assert TOLERANCES == {
        "float64": {"output": 1e-10, "gradient": 1e-8},
        "float32": {"output": 1e-5, "gradient": 1e-4},
        "float16": {"output": 3e-3, "gradient": 1e-2},
        "bfloat16": {"output": 2.4e-2, "gradient": 8e-2},
    }
