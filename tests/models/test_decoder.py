"""The decoders equal the loops of `plain`, whether they make their queries or are given them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import plain, small
from support import assert_close, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.models.decoder import Decoder, classification_decoder, trainable_queries
from perceiver_ref.models.inputs import Preprocessed
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.models.queries import PositionQueries, Request


@given(decoder=small.decoders(), data=st.data())
def test_decoder_is_a_cross_attention_and_a_linear_map(backend: str, decoder: Decoder, data: st.DataObject) -> None:
    batch, n, o = (data.draw(st.integers(1, 4)) for _ in range(3))
    p = random_parameters(decoder)
    latents, queries = normal(1, batch, n, decoder.latent_channels), normal(2, batch, o, decoder.query_channels)
    query_mask = np.array(data.draw(st.lists(st.booleans(), min_size=batch * o, max_size=batch * o))).reshape(batch, o)
    for mask in (None, query_mask):
        ours = decoder.apply(
            *on(backend, [p, latents]),
            Request(on(backend, queries), None if mask is None else on(backend, mask)),
        )
        assert_close(ours, plain.decoder(p, latents, queries, like=decoder, query_mask=mask))


def test_trainable_queries_are_the_rows_of_the_table(backend: str) -> None:
    decoder = Decoder(8, 6, trainable_queries(5, 6), outputs=3, heads=2)
    p, latents = random_parameters(decoder), normal(1, 2, 4, 8)
    queries = np.stack([p["queries"]["table"]] * 2)
    assert_close(decoder.apply(*on(backend, [p, latents])), plain.decoder(p, latents, queries, like=decoder))


def test_concatenated_inputs_precede_each_query(backend: str) -> None:
    positions = FourierPositions(2, (3, 2))
    decoder = Decoder(8, 3 + 2 * (2 * 2 + 1), PositionQueries(positions, (3, 2), concat_inputs=True), outputs=3)
    p, latents, features = random_parameters(decoder), normal(1, 2, 4, 8), normal(2, 2, 6, 3)
    table = positions.apply({}, (3, 2), like=latents)  # the formula of the table is tested in test_positions
    queries = np.concatenate([features, np.stack([table] * 2)], axis=-1)
    ours = decoder.apply(*on(backend, [p, latents]), elements=Preprocessed(*on(backend, [features, features])))
    assert_close(ours, plain.decoder(p, latents, queries, like=decoder))


def test_the_classification_decoder_gives_the_output_of_its_one_query(backend: str) -> None:
    decoder = classification_decoder(8, 5, query_residual=True)
    p, latents = random_parameters(decoder), normal(1, 3, 4, 8)
    assert p["queries"]["table"].shape == (1, 8)
    ours = decoder.apply(*on(backend, [p, latents]))
    assert ours.shape == (3, 5)
    queries = np.stack([p["queries"]["table"]] * 3)
    assert_close(ours, plain.decoder(p, latents, queries, like=decoder)[:, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "this decoder makes no queries: pass queries"),
        ({"queries": np.zeros((2, 5, 7))}, "queries must be (batch, outputs, 6), got (2, 5, 7)"),
        ({"queries": np.zeros((5, 6))}, "queries must be (batch, outputs, 6), got (5, 6)"),
        (
            {"queries": np.zeros((2, 5, 6)), "query_mask": np.ones((2, 4), bool)},
            "query_mask must be bool of shape (2, 5), True = attend; got bool of (2, 4)",
        ),
    ],
)
def test_wrong_arguments_are_named(backend: str, arguments: dict[str, np.ndarray], message: str) -> None:
    decoder = Decoder(8, 6)
    with pytest.raises(InputError, match=re.escape(message)):
        decoder.apply(
            *on(backend, [random_parameters(decoder), np.zeros((2, 4, 8))]), Request(**on(backend, arguments))
        )
