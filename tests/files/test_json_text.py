"""JSON that is written: what the standard library writes, in less time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.host.json_text import indented

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_it_is_the_text_of_the_standard_library(value: Any) -> None:
    assert indented(value) == json.dumps(value, indent=1, allow_nan=False)


@pytest.mark.parametrize("value", [{1: "a", None: 2.5}, [np.float64(0.1), {"b": ()}], {True: [np.float64(3)]}])
def test_what_is_rare_too(value: Any) -> None:
    """Keys that are no text, and NumPy's float64, which is a float."""
    assert indented(value) == json.dumps(value, indent=1, allow_nan=False)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_has_not_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        indented({"a": [1.0, number]})


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        indented({"a": {1, 2}})
