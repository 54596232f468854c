"""What only transformers' Evolla and Llama 3.2 Vision do."""

from __future__ import annotations

import numpy as np
import pytest
from peers.runs import out, ran
from porting.cases import case_of
from support import assert_close

ENCODERS = ("protein", "structure")


def test_masked_scores_are_a_constant_below_the_largest_of_all(backend: str) -> None:
    """Where the padding's scores are more than 1e4 above all others, the others are masked harder than the padding."""
    case = case_of("evolla/resampler")
    case.inputs["mask"][:] = 1
    case.inputs["mask"][:, -1] = 0
    usual = ran(case, backend).trace["layers.0.attention.weights"]
    assert not usual[..., 7].any()  # exp(-1e4) is 0
    case.params["layers.0.0.to_q.weight"] *= 1e6
    strange = ran(case, backend).trace["layers.0.attention.weights"]
    assert (strange[..., 7] == 1).any()


@pytest.mark.parametrize("dtype", ["bool", "float64"])
def test_only_a_mask_of_exactly_one_lets_a_protein_token_in(backend: str, dtype: str) -> None:
    case = case_of("evolla/resampler")
    same = out(case, backend, mask=case.inputs["mask"].astype(dtype))
    assert np.array_equal(same, out(case, backend))
    halves = np.where(case.inputs["mask"] == 1, 1.0, 0.5)
    assert np.array_equal(out(case, backend, mask=halves), out(case, backend))


def test_scores_of_the_aligner_are_scaled_by_the_number_of_heads(backend: str) -> None:
    case = case_of("evolla/aligner_gated_xattn")
    trace, (batch, _, width) = ran(case, backend).trace, case.inputs["query_states"].shape
    heads = case.meta["config"]["num_attention_heads"]
    keys = np.concatenate([trace["attention.key"], trace["attention.key@1"]], 1)
    q, k = (x.reshape(batch, -1, heads, width // heads) for x in (trace["attention.query"], keys))
    scores = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(heads)
    masks = np.concatenate([case.inputs["protein_kv_attn_mask"], case.inputs["structure_kv_attn_mask"]], 1)
    attend = (case.inputs["query_attn_mask"][..., None] * masks[:, None])[:, None] == 1
    filled = np.where(attend, scores, np.where(attend.any(-1, keepdims=True), -np.inf, 0))  # no key: uniform
    weights = np.exp(filled - filled.max(-1, keepdims=True))
    assert_close(trace["attention.weights"], weights / weights.sum(-1, keepdims=True))
    assert not attend.any(-1).all()


def test_the_aligner_is_left_out_where_the_batch_has_nothing_to_attend_to(backend: str) -> None:
    case = case_of("evolla/aligner_gated_xattn")
    nothing = {f"{name}_kv_attn_mask": np.zeros_like(case.inputs[f"{name}_kv_attn_mask"]) for name in ENCODERS}
    assert np.array_equal(out(case, backend, **nothing), case.inputs["query_states"])
    nothing["protein_kv_attn_mask"][0, 0] = 1  # a single token of one item switches it on for all
    assert (out(case, backend, **nothing) != case.inputs["query_states"]).any(-1).all()


@pytest.mark.parametrize("dtype", ["bool", "int64", "float64"])
def test_a_mask_of_the_batch_stands_for_one_of_its_tokens(backend: str, dtype: str) -> None:
    case = case_of("evolla/aligner_gated_xattn")
    items = {f"{name}_batch_mask": np.array([1, 0]).astype(dtype) for name in ENCODERS}
    absent = {f"{name}_kv_attn_mask": None for name in ENCODERS}
    tokens = {name: np.zeros_like(case.inputs[name]) for name in absent}
    for mask in tokens.values():
        mask[0] = 1
    assert np.array_equal(out(case, backend, **items, **absent), out(case, backend, **tokens))


def test_all_text_attends_without_a_mask_of_the_queries(backend: str) -> None:
    case = case_of("evolla/aligner_gated_xattn")
    ones = np.ones_like(case.inputs["query_attn_mask"])
    assert np.array_equal(out(case, backend, query_attn_mask=None), out(case, backend, query_attn_mask=ones))


# Llama 3.2 Vision.


def test_text_without_images_attends_to_every_vision_token_and_skips_its_mlp(backend: str) -> None:
    case = case_of("mllama/cross_attention_layer")
    made = ran(case, backend)
    without = case.inputs["raw_cross_attention_mask"].sum((2, 3)) == 0
    assert without.any()
    assert not without.all()
    assert (made.trace["attention.weights"].transpose(0, 2, 1, 3)[without] > 0).all()
    assert made.trace["attention_gated"][without].any(-1).all()
    assert not made.trace["mlp_gated"][without].any()
    assert made.trace["mlp_gated"][~without].any(-1).all()


def test_ready_masks_are_as_good_as_those_made_of_tiles(backend: str) -> None:
    case = case_of("mllama/cross_attention_layer")
    rows = case.outputs["full_text_row_masked_out_mask"]
    ready = {"cross_attention_mask": case.outputs["prepared_mask"], "full_text_row_masked_out_mask": rows}
    assert_close(out(case, backend, {}, raw_cross_attention_mask=None, **ready), out(case, backend))


def test_without_masks_all_is_attended_to_and_every_mlp_runs(backend: str) -> None:
    case = case_of("mllama/cross_attention_layer")
    ones = np.ones_like(case.inputs["raw_cross_attention_mask"])
    free = out(case, backend, raw_cross_attention_mask=None)
    assert_close(free, out(case, backend, raw_cross_attention_mask=ones))


def test_vision_tokens_may_have_axes_of_images_and_tiles(backend: str) -> None:
    case = case_of("mllama/cross_attention_layer")
    states = case.inputs["cross_attention_states"]
    by_tile = states.reshape(2, 2, 2, 3, -1)
    assert np.array_equal(out(case, backend, cross_attention_states=by_tile), out(case, backend))
