"""The reference against IP-Adapter, diffusers, timm, open_clip, SigLIP, Kosmos-2, Aria, XTTS, NaturalSpeech 2 and
Chatterbox themselves, at random.

Hypothesis draws what configurations and inputs are made from. Compared are outputs, gradients of parameters and inputs,
and the values that modules of the peer give on the way. `PERCEIVER_REF_DRAWS` says how many of each (default: 100).
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.peers import base, chatterbox, diffusers, ip_adapter, naturalspeech2, open_clip, timm, xtts
from perceiver_ref.porting import check_case

pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
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


SIGNATURES = [
    (lambda: live.adapter.PerceiverAttention, ip_adapter._ATTENTION, {}),
    (lambda: live.adapter.Resampler, ip_adapter._RESAMPLER, {}),
    (lambda: live.embeddings.IPAdapterPlusImageProjection, diffusers._PLUS, {}),
    (lambda: live.embeddings.IPAdapterFaceIDPlusImageProjection, diffusers._FACE, {}),
    (lambda: live.embeddings.IPAdapterTimeImageProjection, diffusers._TIME, {}),
    (lambda: live.attention_pool.AttentionPoolLatent, timm._OPTIONS, {"act_layer", "drop", "device", "dtype"}),
    (lambda: live.AttentionalPooler, open_clip._OPTIONS, {"norm_layer", "norm_eps"}),
    (lambda: live.xtts.PerceiverResampler, xtts.OPTIONS, {}),
    (lambda: live.naturalspeech.PerceiverResampler, naturalspeech2._OPTIONS, {}),
    (lambda: live.chatterbox.AttentionBlock2, chatterbox._BLOCK, {"dropout_rate"}),
    (lambda: live.chatterbox.Perceiver, chatterbox._PERCEIVER, {}),
]
"""Live classes, our tables of their options, and what is not compared: dropouts, classes and their names."""


@pytest.mark.parametrize(("cls", "known", "apart"), SIGNATURES)
def test_options_and_defaults_are_those_of_the_live_class(cls: Any, known: Any, apart: Any) -> None:
    parameters = {p.name: p.default for p in inspect.signature(cls().__init__).parameters.values() if p.name != "self"}
    assert parameters.keys() - set(apart) == known.keys() - set(apart)
    for name, default in parameters.items():
        if name in apart:
            continue
        ours = known[name]
        if isinstance(ours, base.Option):
            assert ours.required == (default is inspect.Parameter.empty), name
            assert ours.required or default is None, name
        else:
            assert ours == default, name
