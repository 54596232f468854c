"""The reference against EdgeTAM, Aurora, perceiver-ar-pytorch and NeMo themselves, at random.

Compared are outputs, gradients of parameters and inputs, and the values that modules of the peer give on the way.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.porting import check_case

pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
from heavy import sets_configurations as live
from heavy.draw import Draw
from heavy.precision import promoted

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
DRAWS = 120
OUTPUTS, GRADIENTS = 1e-10, 1e-8
"""Sums in another order, over at most some hundred numbers, through a few layers."""


@pytest.mark.parametrize("kind", live.KINDS, ids=lambda kind: kind.__name__)
def test_a_class_agrees_with_the_live_peer(backend: str, kind: Any) -> None:
    needed = live.NEEDS[kind.__name__]
    pytest.importorskip(needed, reason=f"needs {needed}", exc_type=ImportError)
    worst: list[tuple[float, float]] = []
    traced: set[str] = set()

    @settings(max_examples=DRAWS, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 1 << 32))
    def run(seed: int) -> None:
        with promoted(*([sys.modules[needed]] if kind is live.edgetam else [])):
            case = live.case(kind(Draw(seed)), seed)
        result = check_case(case, backend=backend)
        assert (result.status, result.notes) == ("pass", []), (result.worst, result.notes, case.meta)
        traced.update(case.trace)
        worst.append((result.error("output", "trace") or 0.0, result.error("grad_param", "grad_input") or 0.0))

    run()
    outputs, gradients = (max(column) for column in zip(*worst))
    print(f"\n{kind.__name__}: {len(worst)} draws, largest error {outputs:.1e} (outputs), {gradients:.1e} (gradients)")
    assert len(worst) >= DRAWS
    assert outputs <= OUTPUTS
    assert gradients <= GRADIENTS
    assert traced
