"""What the Flamingo-like peers cannot be given: each is one clear line, and exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke
from porting.cases import case_of

from perceiver_ref.porting.cases import Case, write_case


def drop(name: str) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        del case.inputs[name]
        case.grad_inputs.pop(name, None)

    return spoil


def put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Case], None]:
    return lambda case: case.inputs.update({name: change(case.inputs[name])})


def config(**changed: Any) -> Callable[[Case], None]:
    return lambda case: case.meta["config"].update(changed)


def unset(name: str) -> Callable[[Case], None]:
    return lambda case: case.meta["config"].pop(name)


def call(**changed: Any) -> Callable[[Case], None]:
    return lambda case: case.meta["call"].update(changed)


def ready(implementation: str | None = "eager", /, **masks: Any) -> Callable[[Case], None]:
    """IDEFICS with masks in place of `image_index`."""

    def spoil(case: Case) -> None:
        case.meta["config"]["attn_implementation"] = implementation
        case.inputs.pop("image_index")
        names = ("image_attention_mask", "cross_attention_gate")
        case.inputs |= {name: case.outputs[name] for name in names} | masks

    return spoil


def fewer_frames(case: Case) -> None:
    case.meta["config"]["max_video_frames"] = 2
    case.params["video_frame_pos_emb"] = case.params["video_frame_pos_emb"].repeat(2, 0)


REFUSED = {
    "lucidrains-flamingo/resampler_4d": [
        (drop("x"), "PerceiverResampler needs the argument 'x'"),
        (put("x", lambda x: x[0, 0]), "x must be (batch, tokens, dim) or (batch, media, tokens, dim), got"),
        (put("x", lambda x: x[..., None]), "x must be (batch, tokens, dim)"),
        (put("x", lambda x: x[..., 1:]), "features must be"),
        (put("x", lambda x: x[:, :, :0]), "hold no tokens"),
        (unset("dim"), "PerceiverResampler needs the option 'dim'"),
        (unset("depth"), "PerceiverResampler needs the option 'depth'"),
        (config(dim="16"), "option 'dim' of PerceiverResampler must be a whole number, got '16'"),
        (config(depth=-1), "option 'depth' of PerceiverResampler must not be negative, got -1"),
        (config(heads=0), "heads"),
        (config(num_latent=3), "unknown option of PerceiverResampler 'num_latent'; did you mean 'num_latents'?"),
        (config(num_latents=2.5), "option 'num_latents' of PerceiverResampler must be a whole number"),
        (config(ff_mult="wide"), "option 'ff_mult' of PerceiverResampler must be a number, got 'wide'"),
        (config(ff_mult=True), "option 'ff_mult' of PerceiverResampler must be a number, got True"),
        (config(num_media_embeds=0), "media must be at least 1"),
    ],
    "lucidrains-flamingo/gated_immediate": [
        (drop("x"), "GatedCrossAttentionBlock needs the argument 'x'"),
        (drop("media"), "GatedCrossAttentionBlock needs the argument 'media'"),
        (put("x", lambda x: x[0]), "x must be (batch, tokens, dim), got"),
        (put("x", lambda x: x[:1]), "media_locations must be (1, 9), got (2, 9)"),
        (put("media", lambda m: m[:, 0]), "media must be (batch, media, tokens, dim), got"),
        (put("media", lambda m: m[:1]), "there are 2 texts and media for 1"),
        (put("media", lambda m: m[:, :0]), "there is no medium to attend to"),
        (put("media", lambda m: m[..., 1:]), "media must be"),
        (put("media_locations", lambda m: m[:, 1:]), "media_locations must be (2, 9), got (2, 8)"),
        (put("media_locations", lambda m: m[0]), "media_locations must be (2, 9), got (9,)"),
        (config(only_attend_immediate_media=1), "must be true or false, got 1"),
        (call(use_cached_media=True), "unknown option of GatedCrossAttentionBlock 'use_cached_media'"),
    ],
    "lucidrains-flamingo/palm_videos_all": [
        (drop("text"), "FlamingoPaLM needs the argument 'text'"),
        (put("text", lambda t: t[0]), "text must be (batch, tokens), got"),
        (put("videos", lambda v: v[0]), "videos must be (batch, media, frames, tokens, dim), got"),
        (fewer_frames, "videos of 3 frames need max_video_frames, which is 2"),
        (config(dim_head=3), "dim_head must be even, since rotary embedding turns pairs of channels; got 3"),
        (config(cross_attn_every=0), "cross_attn_every must be a whole number above 0, got 0"),
        (unset("num_tokens"), "FlamingoPaLM needs the option 'num_tokens'"),
        (config(max_frames=3), "unknown option of FlamingoPaLM 'max_frames'"),
    ],
    "open-flamingo/resampler_embs": [
        (drop("x"), "PerceiverResampler needs the argument 'x'"),
        (put("x", lambda x: x[:, 0]), "x must be (batch, media, frames, tokens, dim), got"),
        (unset("dim"), "PerceiverResampler needs the option 'dim'"),
        (config(max_num_media=2), "media_time_embs"),
        (config(max_num_frames="3"), "option 'max_num_frames' of PerceiverResampler must be a whole number"),
    ],
    "open-flamingo/gated_immediate": [
        (unset("dim_visual"), "GatedCrossAttentionBlock needs the option 'dim_visual'"),
        (
            drop("media_locations"),
            "GatedCrossAttentionBlock needs the argument 'media_locations', but for cached media",
        ),
        (call(use_cached_media=1), "must be true or false"),
    ],
    "open-flamingo/gated_cached_all": [
        (put("media_locations", lambda m: m[:2]), "media_locations must be (3, earlier tokens), got (2, 7)"),
    ],
    "idefics/resampler_plain": [
        (drop("context"), "IdeficsPerceiverResampler needs the argument 'context'"),
        (put("context", lambda c: c[0]), "context must be (batch, tokens, dim), got"),
        (unset("n_heads"), "IdeficsPerceiverResampler needs the option 'n_heads'"),
        (config(qk_layer_norms="yes"), "option 'qk_layer_norms' of IdeficsPerceiverResampler must be true or false"),
        (config(vision_config={"embed_dim": "18"}), "option 'embed_dim' of vision_config must be a whole number"),
        (config(config={"vision": {}}), "unknown option of IdeficsConfig 'vision'; did you mean 'vision_config'?"),
    ],
    "idefics/gated_xattn_vector": [
        (drop("hidden_states"), "IdeficsGatedCrossAttentionLayer needs the argument 'hidden_states'"),
        (drop("image_hidden_states"), "IdeficsGatedCrossAttentionLayer needs the argument 'image_hidden_states'"),
        (drop("image_index"), "IdeficsGatedCrossAttentionLayer needs the argument 'cross_attention_gate'"),
        (put("hidden_states", lambda h: h[0]), "hidden_states must be (batch, tokens, channels), got"),
        (put("image_hidden_states", lambda h: h[0]), "image_hidden_states must be (batch, tokens, channels), got"),
        (put("image_index", lambda i: i[:, 1:]), "image_index must be (2, 9), got (2, 8)"),
        (call(tokens_per_image=0), "tokens_per_image must be a whole number above 0, got 0"),
        (call(tokens_per_image=None), "tokens_per_image must be a whole number above 0, got None"),
        (call(tokens=3), "unknown option of IdeficsGatedCrossAttentionLayer 'tokens'"),
        (config(alpha_type="matrix"), "unknown alpha_type 'matrix'"),
        (config(hidden_act="geloo"), "unknown hidden_act 'geloo'"),
        (config(num_attention_heads=3), "must be divisible by the number of heads (3)"),
        (ready(cross_attention_gate=np.ones(9)), "cross_attention_gate must be (2, 9), got (9,)"),
        (ready(image_attention_mask=np.zeros((2, 9, 6))), "image_attention_mask must be floating-point numbers to add"),
        (ready("sdpa", image_attention_mask=np.ones((2, 1, 9, 6), int)), "got int64 of (2, 1, 9, 6)"),
        (ready(None, image_attention_mask=np.ones((2, 1, 9, 6), bool)), "got bool of (2, 1, 9, 6)"),
        (ready(image_attention_mask=np.zeros((2, 1, 9, 5))), "of shape (2, 1, 9, 6), got float64 of (2, 1, 9, 5)"),
    ],
    "idefics2/resampler_gqa": [
        (drop("context"), "Idefics2PerceiverResampler needs the argument 'context'"),
        (drop("attention_mask"), "Idefics2PerceiverResampler needs the argument 'attention_mask'"),
        (put("context", lambda c: c[:, None]), "got (3, 1, 9, 16)"),
        (put("attention_mask", lambda m: m[:, 1:]), "attention_mask must be (3, 9), got (3, 8)"),
        (put("attention_mask", lambda m: m[:, None]), "attention_mask must be (3, 9), got (3, 1, 9)"),
        (config(num_key_value_heads=3), "heads (4) must be divisible by kv_heads (3)"),
        (config(num_key_value_heads=0), "kv_heads"),
        (config(n_latents=3), "unknown option of Idefics2PerceiverConfig 'n_latents'"),
        (config(rms_norm_eps="small"), "option 'rms_norm_eps' of Idefics2PerceiverConfig must be a number"),
    ],
    "evolla/resampler": [
        (drop("embeds"), "EvollaSequenceCompressorResampler needs the argument 'embeds'"),
        (drop("mask"), "EvollaSequenceCompressorResampler needs the argument 'mask'"),
        (put("embeds", lambda x: x[0]), "embeds must be (batch, tokens, channels), got (8, 14)"),
        (put("mask", lambda m: m[:, 1:]), "mask must be (3, 8), got (3, 7)"),
        (config(resampler_heads=0), "heads"),
        (config(resampler_depth=1.5), "option 'resampler_depth' of EvollaConfig must be a whole number"),
        (config(protein_encoder_config={"hidden_size": 0}), "'hidden_size' of protein_encoder_config"),
        (config(resampler_latents=3), "unknown option of EvollaConfig 'resampler_latents'"),
    ],
    "evolla/aligner_gated_xattn": [
        (drop("query_states"), "EvollaSequenceAlignerCrossAttention needs the argument 'query_states'"),
        (drop("protein_kv_states"), "EvollaSequenceAlignerCrossAttention needs the argument 'protein_kv_states'"),
        (drop("protein_kv_attn_mask"), "needs the argument 'protein_kv_attn_mask' or 'protein_batch_mask'"),
        (put("query_states", lambda x: x[0]), "query_states must be (batch, tokens, channels)"),
        (put("query_states", lambda x: x[:1]), "there are 1 texts, and states for 2"),
        (put("protein_kv_states", lambda x: x[0]), "protein_kv_states must be (batch, tokens, channels)"),
        (put("structure_kv_attn_mask", lambda m: m[:, 1:]), "structure_kv_attn_mask must be (2, 4), got (2, 3)"),
        (put("query_attn_mask", lambda m: m[:, 1:]), "query_attn_mask must be (2, 6), got (2, 5)"),
        (config(structure_encoder_dim=None), "unused: key_structure.bias"),
        (config(structure_encoder_dim=None, protein_encoder_dim=None), "needs one of the options protein_encoder_dim"),
        (config(num_attention_heads=4), "must be divisible by the number of heads (4)"),
        (config(num_attention_heads=0), "num_attention_heads must be a whole number above 0, got 0"),
        (config(aligner_enable_bias="no"), "option 'aligner_enable_bias' of EvollaConfig must be true or false"),
    ],
    "mllama/cross_attention_layer": [
        (drop("hidden_states"), "MllamaCrossAttentionDecoderLayer needs the argument 'hidden_states'"),
        (drop("cross_attention_states"), "needs the argument 'cross_attention_states'"),
        (put("hidden_states", lambda x: x[0]), "hidden_states must be (batch, tokens, channels), got (7, 24)"),
        (put("cross_attention_states", lambda x: x[..., 1:]), "media must be (batch, media, tokens, 24)"),
        (
            put("cross_attention_states", lambda x: x[:, :0]),
            "must be (2, vision tokens, channels)",
        ),
        (put("raw_cross_attention_mask", lambda m: m[:, 1:]), "got int64 of (2, 6, 2, 2)"),
        (put("raw_cross_attention_mask", lambda m: m[..., 0]), "must be (batch, text, images, tiles), got (2, 7, 2)"),
        (put("raw_cross_attention_mask", lambda m: m == 1), "got bool of (2, 7, 2, 2)"),
        (call(num_vision_tokens=4), "(2, 7, 12) with num_vision_tokens (4) to a tile"),
        (call(num_vision_tokens=None), "num_vision_tokens must be a whole number above 0, got None"),
        (call(num_vision_tokens="3"), "option 'num_vision_tokens' of MllamaCrossAttentionDecoderLayer must be"),
        (config(num_key_value_heads=4), "heads (6) must be divisible by kv_heads (4)"),
        (config(num_attention_heads=0), "num_attention_heads must be a whole number above 0, got 0"),
        (config(intermediate_size="15"), "option 'intermediate_size' of MllamaTextConfig must be a whole number"),
    ],
}


@pytest.mark.parametrize(
    ("name", "spoil", "text"),
    [(name, *row) for name, rows in REFUSED.items() for row in rows],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_one_clear_line(
    name: str, spoil: Callable[[Case], None], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = case_of(name)
    spoil(case)
    case.trace.clear()
    write_case(tmp_path / "case.npz", case)
    done = invoke(capsys, "check", tmp_path / "case.npz")
    assert done.code == 2
    assert text in done.out + done.err
    assert "Traceback" not in done.out + done.err
    assert "Error: " not in done.out + done.err  # an exception of Python's, named
