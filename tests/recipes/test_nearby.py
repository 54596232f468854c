"""Attention that starts nearby: where heads look, on both kinds of positions, in the recipes' own models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.models.tracing import trace
from perceiver_ref.training.recipes import recipe
from perceiver_ref.training.recipes.generate import BACK
from perceiver_ref.training.recipes.language import READ
from perceiver_ref.training.recipes.nearby import waves

FREQUENCIES = np.geomspace(2, 0.1, 8)


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-20, 20))
def test_products_of_waves_depend_on_distances_alone(a: float, b: float, shift: float) -> None:
    here, there = waves([a, b], FREQUENCIES), waves([a + shift, b + shift], FREQUENCIES)
    assert here[0] @ here[1] == pytest.approx(there[0] @ there[1], abs=1e-4)  # float32 sums of 16 terms up to 2
    assert here[0] @ here[1] <= here[0] @ here[0] + 1e-4


def test_latents_read_the_bytes_around_their_place() -> None:
    task = recipe("language").stages[0].build(0, False)
    made = task.batch(0)
    with trace() as points:
        task.logits(task.init(), made["ids"], made["masked"])
    weights = np.asarray(points["encoder.cross_attention.attention.weights"])  # (B, heads, N, M)
    for n in range(2, task.size.latents - 2):
        for h, offset in enumerate(READ):
            assert (weights[:, h, n].argmax(-1) == 2 * n + 0.5 + offset).mean() > 0.95


def test_heads_look_back_as_far_as_they_should() -> None:
    task = recipe("generate").stages[0].build(0, False)
    model = task.model
    with trace() as points:
        task.logits(task.init(), task.batch(0)["ids"])
    weights = np.asarray(points["cross_attention.0.attention.weights"])  # (B, heads, N, M)
    places = np.arange(model.length)
    own = np.arange(model.length - model.latents, model.length)
    distance = own - (weights * places).sum(-1)  # (B, heads, N), on average
    means = distance.mean((0, 2))
    assert (np.diff(means) > 0.5).all()
    np.testing.assert_allclose(means, BACK[0][: model.cross_heads], atol=1)  # bytes turn attention a little
