"""The reference against flamingo-pytorch, IDEFICS, Idefics2, Evolla and Llama 3.2 Vision themselves, at random.

Hypothesis draws what configurations and inputs are made from. Compared are outputs, gradients of parameters and inputs,
and the values that modules of the peer give on the way.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.porting import check_case

pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("transformers", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("flamingo_pytorch", reason="needs the extra: perceiver-ref[peers]")
from heavy import flamingo_configurations as live
from heavy.precision import promoted

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
DRAWS = 120
UNKNOWN = "1 traced value is not compared, as the reference knows no such point: img_encoder"
"""FlamingoPaLM's image encoder, which is no part of it: what it makes of the images is the input."""


@pytest.mark.parametrize("kind", live.KINDS, ids=lambda kind: kind.__name__)
def test_a_class_agrees_with_the_live_peer(backend: str, kind: Any) -> None:
    worst: list[tuple[float, float]] = []
    traced: set[str] = set()

    @settings(max_examples=DRAWS, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 1 << 32))
    def run(seed: int) -> None:
        with promoted(*live.MODULES):
            case = live.case(kind(live.Draw(seed)), seed)
        result = check_case(case, backend=backend)
        assert result.status == "pass", (result.worst, case.meta)
        assert result.notes == ([UNKNOWN] if "img_encoder" in case.trace else []), result.notes
        traced.update(case.trace)
        worst.append((result.error("output", "trace") or 0.0, result.error("grad_param", "grad_input") or 0.0))

    run()
    outputs, gradients = (max(column) for column in zip(*worst))
    print(f"\n{kind.__name__}: {len(worst)} draws, largest error {outputs:.1e} (outputs), {gradients:.1e} (gradients)")
    assert len(worst) >= DRAWS
    assert traced
