"""Gradients of whole models: against differences, across sharing, precision and kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import small
from support import assert_close, normal, on, random_parameters

from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import kernels, ops, tree, value_and_grad, vjp
from perceiver_ref.autograd.core import array_of
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.models.conventions import DIALECTS, Conventions
from perceiver_ref.models.decoder import Decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.queries import Request

every_dialect = pytest.mark.parametrize("conventions", DIALECTS.values(), ids=DIALECTS)
both_kernels = pytest.mark.parametrize("mode", ["plain", "fast"])
IDS = np.array([[3, 0, 10, 3, 1], [2, 2, 9, 0, 4]])
MASK = np.array([[True, True, False, True, True], [True, False, False, True, False]])


@every_dialect
def test_language_model(backend: str, conventions: Conventions) -> None:
    model = small.language_model(conventions)
    ids, mask = on(backend, [IDS, MASK])
    check_grads(lambda p: model.apply(p, ids, mask=mask), on(backend, random_parameters(model)), directions=1)


@both_kernels
def test_image_classifier(backend: str, mode: str) -> None:
    model = small.image_classifier()
    with kernels(mode):
        check_grads(model.apply, *on(backend, [random_parameters(model), normal(1, 2, 3, 4, 2)]), directions=1)


@settings(max_examples=5)
@given(encoder=small.encoders(), masked=st.booleans())
def test_encoders_of_any_shape_with_masks_and_biases(backend: str, encoder: Encoder, masked: bool) -> None:
    # a row without any key included, whose gradient is zero, or that of the average; "added" has one that is no
    # derivative, as its peers do
    empty = encoder.conventions.masked_rows != "added"
    rows = [[True, False, True], [False, False, False] if empty else [False, True, False]]
    mask = on(backend, np.array(rows)) if masked else None
    bias = normal(2, 2, encoder.cross_heads, encoder.latents, 3)
    arguments = on(backend, [random_parameters(encoder), normal(1, 2, 3, encoder.inputs), bias])
    check_grads(lambda p, x, b: encoder.apply(p, x, mask=mask, bias=b), *arguments, directions=1)


@settings(max_examples=5)
@given(decoder=small.decoders())
def test_decoders_of_any_shape(backend: str, decoder: Decoder) -> None:
    latents, queries = normal(1, 2, 3, decoder.latent_channels), normal(2, 2, 4, decoder.query_channels)
    arguments = on(backend, [random_parameters(decoder), latents, queries])
    check_grads(lambda p, z, q: decoder.apply(p, z, Request(q)), *arguments, directions=1)


def weighted_sum(out: Any, seed: int = 5) -> Any:
    """A loss whose gradient is not symmetric in the outputs."""
    weights = backends.xp(array_of(out)).asarray(normal(seed, *out.shape), array_of(out).dtype)
    return ops.sum(ops.multiply(out, weights))


def test_a_shared_block_has_the_sum_of_the_gradients_of_its_unrolled_copies(backend: str) -> None:
    shared = small.encoder(blocks=3, layers=2)
    unrolled = replace(shared, blocks=1, layers=6)
    p, inputs = on(backend, [random_parameters(shared), normal(1, 2, 5, 6)])
    copies = {**p, "block": [tree.map(lambda a: a.copy(), layer) for _ in range(3) for layer in p["block"]]}
    value, once = value_and_grad(lambda p: weighted_sum(shared.apply(p, inputs)))(p)
    same_value, each = value_and_grad(lambda p: weighted_sum(unrolled.apply(p, inputs)))(copies)
    assert_close(same_value, value)
    for i in range(2):
        total = tree.map(lambda *g: sum(g), *each["block"][i::2])
        assert_close(once["block"][i], total)
        assert np.abs(tree.flatten(total)["attention/query/weight"]).max() > 1e-3  # not 0 = 0
    for part in ("latents", "cross_attention"):
        assert_close(once[part], each[part])


def test_the_tied_embedding_has_the_sum_of_its_gradients_as_input_and_as_output(backend: str) -> None:
    model = small.language_model()
    p, ids = on(backend, [random_parameters(model), IDS])
    body = replace(model, postprocessor=None)

    def untied(p: Any, output_embedding: Any) -> Any:
        x = body.apply(p, ids)
        return weighted_sum(
            model.postprocessor.apply(p["output"], x, params={"input": {"embedding": output_embedding}})
        )

    _, tied = value_and_grad(lambda p: weighted_sum(model.apply(p, ids)))(p)
    _, (own, other) = value_and_grad(lambda both: untied(*both))([p, p["input"]["embedding"].copy()])
    assert_close(tied["input"]["embedding"], own["input"]["embedding"] + other)


@every_dialect
def test_float32_gradients_are_float32_and_close(backend: str, conventions: Conventions) -> None:
    model = small.image_classifier(conventions)
    p, images = random_parameters(model), normal(1, 2, 6, 5, 2)
    results = {}
    for dtype in (np.float32, np.float64):
        _, pull = vjp(model.apply, *on(backend, [p, images], dtype))
        results[dtype] = pull(on(backend, normal(2, 2, 5), dtype))
    assert {g.dtype for _, g in tree.leaves(results[np.float32])} == {np.dtype(np.float32)}
    # float32 rounds each of some hundred sums by 6e-8 of its largest term; measured near 1e-6
    assert_close(results[np.float32], results[np.float64], tolerance=1e-4)


def test_fast_kernels_and_plain_definitions_give_the_same_gradients(backend: str) -> None:
    model = small.language_model(DIALECTS["hf"])
    p, ids, mask = on(backend, [random_parameters(model), IDS, MASK])
    gradients = {}
    for mode in ("plain", "fast"):
        with kernels(mode):
            _, gradients[mode] = value_and_grad(lambda p: weighted_sum(model.apply(p, ids, mask=mask)))(p)
    assert_close(gradients["fast"], gradients["plain"])


def test_key_biases_get_no_gradient(backend: str) -> None:
    """Softmax does not see a constant added to a row of logits, so the key bias must come out as zero (rounding)."""
    model = small.language_model()
    p, ids = on(backend, [random_parameters(model), IDS])
    _, gradients = value_and_grad(lambda p: weighted_sum(model.apply(p, ids)))(p)
    flat = tree.flatten(gradients)
    keys = [path for path in flat if path.endswith("key/bias")]
    assert len(keys) == 4
    for path in keys:
        assert float(abs(flat[path]).max()) < 1e-13
        assert float(abs(flat[path.replace("key/", "query/")]).max()) > 1e-3
