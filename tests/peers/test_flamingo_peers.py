"""What only flamingo-pytorch, open_flamingo, IDEFICS and Idefics2 do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from peers.runs import out, ran, rebuilt
from porting.cases import case_of
from support import assert_close, normal

import perceiver_ref as pr
from perceiver_ref.models.conventions import FLAMINGO
from perceiver_ref.models.flamingo import media_mask, preceding
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.cases.execution import Arrays

MASKED = ("lucidrains-flamingo", "open-flamingo")
of_both = pytest.mark.parametrize("name", MASKED)


def average(params: Arrays, media: np.ndarray) -> np.ndarray:
    """What flamingo-pytorch's attention gives when all weights are equal: (B, D)."""
    values = params["attn.to_kv.weight"][params["attn.to_kv.weight"].shape[0] // 2 :]
    flat = media.reshape(media.shape[0], -1, media.shape[-1])
    return (flat @ values.T).mean(1) @ params["attn.to_out.weight"].T


def paper(case: Case, which: Any, **inputs: np.ndarray) -> Arrays:
    """The same weights and inputs in the paper's conventions: its trace."""
    made = rebuilt(case)
    params, _ = made.load(case.params, "the case")
    media = inputs["media"]
    mask = media_mask(preceding(inputs["locations"]), media=media.shape[1], tokens=media.shape[2], which=which)
    with pr.trace() as t:
        replace(made.model, conventions=replace(FLAMINGO, activation="gelu_erf")).apply(
            params, inputs["x"], media, mask=mask
        )
    return dict(t)


# Text that matches no medium.


@of_both
def test_text_after_more_tags_than_media_averages_all_media_and_gets_zeros_in_the_paper(
    backend: str, name: str
) -> None:
    case = case_of(f"{name}/gated_immediate")
    x, media = case.inputs["x"], case.inputs["media"][:, :2]
    locations = np.zeros(x.shape[:2], bool)
    locations[:, [1, 2, 4]] = True
    seen = ran(case, backend, media=media, media_locations=locations).trace["attention_seen"]
    for late in range(4, x.shape[1]):
        assert_close(seen[:, late], average(case.params, media))
    assert not seen[:, 0].any()  # before the first medium
    in_paper = paper(case, "immediate", x=x, media=media, locations=locations)["attention"]
    assert not in_paper[:, 4:].any()
    assert in_paper[:, 1:4].any(-1).all()


@of_both
def test_text_before_the_first_medium_averages_all_media_when_all_are_attended_to(backend: str, name: str) -> None:
    case = case_of(f"{name}/gated_all")
    x, media = case.inputs["x"], case.inputs["media"]
    locations = np.zeros(x.shape[:2], bool)
    locations[:, 3] = True
    attended = ran(case, backend, media_locations=locations).trace["attention"]
    for early in range(3):
        assert_close(attended[:, early], average(case.params, media))
    in_paper = paper(case, "all", x=x, media=media, locations=locations)["attention"]
    assert not in_paper[:, :3].any()
    assert in_paper[:, 3:].any(-1).all()


@of_both
def test_the_mlp_runs_for_text_without_media(backend: str, name: str) -> None:
    case = case_of(f"{name}/gated_immediate")
    made = ran(case, backend, media_locations=np.zeros(case.inputs["x"].shape[:2], bool))
    assert np.array_equal(made.trace["attention_residual"], case.inputs["x"])
    assert made.trace["mlp_gated"].any(-1).all()


@of_both
@pytest.mark.parametrize("dtype", ["int64", "uint8", "float64"])
def test_locations_may_be_numbers(backend: str, name: str, dtype: str) -> None:
    case = case_of(f"{name}/gated_immediate")
    numbers = case.inputs["media_locations"].astype(dtype)
    assert np.array_equal(out(case, backend, media_locations=numbers), out(case, backend))


@of_both
def test_one_row_of_locations_serves_the_whole_batch(backend: str, name: str) -> None:
    case = case_of(f"{name}/gated_immediate")
    row = case.inputs["media_locations"][:1]
    repeated = row.repeat(len(case.inputs["x"]), 0)
    assert np.array_equal(out(case, backend, media_locations=row), out(case, backend, media_locations=repeated))


# Cached media of open_flamingo.


@pytest.mark.parametrize("which", ["immediate", "all"])
def test_cached_media_give_new_tokens_what_the_whole_text_gives_them(backend: str, which: str) -> None:
    case = case_of(f"open-flamingo/gated_cached_{which}")
    x, earlier = case.inputs["x"], case.inputs["media_locations"]
    length, new = earlier.shape[1], x.shape[1]
    prompt = normal(3, len(x), length, x.shape[-1])
    everything = {
        "x": np.concatenate([prompt, x], 1),
        "media_locations": np.pad(earlier, ((0, 0), (0, new))),
    }
    assert case.meta["call"]["use_cached_media"]
    whole = out(case, backend, {"use_cached_media": False}, **everything)
    assert_close(out(case, backend), whole[:, length:])


def test_cached_media_without_locations_are_all_attended_to(backend: str) -> None:
    case = case_of("open-flamingo/gated_cached_immediate")
    free = ran(case, backend, media_locations=None)
    assert (free.trace["attention.weights"] > 0).all()


# Embeddings of media and frames.


def test_a_medium_may_come_without_its_axis(backend: str) -> None:
    case = case_of("lucidrains-flamingo/resampler_3d")
    x = case.inputs["x"]
    assert x.ndim == 3
    assert np.array_equal(out(case, backend), out(case, backend, x=x[:, None]))


def with_media_embeddings(case: Case, name: str, config: str, n: int) -> Case:
    case.params[name] = normal(1, n, *case.params[name].shape[1:])
    case.meta["config"][config] = n
    return case


def test_more_media_than_embeddings_are_refused(backend: str) -> None:
    case = with_media_embeddings(case_of("lucidrains-flamingo/resampler_4d"), "media_pos_emb", "num_media_embeds", 2)
    with pytest.raises(pr.InputError, match="there are 3 media, and embeddings for 2"):
        out(case, backend)


@pytest.mark.parametrize(
    ("name", "parameter", "option", "axis"),
    [
        ("lucidrains-flamingo/resampler_4d", "media_pos_emb", "num_media_embeds", 1),
        ("open-flamingo/resampler_embs", "media_time_embs", "max_num_media", 1),
        ("open-flamingo/resampler_embs", "frame_embs", "max_num_frames", 2),
    ],
)
def test_a_single_embedding_serves_all_places(backend: str, name: str, parameter: str, option: str, axis: int) -> None:
    """PyTorch broadcasts (1, D): the same as that embedding repeated for every place."""
    case = with_media_embeddings(case_of(name), parameter, option, 1)
    single, places = out(case, backend), case.inputs["x"].shape[axis]
    assert places > 1
    case.params[parameter] = case.params[parameter].repeat(places, 0)
    case.meta["config"][option] = places
    assert_close(single, out(case, backend))


def test_embeddings_of_frames_are_never_interpolated(backend: str) -> None:
    case = case_of("open-flamingo/resampler_embs")
    frames = case.meta["config"]["max_num_frames"]
    x = normal(2, 1, 1, frames + 1, 3, case.meta["config"]["dim"])
    with pytest.raises(pr.InputError, match=f"max_num_frames is {frames}: open_flamingo does not resize"):
        out(case, backend, x=x)
    made = rebuilt(case)
    params, _ = made.load(case.params, "the case")
    assert made.model.apply(params, x).shape == (1, 1, *case.params["latents"].shape)


def test_the_multiple_of_the_feed_forward_may_be_a_fraction() -> None:
    case = case_of("lucidrains-flamingo/gated_all")
    assert rebuilt(case, dim=10, ff_mult=2.59).model.hidden == 25  # int(dim * mult)


# FlamingoPaLM.


def test_text_alone_passes_no_gated_block(backend: str) -> None:
    case = case_of("lucidrains-flamingo/palm_images")
    made = ran(case, backend, images=None)
    assert not [name for name in made.trace if name.startswith(("gated", "resampler"))]
    assert np.abs(made.outputs["out"] - case.outputs["out"]).max() > 1e-3  # media move the logits


def test_the_embedding_may_be_there_twice_as_the_peer_stores_it(backend: str) -> None:
    case = case_of("lucidrains-flamingo/palm_images")
    case.params["to_logits.1.weight"] = case.params["token_emb.weight"]
    assert_close(out(case, backend), case.outputs["out"])


# IDEFICS.


def idefics(**changed: Any) -> tuple[Case, dict[str, np.ndarray]]:
    """The gated layer given its two masks, as the processor makes them."""
    case = case_of("idefics/gated_xattn_vector")
    made = case.outputs
    ready = {"image_index": None, **{n: made[n] for n in ("image_attention_mask", "cross_attention_gate")}}
    return case, {**ready, **changed}


def test_the_gate_closes_attention_but_not_the_mlp(backend: str) -> None:
    case, masks = idefics()
    made = ran(case, backend, {}, **masks)
    closed = case.outputs["cross_attention_gate"] == 0
    assert closed.any()
    assert not closed.all()
    assert (made.trace["attention"][closed] != 0).all()  # an average of all images,
    assert np.array_equal(made.trace["attention_residual"][closed], case.inputs["hidden_states"][closed])  # left out
    assert made.trace["mlp_gated"][closed].any(-1).all()
    assert_close(made.outputs["out"], out(case, backend))  # the same masks, made of each token's image


def test_without_an_attention_mask_text_attends_to_all_images(backend: str) -> None:
    gate = np.ones(case_of("idefics/gated_xattn_vector").inputs["hidden_states"].shape[:2])
    case, masks = idefics(image_attention_mask=None, cross_attention_gate=gate)
    made = ran(case, backend, {}, **masks)
    assert (made.trace["attention.weights"] > 0).all()
    zeros = np.zeros((len(gate), 1, gate.shape[1], case.inputs["image_hidden_states"].shape[1]))
    assert_close(made.outputs["out"], out(case, backend, {}, **{**masks, "image_attention_mask": zeros}))


def test_a_finite_mask_is_added_to_the_scores(backend: str) -> None:
    """log 2 for a token is as good as having that token twice."""
    case, masks = idefics()
    images = case.inputs["image_hidden_states"]
    text, tokens = case.inputs["hidden_states"].shape[:2], images.shape[1]
    masks["cross_attention_gate"] = np.ones(text)
    mask = np.zeros((text[0], 1, text[1], tokens))
    mask[..., 1] = np.log(2)
    twice = {**masks, "image_hidden_states": np.concatenate([images, images[:, 1:2]], 1), "image_attention_mask": None}
    assert_close(out(case, backend, {}, **{**masks, "image_attention_mask": mask}), out(case, backend, {}, **twice))


def test_a_mask_of_another_batch_size_or_of_one_row_is_broadcast(backend: str) -> None:
    case, masks = idefics()
    full = masks["image_attention_mask"][:1, :, -1:]
    same = np.broadcast_to(full, masks["image_attention_mask"].shape)
    few, many = (out(case, backend, {}, **{**masks, "image_attention_mask": m}) for m in (full, same))
    assert np.array_equal(few, many)


@pytest.mark.parametrize(("implementation", "dtype"), [("eager", "bool"), ("eager", "int32"), ("sdpa", "bool")])
def test_masks_that_are_no_numbers(backend: str, implementation: str, dtype: str) -> None:
    """Eager attention adds them; PyTorch's fused one attends where a bool is True, and gives zeros where none is."""
    case, masks = idefics()
    case.meta["config"]["attn_implementation"] = implementation
    given = masks["image_attention_mask"] == 0
    given[:, :, 0], given[:, :, 1] = False, True
    masks["cross_attention_gate"] = np.ones(given.shape[::2])
    added = given.astype(float) if implementation == "eager" else np.where(given, 0.0, np.finfo(float).min)
    made = ran(case, backend, {}, **{**masks, "image_attention_mask": given.astype(dtype)}).trace["attention"]
    same = ran(case, backend, {}, **{**masks, "image_attention_mask": added}).trace["attention"]
    if implementation == "sdpa":
        empty = ~given.any(-1)[:, 0]
        assert not made[empty].any()
        assert same[empty].any(-1).all()
        made, same = made[~empty], same[~empty]
    assert_close(made, same)


def test_the_mlp_is_four_times_as_wide_as_the_vision_encoder() -> None:
    case = case_of("idefics/resampler_plain")
    assert rebuilt(case).model.hidden == 4 * 18
    assert rebuilt(case, vision_config={"hidden_size": 18}).model.hidden == 4 * 18
    with pytest.raises(pr.InputError, match=r"embed_dim \(18\) must be the width of the vision encoder \(20\)"):
        rebuilt(case, vision_config={"embed_dim": 20})


def test_head_norms_may_be_asked_for_in_the_configuration_of_the_whole_model() -> None:
    case = case_of("idefics/resampler_plain")
    del case.meta["config"]["qk_layer_norms"]
    assert not rebuilt(case).model.qk_norm
    assert rebuilt(case, config={"perceiver_config": {"qk_layer_norms_perceiver": True}}).model.qk_norm


# Idefics2.


def test_query_heads_share_heads_of_keys_and_values(backend: str) -> None:
    case = case_of("idefics2/resampler_gqa")
    shared = out(case, backend)
    heads, kv_heads, width = 4, 2, case.meta["config"]["resampler_head_dim"]
    for name, weight in case.params.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            by_head = weight.reshape(kv_heads, width, -1).repeat(heads // kv_heads, 0)
            case.params[name] = by_head.reshape(heads * width, -1)
    case.meta["config"]["num_key_value_heads"] = heads
    assert_close(out(case, backend), shared)


@pytest.mark.parametrize("dtype", ["bool", "int32", "float64"])
def test_the_padding_mask_may_be_of_any_type(backend: str, dtype: str) -> None:
    case = case_of("idefics2/resampler_gqa")
    mask = case.inputs["attention_mask"]
    assert np.array_equal(out(case, backend, attention_mask=mask.astype(dtype)), out(case, backend))


def test_latents_attend_to_themselves_where_all_is_padding(backend: str) -> None:
    case = case_of("idefics2/resampler_gqa")
    context, mask = case.inputs["context"].copy(), case.inputs["attention_mask"].copy()
    mask[1] = 0
    some = ran(case, backend, attention_mask=mask)
    weights = some.trace["resampler.layers.0.attention.weights"][1]
    assert not weights[..., : mask.shape[1]].any()
    context[1] = normal(9, *context.shape[1:])
    assert np.array_equal(some.outputs["out"], out(case, backend, context=context, attention_mask=mask))


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"])
@pytest.mark.parametrize("case", ["idefics2/resampler_gqa", "idefics/gated_xattn_float"])
def test_activations_by_their_names_in_transformers(case: str, name: str) -> None:
    made = rebuilt(case_of(case), hidden_act=name).model.conventions.activation
    assert made == {"gelu": "gelu_erf", "relu": "relu", "silu": "silu", "swish": "silu"}.get(name, "gelu_tanh")
