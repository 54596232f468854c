"""The reference against IP-Adapter, diffusers, timm, open_clip, SigLIP, Kosmos-2, Aria, XTTS, NaturalSpeech 2 and
Chatterbox themselves, at random.

Hypothesis draws what configurations and inputs are made from. Compared are outputs, gradients of parameters and inputs,
and the values that modules of the peer give on the way. `PERCEIVER_REF_DRAWS` says how many of each (default: 100).
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.porting import check_case

pytest.importorskip("transformers", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("diffusers", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("timm", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("open_clip", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("einops", reason="needs the extra: perceiver-ref[peers]")
from heavy import resampler_configurations as live
from heavy.draw import Draw

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
DRAWS = int(os.environ.get("PERCEIVER_REF_DRAWS", "100"))


@pytest.mark.parametrize("kind", live.KINDS, ids=lambda kind: kind.__name__)
def test_a_class_agrees_with_the_live_peer(backend: str, kind: Any) -> None:
    worst: list[tuple[float, float]] = []

    @settings(max_examples=DRAWS, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 1 << 32))
    def run(seed: int) -> None:
        case = live.case(kind(Draw(seed)), seed)
        result = check_case(case, backend=backend)
        failed = [(a.kind, a.name, a.error) for a in result.agreements if not a.passed]
        assert result.status == "pass", (
            failed,
            result.message,
            case.meta,
            {k: a.shape for k, a in case.inputs.items()},
        )
        assert result.notes == [], result.notes
        worst.append((result.error("output", "trace") or 0.0, result.error("grad_param", "grad_input") or 0.0))

    run()
    outputs, gradients = (max(column) for column in zip(*worst))
    print(f"\n{kind.__name__}: {len(worst)} draws, largest error {outputs:.1e} (outputs), {gradients:.1e} (gradients)")
    assert len(worst) >= DRAWS
