"""What only the released Perceiver AR does, against loops and against `PerceiverAR` itself."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_close, difference, host, normal, on, random_parameters

import perceiver_ref as pr
from perceiver_ref.autograd import ops
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.models.perceiver_ar import PerceiverAR
from perceiver_ref.peers import Given, Rebuilt, peer
from perceiver_ref.peers.perceiver_ar.functions import linear_features, sinusoidal_features, weighted_cross_entropy
from perceiver_ref.peers.perceiver_ar.sequences import causal_masks, lengths, terminal_relative, truncated
from perceiver_ref.porting import check_file, run

VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "perceiver-ar").glob("*.npz"))
SMALL = {
    "num_classes": 11,
    "input_idx_size": [-1],
    "max_context_length": 12,
    "position_encoding_type": "rotary",
    "input_embed_dim": 8,
    "num_transformers_per_block": 2,
    "z_index_dim": 4,
    "num_z_channels": 8,
    "num_cross_attend_heads": 2,
    "num_transformer_heads": 2,
    "fraction_to_rotate": 1.0,
    "max_wavelength": 64,
}
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [2, 7, 1, 8, 2, 8, 0, 0, 0, 0, 0, 0]])
sequences = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=3).map(np.array)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors_agree_in_float32(backend: str, path: Path) -> None:
    """In float64 `tests/porting` runs them."""
    result = check_file(path, backend=backend, dtype="float32")
    assert result.status == "pass", result.message or result.worst


def rebuild(cls: str = "PerceiverAR", inputs: dict[str, Any] | None = None, **config: Any) -> Rebuilt:
    given = {**SMALL, **config} if cls == "PerceiverAR" else config
    return peer("perceiver-ar").rebuild(cls, Given(given, inputs or {}))


def predict(rebuilt: Rebuilt, ids: np.ndarray = IDS, seed: int = 0, **options: Any) -> dict[str, np.ndarray]:
    p = random_parameters(rebuilt.model, seed)
    return rebuilt.run(rebuilt.model, p, {"inputs": ids}, options, pr.peers.base.Call())


def logits(rebuilt: Rebuilt, ids: np.ndarray = IDS, **options: Any) -> np.ndarray:
    return predict(rebuilt, ids, **options)["input_events_logits"]


def length_of(row: Any) -> int:
    return next((i for i, token in enumerate(row) if token == 0), len(row))


@given(ids=sequences)
def test_sequences_end_at_their_first_zero(backend: str, ids: np.ndarray) -> None:
    there = on(backend, ids)
    expected = [length_of(row) for row in ids]
    assert host(lengths(there)).tolist() == expected
    cut = [[0 if i == max(n - 1, 0) else token for i, token in enumerate(row)] for row, n in zip(ids, expected)]
    assert host(truncated(there)).tolist() == cut
    positions = on(backend, np.broadcast_to(np.arange(6), ids.shape).copy())
    counted = host(terminal_relative(positions, there)).tolist()
    assert counted == [[*range(n - 1, -1, -1), *range(5, n - 1, -1)] for n in expected]


@given(ids=sequences, positions=st.integers(1, 3), each=st.integers(1, 2))
def test_masks_against_loops(backend: str, ids: np.ndarray, positions: int, each: int) -> None:
    count = positions * each
    inputs, among, steps = map(host, causal_masks(on(backend, ids), count, each))
    for b, row in enumerate(ids):
        wanted = [max(length_of(row) - positions + k, -1) for k in range(positions)]
        assert steps[b].tolist() == wanted
        at = [wanted[i // each] for i in range(count)]
        for i in range(count):
            assert inputs[b, i].tolist() == [j <= at[i] and row[j] > 0 for j in range(6)]
            assert among[b, i].tolist() == [i == j or (0 <= at[j] <= at[i]) for j in range(count)]


def test_full_sequences_with_negative_positions_are_the_plain_model() -> None:
    """Positions -11 to 0 have the distances of 0 to 11."""
    released = rebuild(use_negative_rotary_positions=True).model
    options = {field.name: getattr(released, field.name) for field in fields(PerceiverAR)}
    plain, p = PerceiverAR(**options), random_parameters(released)
    own = {name: part for name, part in p.items() if name not in ("query_layers", "tables")}
    expected = plain.apply(own, IDS[:1], prefix=8)
    assert_close(released.predict(p, IDS[:1], None, 4)["input_events_logits"], expected)
    turned_back = rebuild().model.predict(p, IDS[:1], None, 4)["input_events_logits"]
    assert difference(turned_back, expected) > 1e-3


def test_what_follows_the_end_of_a_sequence_is_not_seen() -> None:
    longer = IDS.copy()
    longer[1, 7:] = 9  # behind the first 0
    rebuilt = rebuild()
    assert np.array_equal(logits(rebuilt)[1], logits(rebuilt, longer)[1])


def test_the_logits_of_a_latent_do_not_depend_on_later_tokens() -> None:
    changed = IDS.copy()
    changed[:, 10:] = 7
    rebuilt = rebuild(additional_cross_attend_after_layers=[1])
    assert np.array_equal(logits(rebuilt)[0, :2], logits(rebuilt, changed)[0, :2])
    assert not np.allclose(logits(rebuilt)[0, 2:], logits(rebuilt, changed)[0, 2:])


@pytest.mark.parametrize(
    ("group", "heads"),
    [(0, (True, True, True, False)), (4, (True, True, True, False)), (2, (True, False) * 2), (1, ())],
)
def test_the_first_heads_of_every_group_turn(group: int, heads: tuple[bool, ...]) -> None:
    options = {"num_cross_attend_heads": 4, "cross_attention_head_group_size": group}
    model = rebuild(**options, fraction_heads_to_rotate=0.8).model
    assert model.cross_rotary.heads == (heads or (False,) * 4)
    assert model.self_rotary.heads == (True, False)


def test_keys_of_an_overlapping_last_chunk_count_twice() -> None:
    def weights(**options: Any) -> np.ndarray:
        with pr.trace("cross_attention.0.attention.weights".__eq__) as traced:
            logits(rebuild(**options), IDS[:1])
        return traced["cross_attention.0.attention.weights"]

    chunks = {"chunked_cross_attention": True, "chunked_cross_query_size": 2}
    plain = weights()
    assert np.array_equal(weights(**chunks, chunked_cross_key_size=4), plain)
    times = np.array([1] * 7 + [2] * 3 + [1] * 2)  # chunks 0 to 4, 5 to 9 and, in place of 10 to 14, 7 to 11
    expected = plain * times / (plain * times).sum(-1, keepdims=True)
    keys = [*range(10), *range(7, 12)]
    made = np.zeros_like(plain)
    np.add.at(made, (..., keys), weights(**chunks, chunked_cross_key_size=5))
    assert_close(made, expected)


def test_shared_learned_latents_are_the_same_for_all() -> None:
    shared, own = (
        rebuild(initial_query_embed_style="learned", share_learned_initial_query=s).model for s in (True, False)
    )
    p = random_parameters(shared)
    assert p["learned_query"].shape == (1, 8)
    assert "query" not in p
    many = {**p, "learned_query": np.repeat(p["learned_query"], 4, 0)}
    a, b = shared.predict(p, IDS, None, 4), own.predict(many, IDS, None, 4)
    assert np.array_equal(a["input_events_logits"], b["input_events_logits"])
    assert shared.predict(p, IDS, None, 3)["input_events_logits"].shape == (2, 3, 11)
    with pytest.raises(pr.InputError, match="learned initial latents are 4"):
        own.predict(many, IDS, None, 3)


@pytest.mark.parametrize("learnable", [True, False])
def test_position_tables_are_trained_only_if_asked_for(learnable: bool) -> None:
    rebuilt = rebuild(position_encoding_type="absolute", learnable_position_embeddings=learnable)
    arrays = {b.name: normal(i, *b.shape) for i, b in enumerate(rebuilt.bindings)}
    cotangents = {"input_events_logits": normal(1, 2, 4, 11)}
    made = run(rebuilt, arrays, {"inputs": IDS}, {}, cotangents=cotangents)
    assert made.grad_params["perceiver_ar/~/embed_1/embeddings"].any() == learnable
    assert made.grad_params["perceiver_ar/~/embed/embeddings"].any()


def test_only_the_tables_of_axes_that_positions_have_are_parameters() -> None:
    absolute = {"position_encoding_type": "absolute", "input_idx_size": [12, 5, 3]}
    assert rebuild(**absolute).model.tables == (12,)
    given = {"inputs": (1, 12), "input_idxs": (1, 12, 2)}
    assert rebuild(inputs=given, **absolute, use_positions_from_data=True).model.tables == (12, 5)


def test_one_latent_sees_everything_and_has_no_masks() -> None:
    made = predict(rebuild(), z_index_dim=1)
    assert sorted(made) == ["input_events_logits", "latent_last_steps"]
    assert made["latent_last_steps"].tolist() == [[11], [11]]


def test_training_without_dropout_is_inference_and_with_it_an_error() -> None:
    assert np.array_equal(logits(rebuild(), is_training=True), logits(rebuild()))
    with pytest.raises(pr.InputError, match="with encoder_dropout_prob is random in training"):
        logits(rebuild(encoder_dropout_prob=0.1), is_training=True)
    assert np.array_equal(logits(rebuild(encoder_dropout_prob=0.1)), logits(rebuild()))


@pytest.mark.parametrize("size", [6, 7])
def test_features(size: int) -> None:
    waves = sinusoidal_features(5, size)
    assert waves.dtype == np.float32
    half = size // 2
    for position in range(5):
        for i in range(half):
            speed = 10_000 ** (-i / (half - 1))
            # rounded to float32 in the end
            assert waves[position, i] == pytest.approx(math.sin(position * speed), abs=6e-8)
            assert waves[position, half + i] == pytest.approx(math.cos(position * speed), abs=6e-8)
    assert (waves[:, 2 * half :] == 0).all()
    assert linear_features(3, 2).tolist() == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(pr.InputError, match="at least 4 channels, got 3"):
        sinusoidal_features(5, 3)


def test_the_loss_without_extras_is_the_cross_entropy(backend: str) -> None:
    scores, targets = on(backend, [normal(1, 2, 3, 5), np.array([[0, 4, 2], [1, 1, 3]])])
    plain = ops.cross_entropy(scores, targets, reduction="none")
    assert_close(host(weighted_cross_entropy(scores, targets)), host(plain))
    weights = on(backend, np.array([[0.0, 1, 2], [3, 0.5, 1]]))
    assert_close(host(weighted_cross_entropy(scores, targets, weights)), host(plain * weights))


def test_the_loss_with_extras(backend: str) -> None:
    scores, targets = normal(1, 4, 5), np.array([0, 4, 2, 2])
    made = host(weighted_cross_entropy(*on(backend, [scores, targets]), label_smoothing=0.2, z_loss=0.3))
    for row, target, loss in zip(scores, targets, made):
        log_z = math.log(np.exp(row).sum())
        y = [0.8 if k == target else 0.05 for k in range(5)]
        expected = sum(p * (math.log(p) - (row[k] - log_z)) for k, p in enumerate(y)) + 0.3 * log_z**2
        assert loss == pytest.approx(expected, abs=1e-7)  # the targets are rounded to float32


def test_gradient_of_the_loss(backend: str) -> None:
    targets = on(backend, np.array([[0, 4, 2], [1, 1, 3]]))
    check_grads(lambda x: weighted_cross_entropy(x, targets, z_loss=0.1), on(backend, normal(1, 2, 3, 5)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_class": 3}, "unknown option of PerceiverAR 'num_class'; did you mean 'num_classes'"),
        ({"position_encoding_type": "relative"}, "Known: absolute, rotary"),
        ({"position_encoding_type": "absolute", "position_encoding": "learned"}, "Known: fourier, linear, random"),
        ({"mask_style": "block"}, "Known: final_block"),
        ({"activation_name": "mish"}, "unknown activation 'mish'"),
        ({"max_wavelength": 10}, "max_wavelength (10) must not be smaller than max_context_length (12)"),
        ({"fraction_to_rotate": 0.0}, "must be in (0, 1], got 0.0"),
        ({"fraction_to_rotate": 0.25}, "turns none of 4 channels"),
        ({"cross_attention_head_group_size": 3}, "2 heads cannot be split into groups of 3"),
        ({"additional_cross_attend_after_layers": [2]}, "must be different layers, got [2]"),
        ({"additional_cross_attend_after_layers": [0, 0]}, "must be different layers, got [0, 0]"),
        ({"position_encoding_type": "absolute", "initial_query_offsetting": True}, "needs rotary positions"),
        ({"num_transformer_heads": 3}, "latents of 8 channels cannot be split among 3 heads"),
        ({"z_index_dim": 13}, "latents (13) must be at least 1 and at most length (12)"),
    ],
)
def test_what_cannot_be_rebuilt_is_an_input_error(config: dict[str, Any], message: str) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)):
        rebuild(**config)


@pytest.mark.parametrize(
    ("config", "ids", "options", "message"),
    [
        ({}, np.full((1, 12), 11), {}, "must be in [0, 11), got 11 to 11"),
        ({}, np.ones((1, 3), int), {}, "need a sequence of at least 4 tokens"),
        ({}, IDS, {"memory_type": "cache"}, "Known: fixed_size_kv, kv, none"),
        ({"use_positions_from_data": True}, IDS, {}, "needs the argument 'input_idxs'"),
        ({"num_latents_per_position": 3}, IDS, {}, "a whole number of positions"),
        (
            {"chunked_cross_attention": True, "chunked_cross_query_size": 3},
            IDS,
            {},
            "4 latents cannot be split into chunks of 3",
        ),
    ],
)
def test_calls_that_cannot_be_made_are_input_errors(
    config: dict[str, Any], ids: np.ndarray, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)):
        logits(rebuild(**config), ids, **options)
