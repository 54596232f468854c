"""What only krasserm's implementation does, and how its configurations are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.models.conventions import AUTOREGRESSIVE_DIALECTS, DIALECTS
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.peers import Given, Rebuilt, peer
from perceiver_ref.peers.krasserm.parts import fourier
from perceiver_ref.peers.krasserm.quirks import inverse_frequencies
from perceiver_ref.porting import check_file, run
from perceiver_ref.porting.cases import read_case

RNG = np.random.default_rng(11)
FOLDER = Path(__file__).parents[1] / "vectors" / "krasserm"
VECTORS = sorted(FOLDER.glob("*.npz"))
ENCODER = {
    "num_cross_attention_heads": 1,
    "num_self_attention_heads": 1,
    "num_self_attention_layers_per_block": 1,
}
TEXT = {**ENCODER, "vocab_size": 7, "max_seq_len": 5, "num_input_channels": 4}
CAUSAL = {
    "num_heads": 2,
    "num_self_attention_layers": 2,
    "vocab_size": 7,
    "max_seq_len": 8,
    "max_latents": 5,
    "num_channels": 8,
}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors_agree_in_float32(backend: str, path: Path) -> None:
    """In float64 `tests/porting` runs them."""
    result = check_file(path, backend=backend, dtype="float32")
    assert result.status == "pass", result.message or result.worst


def rebuild(cls: str, config: dict[str, Any]) -> Rebuilt:
    return peer("krasserm").rebuild(cls, Given(config))


def model(cls: str, encoder: dict[str, Any], decoder: dict[str, Any]) -> Rebuilt:
    config = {"num_latents": 3, "num_latent_channels": 4, "encoder": encoder}
    return rebuild(cls, {**config, "decoder": {"num_cross_attention_heads": 1, **decoder}})


def weights(rebuilt: Rebuilt) -> dict[str, np.ndarray]:
    """Random arrays by the peer's names; buffers as the peer makes them."""
    arrays = {b.name: RNG.standard_normal(b.shape[::-1]) for b in rebuilt.bindings}
    tables = [b for b in rebuilt.bindings if b.name.endswith(("embedding.weight", "_query"))]
    arrays |= {b.name: RNG.standard_normal(b.shape) for b in tables}
    spec = tree.flatten(rebuilt.model.state())
    return arrays | {b.name: spec[b.path].initializer(RNG, b.shape) for b in rebuilt.state}


def outputs(rebuilt: Rebuilt, inputs: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
    return run(rebuilt, weights(rebuilt), inputs, options).outputs


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # torch builds the second one in float32: angles up to pi * 3 are rounded by 5e-7
    [("fourier_position_encoding", 1e-12), ("fourier_position_encoding_float32", 1e-6)],
)
def test_the_stored_fourier_buffer_is_our_encoding_of_the_grid(name: str, tolerance: float) -> None:
    case = read_case(FOLDER / f"{name}.npz")
    grid = tuple(case.meta["config"]["input_shape"])
    ours = fourier(grid, case.meta["config"]["num_frequency_bands"]).apply({}, grid, like=np.zeros(()))
    assert np.abs(ours - case.outputs["out"]).max() < tolerance


def test_a_stored_buffer_is_used_as_it_is() -> None:
    image = model("ImageClassifier", {**ENCODER, "image_shape": [2, 3, 1], "num_frequency_bands": 2}, {})
    arrays, x = weights(image), {"x": RNG.standard_normal((1, 2, 3, 1))}
    name = "0.input_adapter.position_encoding.position_encoding"
    assert name not in {b.name for b in image.bindings}  # no parameter
    moved = {**arrays, name: arrays[name] + 0.1}
    a, b = (run(image, which, x, {}).outputs["out"] for which in (arrays, moved))
    assert not np.allclose(a, b)
    assert isinstance(image.model.preprocessor.positions, FourierPositions)
    computed = image.model.apply(image.load(arrays, "")[0], x["x"])  # without a state: the same, computed
    assert np.abs(computed - a).max() < 1e-12


@pytest.mark.parametrize(("channels", "expected"), [(4, [0, 0.5]), (3, [0, 2 / 3]), (5, [0, 0.4, 0.8])])
def test_an_odd_number_of_channels_turns_one_more(channels: int, expected: list[float]) -> None:
    assert inverse_frequencies(channels) == pytest.approx([10_000.0**-e for e in expected], rel=1e-14)


