"""Whole Perceiver IO models equal their parts put together in `plain`, and compute in the precision they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import plain, small
from models.test_positions import direct_fourier_features
from support import assert_close, difference, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.autograd import kernels, tree
from perceiver_ref.models.conventions import DIALECTS, Conventions
from perceiver_ref.models.decoder import Decoder
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.queries import EVERYTHING, InputQueries, Request

every_dialect = pytest.mark.parametrize("conventions", DIALECTS.values(), ids=DIALECTS)
LOGITS = 1e-4
"""float32 against float64: a dozen layers each add some units of 6e-8 to activations near 1; measured near 1e-6."""


def tokens(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 11, (batch, length))


@every_dialect
@settings(max_examples=15)
@given(length=st.integers(1, 7), data=st.data())
def test_language_model_is_embed_encode_decode_and_tied_logits(
    backend: str, conventions: Conventions, length: int, data: st.DataObject
) -> None:
    model = small.language_model(conventions)
    p, ids = random_parameters(model), tokens(2, length)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=2 * length, max_size=2 * length))).reshape(2, length)
    embedded = np.stack([[p["input"]["embedding"][i] for i in row] for row in ids])
    latents = plain.encoder(
        p["encoder"], embedded + p["input"]["positions"]["table"][:length], like=model.encoder, mask=mask
    )
    queries = np.stack([p["decoder"]["queries"]["table"]] * 2)
    decoded = plain.decoder(p["decoder"], latents, queries, like=model.decoder)
    logits = np.einsum("boc,vc->bov", decoded, p["input"]["embedding"]) + p["output"]["bias"]
    assert_close(model.apply(*on(backend, [p, ids]), mask=on(backend, mask)), logits)


@pytest.mark.parametrize("grid", [(6, 5), (3, 7), (1, 1)])
def test_image_classifier_is_pixels_and_positions_encoded_and_decoded(backend: str, grid: tuple[int, int]) -> None:
    model = small.image_classifier(DIALECTS["hf"])
    p, images = random_parameters(model), normal(1, 2, *grid, 2)
    positions = direct_fourier_features(grid, 3, (6, 5))
    pixels = np.concatenate([images.reshape(2, -1, 2), np.stack([positions] * 2)], axis=-1)
    latents = plain.encoder(p["encoder"], pixels, like=model.encoder)
    queries = np.stack([p["decoder"]["queries"]["table"]] * 2)
    logits = plain.decoder(p["decoder"], latents, queries, like=model.decoder)[:, 0]
    assert_close(model.apply(*on(backend, [p, images])), logits)


def test_without_decoder_the_latents_come_out(backend: str) -> None:
    model = PerceiverIO(small.encoder())
    p, inputs = random_parameters(model), normal(1, 2, 5, 6)
    assert list(p) == ["encoder"]
    assert_close(model.apply(*on(backend, [p, inputs])), plain.encoder(p["encoder"], inputs, like=model.encoder))


@pytest.mark.parametrize("asked", [EVERYTHING, Request(points=np.array([4, 0])), Request(chunk=4)])
def test_what_is_encoded_once_is_decoded_as_the_whole_model_does(backend: str, asked: Request) -> None:
    model = small.language_model()
    p, ids = on(backend, [random_parameters(model), tokens(2, 7)])
    latents, elements = model.encode(p, ids)
    assert_close(latents, model.encoder.apply(p["encoder"], elements.inputs))
    outputs = model.decode(p, latents, asked)
    assert_close(outputs, model.apply(p, ids, **vars(asked)))
    assert_close(outputs, model.postprocess(p, model.decoder.apply(p["decoder"], latents, asked)))


def test_queries_made_of_inputs_are_decoded_with_what_was_encoded(backend: str) -> None:
    model = PerceiverIO(small.encoder(), decoder=Decoder(small.encoder().channels, 6, InputQueries(6), outputs=2))
    p, inputs = on(backend, [random_parameters(model), normal(1, 2, 5, 6)])
    latents, elements = model.encode(p, inputs)
    assert_close(model.decode(p, latents, elements=elements), model.apply(p, inputs))
    assert_close(model.decode(p, latents, Request(queries=inputs)), model.apply(p, inputs))


def test_decoding_names_parameters_that_do_not_fit(backend: str) -> None:
    model = small.language_model()
    p, ids = on(backend, [random_parameters(model), tokens(2, 7)])
    latents, _ = model.encode(p, ids)
    with pytest.raises(InputError, match="parameters do not fit PerceiverIO; missing: decoder/"):
        model.decode({**p, "decoder": {}}, latents)


def test_a_mask_of_queries_and_chunks_are_refused_together() -> None:
    with pytest.raises(InputError, match="query_mask and chunk cannot be combined"):
        Request(query_mask=np.ones((1, 2), bool), chunk=1)


def cases() -> list[Any]:
    language, images = small.language_model(), small.image_classifier()
    return [
        pytest.param(language, tokens(2, 7), id="language"),
        pytest.param(images, normal(1, 2, 6, 5, 2), id="image"),
    ]


@pytest.mark.parametrize(("model", "inputs"), cases())
def test_float32_in_float32_out_and_close_to_float64(backend: str, model: PerceiverIO, inputs: np.ndarray) -> None:
    p = random_parameters(model)
    wide = model.apply(*on(backend, [p, inputs]))
    narrow = model.apply(*on(backend, [p, inputs], np.float32))
    assert (wide.dtype, narrow.dtype) == (np.float64, np.float32)
    assert 0 < difference(narrow, wide) < LOGITS


@pytest.mark.parametrize(("model", "inputs"), cases())
def test_fast_kernels_and_plain_definitions_agree(backend: str, model: PerceiverIO, inputs: np.ndarray) -> None:
    p, inputs = on(backend, [random_parameters(model), inputs])
    with kernels("plain"):
        plainly = model.apply(p, inputs)
    with kernels("fast"):
        assert_close(model.apply(p, inputs), plainly)


@pytest.mark.parametrize(("model", "inputs"), cases())
def test_neither_parameters_nor_inputs_are_changed(backend: str, model: PerceiverIO, inputs: np.ndarray) -> None:
    p = on(backend, random_parameters(model))
    given_inputs = on(backend, inputs)
    before = tree.map(lambda a: a.copy(), [p, given_inputs])
    model.apply(p, given_inputs)
    assert_close([p, given_inputs], before, tolerance=0)
