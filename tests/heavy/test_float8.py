"""Float8 against ml_dtypes, and planted forms of weights in more models than the normal suite has."""

from __future__ import annotations

import numpy as np
import pytest
from porting.test_quantized import defined, planted

from perceiver_ref.porting.deviations.quantized import E4M3, E5M2
from perceiver_ref.porting.diagnosis.diagnose import diagnose

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(("name", "form"), [("float8_e4m3fn", E4M3), ("float8_e5m2", E5M2)])
def test_rounding_is_that_of_ml_dtypes(name: str, form: object) -> None:
    """Of every float16 that does not overflow: all ties and subnormal numbers are among them."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    every = every[np.isfinite(every) & (np.abs(every) <= form.largest)]
    np.testing.assert_array_equal(
        form(every), every.astype(np.float32).astype(getattr(ml_dtypes, name)).astype(np.float64)
    )


@pytest.mark.parametrize(
    ("name", "transposed"),
    [
        ("hf/sequence_classification", False),
        ("lucidrains-perceiver/perceiver_2d", False),
        ("deepmind/mlm_different_masks", True),
    ],
)
@pytest.mark.parametrize(
    "form", ["int8 per tensor", "int4 per output channel", "int4 in groups of 32 with a zero point", "float8_e4m3"]
)
def test_a_planted_form_is_named_in_other_models(name: str, transposed: bool, form: str) -> None:
    found = diagnose(planted(name, lambda a: defined(form, a), transposed=transposed))
    assert (found.verdict, found.causes) == ("deviation", ["dtype"])
    said = found.explanation[0].variant
    # rows shorter than a group are groups themselves
    assert said.startswith(
        (f"weights in {form}, of", f"weights in {form.replace('in groups of 32', 'per output channel')}, of")
    )