@pytest.mark.parametrize(("absolute", "count"), [(True, 1), (False, 2)])
def test_added_positions_leave_half_of_the_channels_unturned(absolute: bool, count: int) -> None:
    rebuilt = rebuild("CausalSequenceModel", {**CAUSAL, "abs_pos_emb": absolute})
    assert len(rebuilt.model.cross_rotary.frequencies) == count  # of heads of 4 channels, 2 a pair
    names = {b.name for b in rebuilt.bindings}
    assert ("input_adapter.pos_embedding.weight" in names) == absolute


@pytest.mark.parametrize(("layers", "turning"), [(None, [True, False]), (-1, [True, True]), (2, [True, True])])
def test_the_first_self_attention_turns_unless_more_are_to(layers: int | None, turning: list[bool]) -> None:
    config = CAUSAL if layers is None else {**CAUSAL, "num_self_attention_rotary_layers": layers}
    rebuilt = rebuild("CausalSequenceModel", config)
    assert [rebuilt.model.self_attentions[i].rotary is not None for i in range(2)] == turning


def test_masks_are_true_where_there_is_padding() -> None:
    text = model("TextClassifier", TEXT, {"num_output_query_channels": 4, "num_classes": 3})
    arrays = weights(text)
    ids = np.array([[1, 2, 3, 4]])

    def logits(last: int, padded: bool) -> np.ndarray:
        x = {"x": np.where(np.arange(4) == 3, last, ids), "pad_mask": np.array([[False] * 3 + [padded]])}
        return run(text, arrays, x, {}).outputs["out"]

    assert np.array_equal(logits(4, True), logits(5, True))
    assert not np.allclose(logits(4, False), logits(5, False))


def test_padding_among_the_latents_is_seen_by_later_ones() -> None:
    """The padding mask is for cross-attention alone."""
    causal = rebuild("CausalSequenceModel", CAUSAL)
    arrays = weights(causal)
    pad = np.array([[True, True, True, False]])

    def last(token: int) -> np.ndarray:
        x = {"x": np.array([[1, 2, token, 4]]), "pad_mask": pad}
        return run(causal, arrays, x, {"prefix_len": 1}).outputs["logits"][:, -1]

    assert not np.allclose(last(3), last(5))


def test_more_latents_than_max_latents_are_computed_but_no_longer_prefix() -> None:
    causal = rebuild("CausalSequenceModel", CAUSAL)
    ids = {"x": RNG.integers(0, 7, (1, 8))}
    assert outputs(causal, ids, prefix_len=0)["logits"].shape == (1, 8, 7)
    with pytest.raises(pr.InputError, match=re.escape("prefix_len (4) must be at most max_seq_len - max_latents (3)")):
        outputs(causal, ids, prefix_len=4)


def test_a_sequence_continues_from_its_cache_in_any_number_of_steps() -> None:
    causal = rebuild("CausalLanguageModel", CAUSAL)
    arrays, ids = weights(causal), RNG.integers(0, 7, (2, 7))
    pad = np.arange(7)[None] < np.array([[0], [2]])
    whole = run(causal, arrays, {"x": ids, "pad_mask": pad}, {"prefix_len": 3}).outputs["logits"]
    parts = {"x_1": ids[:, :4], "x_2": ids[:, 4:6], "x_3": ids[:, 6:]}
    masks = {"pad_mask_1": pad[:, :4], "pad_mask_2": pad[:, :6], "pad_mask_3": pad}  # of all tokens so far
    made = run(causal, arrays, parts | masks, {"prefix_len": 3, "method": "kv_cache"}).outputs
    logits = np.concatenate([made[f"logits_{i}"] for i in (1, 2, 3)], 1)
    assert np.abs(logits - whole).max() < 1e-12


def test_optical_flow_attends_as_wide_as_its_inputs_whichever_width_is_given() -> None:
    own = {**ENCODER, "image_shape": [2, 3], "num_patch_input_channels": 2, "num_patch_hidden_channels": 3}
    given = {"image_shape": [2, 3], "num_cross_attention_qk_channels": 2}
    inputs = 3 + 2 * (2 * 1 + 1)
    for widths, expected in ({}, (inputs, inputs)), ({"qk": 4}, (4, inputs)), ({"v": 4}, (inputs, 4)):
        options = {f"num_cross_attention_{kind}_channels": n for kind, n in widths.items()}
        flow = model("OpticalFlow", {**own, "num_frequency_bands": 1, **options}, given)
        assert (flow.model.encoder.qk_channels, flow.model.encoder.v_channels) == expected


