"""Decoding in chunks, or only some points, gives what decoding everything gives; attention is a weighted average."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import small
from support import assert_close, host, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.autograd import kernels, ops, tree, value_and_grad
from perceiver_ref.models.conventions import DIALECTS
from perceiver_ref.models.decoder import Decoder
from perceiver_ref.models.inputs import Preprocessed
from perceiver_ref.models.positions import FourierPositions, TrainablePositions
from perceiver_ref.models.queries import InputQueries, MultimodalQueries, PositionQueries, Queries, Request

PAPER = DIALECTS["paper"]
FOURIER = PositionQueries(FourierPositions(2, (3, 4), conventions=PAPER), (3, 4), conventions=PAPER)
TRAINED = PositionQueries(TrainablePositions(5, 4), (5,), conventions=PAPER)
SOURCES: dict[str, Queries] = {
    "fourier": FOURIER,
    "trained": TRAINED,
    "with inputs": replace(FOURIER, concat_inputs=True, input_channels=3),
    "inputs": InputQueries(3),
    "modalities": MultimodalQueries({"image": FOURIER, "text": TRAINED}),
}


def a_decoder(name: str) -> tuple[Decoder, Any, Any, Preprocessed]:
    """A decoder with these queries, its parameters, latents and preprocessed inputs."""
    source = SOURCES[name]
    decoder = Decoder(8, source.channels, source, outputs=3, conventions=PAPER)
    features = normal(3, 2, 12, 3)
    return decoder, random_parameters(decoder), normal(1, 2, 4, 8), Preprocessed(features, features)


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=10)
@given(chunk=st.integers(1, 20))
def test_any_chunking_changes_nothing_forward_or_backward(backend: str, name: str, chunk: int) -> None:
    decoder, p, latents, elements = a_decoder(name)
    p, latents, elements = on(backend, [p, latents, elements])
    done: list[tuple[int, int]] = []

    def loss(p: Any, **options: Any) -> Any:
        out = decoder.apply(p, latents, Request(**options), elements)
        return ops.sum(ops.multiply(out, out)), out

    (_, whole), gradient = value_and_grad(loss, has_aux=True)(p)
    (_, pieces), of_pieces = value_and_grad(loss, has_aux=True)(
        p, chunk=chunk, progress=lambda now, total: done.append((now, total))
    )
    assert_close(pieces, whole)
    for (_, a), (_, b) in zip(tree.leaves(of_pieces), tree.leaves(gradient), strict=True):
        assert_close(a, b)
    assert done[-1] == (whole.shape[1], whole.shape[1])


@pytest.mark.parametrize("name", ["fourier", "trained", "inputs"])
@settings(max_examples=10)
@given(data=st.data())
def test_chosen_points_are_rows_of_the_full_grid(backend: str, name: str, data: st.DataObject) -> None:
    decoder, p, latents, elements = a_decoder(name)
    p, latents, elements = on(backend, [p, latents, elements])
    whole = host(decoder.apply(p, latents, elements=elements))
    points = np.array(data.draw(st.lists(st.integers(0, whole.shape[1] - 1), min_size=1, max_size=6)))
    assert_close(decoder.apply(p, latents, Request(points=points), elements), whole[:, points])


def test_deepmind_puts_chosen_points_elsewhere_than_its_full_grid(backend: str) -> None:
    released = replace(FOURIER, conventions=DIALECTS["deepmind"])
    decoder, p, latents, _ = a_decoder("fourier")
    decoder = replace(decoder, queries=released)
    whole = host(decoder.apply(*on(backend, [p, latents])))
    chosen = host(decoder.apply(*on(backend, [p, latents]), Request(points=np.arange(12))))
    assert_close(chosen[:, 0], whole[:, 0])  # -1, -1 in both
    assert np.abs(chosen[:, 1:] - whole[:, 1:]).max(axis=(0, 2)).min() > 1e-6


@pytest.mark.parametrize("points", [[12], [-1], [[0]], [0.5]])
def test_points_outside_the_grid_are_refused(backend: str, points: list[Any]) -> None:
    decoder, p, latents, _ = a_decoder("fourier")
    with pytest.raises(InputError, match="points must be"):
        decoder.apply(*on(backend, [p, latents]), Request(points=np.array(points)))


@pytest.mark.parametrize("mode", ["plain", "fast"])
@given(n=st.integers(1, 5), m=st.integers(1, 6), seed=st.integers(0, 1000))
def test_attention_is_a_weighted_average(backend: str, mode: str, n: int, m: int, seed: int) -> None:
    q, k, v, w = (normal(seed + i, 2, rows, 3) for i, rows in enumerate((n, m, m, m)))
    shift = normal(seed, 2, n, 1)
    with kernels(mode):
        out, other, both = (host(ops.attention(*on(backend, [q, k, x]))) for x in (v, w, 2 * v - 3 * w))
        shifted = ops.attention(*on(backend, [q, k, v, np.broadcast_to(shift, (2, n, m)).copy()]))
    assert_close(both, 2 * out - 3 * other)  # linear in the values
    assert (out <= v.max(1, keepdims=True) + 1e-12).all()  # within their range, but for rounding
    assert (out >= v.min(1, keepdims=True) - 1e-12).all()
    assert_close(shifted, out)  # unchanged by what is added to a whole row of logits


def test_images_of_bytes_are_a_warning() -> None:
    model = small.image_classifier()
    p, images = model.init(), np.full((1, 3, 4, 2), 255.0, np.float32)
    with pytest.warns(UserWarning, match="images reach 255, as bytes do"):
        model.apply(p, images)
