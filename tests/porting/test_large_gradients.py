"""Wrong gradients of large cases, which are traced with few of them kept; here small cases are taken for large.

The full sizes, with what is planted in the live peer, are in tests/heavy/test_full_size_diagnosis.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from porting.cases import case_of
from porting.test_gradients import PLANTED, RESAMPLER, TEXT, computed
from porting.test_large_cases import in_float32

from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.diagnosis.diagnose import diagnose
from perceiver_ref.porting.subject import large


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE", 0)


def narrow(case: Case) -> Case:
    """The case with everything, gradients too, stored in float32."""

    def stored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    fields: dict[str, Any] = {n: stored(getattr(case, n)) for n in ("cotangents", "grad_params", "grad_inputs")}
    return in_float32(replace(case, **fields))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("plant", PLANTED)
def test_a_wrong_gradient_is_traced_to_its_op(plant: str, dtype: str) -> None:
    name, cause, point, change = PLANTED[plant]
    case = case_of(name)
    found = diagnose(change(computed(case)) if dtype == "float64" else narrow(change(computed(narrow(case)))))
    assert (found.verdict, found.causes) == ("deviation", [cause])
    assert re.search(point, found.first_divergence or "")
    assert found.gradients is not None
    assert found.gradients.affected


@pytest.mark.parametrize("name", [RESAMPLER, TEXT])
def test_right_gradients_match_and_float32_is_rounding(name: str) -> None:
    exact = diagnose(computed(case_of(name)))
    assert (exact.verdict, exact.gradients and exact.gradients.verdict) == ("match", "match")
    found = diagnose(narrow(computed(narrow(case_of(name)))))
    assert (found.verdict, found.causes) == ("rounding", [])
    assert found.gradients is not None
    assert found.gradients.verdict == "rounding"