def test_attention_is_as_wide_as_its_queries_unless_it_says_otherwise() -> None:
    given = {**TEXT, "num_self_attention_qk_channels": 6}
    coded = model("TextClassifier", given, {"num_output_query_channels": 4}).model.encoder
    assert isinstance(coded, Encoder)
    cross, own = coded.cross_attention.parameters(), coded.self_attention.parameters()
    assert cross["attention"]["value"]["weight"].shape == (4, 4)  # latents have 4 channels
    assert own["attention"]["value"]["weight"].shape == (4, 6)
    assert own["attention"]["output"]["weight"].shape == (6, 4)


@pytest.mark.parametrize(("queries", "shape"), [(1, (1, 3)), (2, (1, 2, 3))])
def test_several_output_queries_keep_their_axis(queries: int, shape: tuple[int, ...]) -> None:
    own = {"num_output_queries": queries, "num_output_query_channels": 4, "num_classes": 3}
    assert outputs(model("TextClassifier", TEXT, own), {"x": np.array([[1, 2]])})["out"].shape == shape


def test_dialects() -> None:
    assert DIALECTS["krasserm"].activation == "gelu_erf"
    assert DIALECTS["krasserm"].masked_rows == "uniform"
    autoregressive = AUTOREGRESSIVE_DIALECTS["krasserm"]
    assert (autoregressive.qkv_bias, autoregressive.output_bias, autoregressive.mlp_bias) == (False, True, False)


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        ("Perceiver", {}, "unknown class of peer krasserm 'Perceiver'"),
        (
            "CausalSequenceModel",
            {"vocab": 3},
            "option of CausalSequenceModel 'vocab'; did you mean 'vocab_size'",
        ),
        ("CausalSequenceModel", {**CAUSAL, "num_heads": 3}, "num_channels (8) must be divisible by num_heads (3)"),
        ("PerceiverEncoder", {"num_latents": 3}, "PerceiverEncoder needs the option"),
        (
            "PerceiverEncoder",
            {"num_latents": 3, "num_latent_channels": 4, "num_input_channels": 4, "num_cross_attention_layers": 2},
            "num_cross_attention_layers must be from 1 to num_self_attention_blocks (1)",
        ),
        (
            "MaskedLanguageModel",
            {"num_latents": 3, "num_latent_channels": 8, "encoder": {**TEXT}, "decoder": {"vocab_size": 8}},
            "tied logits need one vocabulary, got 7 and 8",
        ),
        (
            "MultiHeadAttention",
            {"num_heads": 3, "num_q_input_channels": 4, "num_kv_input_channels": 4},
            "qk_channels (4) must be divisible by the number of heads (3)",
        ),
    ],
)
def test_what_cannot_be_rebuilt_is_an_input_error(cls: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)):
        rebuild(cls, config)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"x": np.zeros((1, 3), int)}, {}, "needs the option 'prefix_len'"),
        ({"x": np.zeros((1, 3), int)}, {"prefix_len": 3}, "less than 3 tokens, got 3"),
        ({"x": np.full((1, 3), 7)}, {"prefix_len": 0}, "must be in [0, 7), got 7 to 7"),
        ({"x": np.zeros((1, 9), int)}, {"prefix_len": 3}, "has 9 tokens, but the model was made for at most 8"),
        ({"ids": np.zeros((1, 3), int)}, {"prefix_len": 0}, "unknown argument of CausalSequenceModel 'ids'"),
        ({"x": np.zeros((1, 3), int)}, {"prefix_len": 0, "method": "cache"}, "Known: forward, kv_cache"),
    ],
)
def test_calls_that_cannot_be_made_are_input_errors(
    inputs: dict[str, np.ndarray], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)):
        outputs(rebuild("CausalSequenceModel", CAUSAL), inputs, **options)


def test_released_sizes() -> None:
    """Of the model for GiantMIDI, and of the default one: what PyTorch counts."""
    midi = {"vocab_size": 389, "max_seq_len": 6144, "max_latents": 2048, "num_channels": 768}
    midi |= {"num_self_attention_layers": 18, "output_norm": True, "output_bias": False, "abs_pos_emb": False}
    assert rebuild("SymbolicAudioModel", midi).model.count() == 134_840_832
    assert rebuild("CausalLanguageModel", {}).model.count() == 30_563_078
