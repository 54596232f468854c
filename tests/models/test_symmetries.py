"""What the architecture promises whatever its weights: sets in, queries apart, batch elements apart.

Perceiver, section 3.1 ("permutation invariant"), and Perceiver IO, section 3.2 (each output depends on its own query).
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from models import small
from support import assert_close, difference, normal, on, random_parameters

from perceiver_ref.models.attention import CrossAttention
from perceiver_ref.models.decoder import Decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.models.queries import Request

seeds = st.integers(0, 2**32 - 2)
few_examples = settings(max_examples=25)


def permutation(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)


@few_examples
@given(encoder=small.encoders(), m=st.integers(1, 8), seed=seeds)
def test_the_order_of_inputs_does_not_matter(backend: str, encoder: Encoder, m: int, seed: int) -> None:
    p, inputs = on(backend, random_parameters(encoder)), normal(seed, 2, m, encoder.inputs)
    mask = np.random.default_rng(seed).random((2, m)) < 0.7
    order = permutation(seed, m)
    latents = encoder.apply(p, on(backend, inputs), mask=on(backend, mask))
    shuffled = encoder.apply(p, on(backend, inputs[:, order]), mask=on(backend, mask[:, order]))
    assert_close(shuffled, latents)


@few_examples
@given(seed=seeds)
def test_pixels_may_be_shuffled_with_their_positions_but_not_without(backend: str, seed: int) -> None:
    model = small.image_classifier()
    p, images = random_parameters(model), normal(seed, 1, 3, 4, 2)
    order = permutation(seed, 12)
    pixels = model.preprocessor.apply(p["input"], on(backend, images)).inputs
    logits = model.apply(*on(backend, [p, images]))
    body = PerceiverIO(model.encoder, None, model.decoder)
    assert_close(body.apply(on(backend, p), on(backend, np.asarray(on("numpy", pixels))[:, order])), logits)
    moved = images.reshape(1, 12, 2)[:, np.roll(np.arange(12), 1)].reshape(images.shape)
    assert difference(model.apply(*on(backend, [p, moved])), logits) > 1e-6  # positions do count


@few_examples
@given(encoder=small.encoders(), m=st.integers(1, 6), times=st.integers(2, 4), seed=seeds)
def test_repeating_every_input_changes_nothing(backend: str, encoder: Encoder, m: int, times: int, seed: int) -> None:
    p, inputs = on(backend, random_parameters(encoder)), normal(seed, 2, m, encoder.inputs)
    repeated = np.concatenate([inputs] * times, axis=1)
    assert_close(encoder.apply(p, on(backend, repeated)), encoder.apply(p, on(backend, inputs)))


@few_examples
@given(seed=seeds, times=st.integers(2, 5))
def test_repeating_some_keys_does_change_cross_attention(backend: str, seed: int, times: int) -> None:
    """The opposite of the test above, so that it is not passed by attention that ignores its keys."""
    layer = CrossAttention(4, 4)
    p, x, z = random_parameters(layer), normal(seed, 1, 2, 4), normal(seed + 1, 1, 3, 4)
    uneven = np.concatenate([z, *[z[:, :1]] * times], axis=1)
    assert difference(layer.apply(*on(backend, [p, x, uneven])), layer.apply(*on(backend, [p, x, z]))) > 1e-9


@few_examples
@given(encoder=small.encoders(), decoder=small.decoders(), seed=seeds)
def test_the_order_of_latents_does_not_matter_to_the_decoder(
    backend: str, encoder: Encoder, decoder: Decoder, seed: int
) -> None:
    encoder = small.encoder()
    p, inputs = random_parameters(encoder), normal(seed, 2, 5, 6)
    order = permutation(seed, 4)
    shuffled = {**p, "latents": p["latents"][order]}
    latents, moved = (encoder.apply(*on(backend, [q, inputs])) for q in (p, shuffled))
    assert_close(moved, np.asarray(on("numpy", latents))[:, order])  # equivariant up to here, invariant after
    decoder = Decoder(8, decoder.query_channels, outputs=3, heads=decoder.heads, qk_channels=4)
    q, queries = on(backend, [random_parameters(decoder), normal(seed + 1, 2, 3, decoder.query_channels)])
    assert_close(decoder.apply(q, moved, Request(queries)), decoder.apply(q, latents, Request(queries)))


@few_examples
@given(decoder=small.decoders(), n=st.integers(1, 4), o=st.integers(2, 6), seed=seeds)
def test_each_query_is_answered_on_its_own(backend: str, decoder: Decoder, n: int, o: int, seed: int) -> None:
    p, latents = on(backend, [random_parameters(decoder), normal(seed, 2, n, decoder.latent_channels)])
    queries = normal(seed + 1, 2, o, decoder.query_channels)
    outputs = np.asarray(on("numpy", decoder.apply(p, latents, Request(on(backend, queries)))))
    order = permutation(seed, o)
    assert_close(decoder.apply(p, latents, Request(on(backend, queries[:, order]))), outputs[:, order])
    chosen = order[: o // 2]
    assert_close(decoder.apply(p, latents, Request(on(backend, queries[:, chosen]))), outputs[:, chosen])


@few_examples
@given(encoder=small.encoders(), m=st.integers(1, 6), batch=st.integers(2, 4), seed=seeds)
def test_batch_elements_do_not_see_each_other(backend: str, encoder: Encoder, m: int, batch: int, seed: int) -> None:
    p, inputs = on(backend, random_parameters(encoder)), normal(seed, batch, m, encoder.inputs)
    mask = np.random.default_rng(seed).random((batch, m)) < 0.6
    together = np.asarray(on("numpy", encoder.apply(p, on(backend, inputs), mask=on(backend, mask))))
    for b in range(batch):
        alone = encoder.apply(p, on(backend, inputs[b : b + 1]), mask=on(backend, mask[b : b + 1]))
        assert_close(alone, together[b : b + 1])


@few_examples
@given(bands=st.integers(1, 4), grid=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_a_grid_seen_from_the_other_end_mirrors_its_features(bands: int, grid: tuple[int, int]) -> None:
    """x -> -x: positions and sines change sign, cosines do not (one point sits at -1, so it has no mirror)."""
    if 1 in grid:
        return
    encoding = FourierPositions(bands, grid)
    table = encoding.apply({}, grid, like=np.zeros(0)).reshape(*grid, -1)
    signs = np.array([-1] * (2 + 2 * bands) + [1] * (2 * bands))
    assert_close(table[::-1, ::-1], table * signs, tolerance=1e-5)  # positions are rounded to float32
