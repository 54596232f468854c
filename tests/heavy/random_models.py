"""Small models of every peer drawn at random: configuration, sizes, masks, and weights that sharpen the attention."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from heavy.flamingo_configurations import COUNTS, Draw
from mutants import make, models
from mutants.kinds import deepmind, flamingo, hf, lucidrains
from mutants.kinds.inputs import fourier
from mutants.models import IDEFICS2, IDEFICS_GATED, IDEFICS_RESAMPLER, Arrays, Model

QUERIES = re.compile(r"query|to_q\b|to_q\.|q_proj|attention/linear/")
"""Weights that scale attention's logits alone."""


def instance(seed: int) -> make.Instance:
    """A kind, a model of it, its weights and inputs, all from one seed, and what it gives in float64.

    Logits of attention are up to 30 times, weights and inputs 4 times what the mutants have, or a quarter.
    """
    draw = Draw(seed)
    model = draw.of(*KINDS)(draw)
    module = models.build(model, make.run_sources(model)[-1].space)
    sharp, gain, size = draw.of(1, 1, 5, 30), draw.of(0.25, 1, 1, 1, 2), draw.of(0.25, 1, 1, 4)
    state = models.randomise(model, module, draw.generator)
    for name, array in state.items():
        if array.dtype.kind == "f" and array.ndim > 1:
            array *= gain * (sharp if QUERIES.search(name) else 1)
    models.load(model, module, state)
    inputs = model.inputs(draw.generator)
    inputs = {name: size * array if array.dtype == np.float64 else array for name, array in inputs.items()}
    right = make.Run(*models.execute(model, module, inputs))
    return make.Instance(model, seed, state, inputs, right, module)


def _normal(**shapes: tuple[int, ...]) -> Callable[[Any], Arrays]:
    return lambda rng: {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def _with(inputs: Callable[[Any], Arrays], **arrays: np.ndarray | None) -> Callable[[Any], Arrays]:
    """The same with those of these arrays that there are."""
    return lambda rng: {**inputs(rng), **{name: array for name, array in arrays.items() if array is not None}}


def _mask(draw: Draw, *shape: int, kind: str | None = None) -> np.ndarray | None:
    """Any mask or, as often, none; whole rows may be masked."""
    return draw.bits(*shape).astype(kind or draw.of("int64", "bool")) if draw.of(True, False) else None


# ------------------------------------------------------------------------------------------------------ transformers


def _latents(draw: Draw) -> dict[str, Any]:
    heads = draw.of(*COUNTS)
    return {
        "num_latents": draw(1, 12),
        "d_latents": 2 * heads * draw(1, 4),  # decoders have 2
        "num_blocks": draw(1, 3),
        "num_self_attends_per_block": draw(1, 3),
        "num_self_attention_heads": heads,
        "num_cross_attention_heads": 1,
        "self_attention_widening_factor": draw(1, 4),
        "cross_attention_widening_factor": draw(1, 2),
        "hidden_act": draw.of("gelu", "gelu", "gelu_new", "relu", "silu"),
        "layer_norm_eps": draw.of(1e-12, 1e-5),
    }


def hf_bare(draw: Draw) -> Model:
    """The encoder alone."""
    batch, length, width = draw(1, 3), draw(1, 30), draw(1, 24)
    config = {**_latents(draw), "d_model": width, "use_query_residual": draw.of(True, True, False)}
    inputs = _with(_normal(inputs=(batch, length, width)), attention_mask=_mask(draw, batch, length))
    return hf.hf("bare", config, inputs)


def hf_language(draw: Draw) -> Model:
    """Masked language modelling, or classification of sequences."""
    batch, length, size = draw(1, 3), draw(1, 20), draw(5, 30)
    config = {**_latents(draw), "d_model": 8 * draw(1, 2), "vocab_size": size, "num_labels": draw(2, 5)}
    config |= {"max_position_embeddings": length + draw(0, 3)}
    ids = draw.generator.integers(0, size, (batch, length))
    cls = draw.of("PerceiverForMaskedLM", "PerceiverForSequenceClassification")
    inputs = _with(lambda rng: {"inputs": ids}, attention_mask=_mask(draw, batch, length))
    return hf.hf("language", config, inputs, cls)


def hf_image(draw: Draw) -> Model:
    """Pixels with Fourier positions, classified."""
    batch, channels, height, width = draw(1, 2), draw(1, 3), draw(1, 6), draw(1, 6)
    config = {**_latents(draw), "num_labels": draw(2, 6)}
    return hf.hf(
        "image",
        config,
        _normal(inputs=(batch, channels, height, width)),
        input_preprocessor=hf.pixels([height + draw(0, 3), width + draw(0, 3)], channels),
        decoder=hf.classification(config["d_latents"], config["num_self_attention_heads"], draw.of(True, False)),
    )


def hf_flow(draw: Draw) -> Model:
    """Optical flow on grids of any size."""
    height, width = draw(1, 6), draw(1, 6)
    return hf.hf(
        "flow",
        {**_latents(draw), "train_size": [height, width]},
        _normal(inputs=(draw(1, 2), 2, 27, height, width)),
        "PerceiverForOpticalFlow",
        literal=(
            ('"num_bands": 64', '"num_bands": 2'),
            ("conv_after_patching=True,", "conv_after_patching=True, out_channels=6,"),
        ),
    )


def hf_multimodal(draw: Draw) -> Model:
    """Image, sound and label, to all three."""
    (known,) = (model for model in hf.HF_MODELS if model.name == "multimodal_full")
    config = {**known.config, "config": {**known.config["config"], **_latents(draw)}}
    return Model(**{**vars(known), "config": config})


# -------------------------------------------------------------------------------------------------- perceiver-pytorch


def _heads(draw: Draw) -> dict[str, int]:
    counts = {name: draw.of(*COUNTS) for name in ("cross_heads", "latent_heads")}
    return counts | {name: draw(1, 5) for name in ("cross_dim_head", "latent_dim_head")}


def lucidrains_image(draw: Draw) -> Model:
    """A grid of one to three axes."""
    axes = tuple(draw(1, 5) for _ in range(draw(1, 3)))
    batch, channels = draw(1, 3), draw(1, 4)
    config = {
        **_heads(draw),
        "num_freq_bands": draw(1, 6),
        "depth": draw(1, 3),
        "max_freq": draw.of(2.0, 5.0, 20.0),
        "input_channels": channels,
        "input_axis": len(axes),
        "num_latents": draw(1, 8),
        "latent_dim": draw(2, 16),
        "num_classes": draw(1, 6),
        "weight_tie_layers": draw.of(True, False),
        "self_per_cross_attn": draw(1, 2),
    }
    inputs = _with(_normal(data=(batch, *axes, channels)), mask=_mask(draw, batch, *axes, kind="bool"))
    return lucidrains.lucidrains("image", "Perceiver", config, inputs)


def _io(draw: Draw) -> dict[str, Any]:
    return {
        **_heads(draw),
        "depth": draw(1, 3),
        "dim": draw(2, 12),
        "num_latents": draw(1, 8),
        "latent_dim": draw(2, 16),
        "weight_tie_layers": draw.of(True, False),
        "decoder_ff": draw.of(True, False),
    }


def lucidrains_io(draw: Draw) -> Model:
    """Perceiver IO with queries."""
    config = {**_io(draw), "queries_dim": draw(2, 9), "logits_dim": draw.of(None, 1, 5)}
    batch, length = draw(1, 3), draw(1, 12)
    shapes = {"data": (batch, length, config["dim"]), "queries": (batch, draw(1, 6), config["queries_dim"])}
    inputs = _with(_normal(**shapes), mask=_mask(draw, batch, length, kind="bool"))
    return lucidrains.lucidrains("io", "PerceiverIO", config, inputs)


def lucidrains_language(draw: Draw) -> Model:
    """The language model."""
    batch, length = draw(1, 3), draw(1, 12)
    config = {**_io(draw), "num_tokens": 11, "max_seq_len": length + draw(0, 2)}
    ids = draw.generator.integers(0, 11, (batch, length))
    inputs = _with(lambda rng: {"x": ids}, mask=_mask(draw, batch, length, kind="bool"))
    return lucidrains.lucidrains("language", "PerceiverLM", config, inputs)


# ----------------------------------------------------------------------------- resamplers and gated cross-attention


def _flamingo(draw: Draw) -> dict[str, int]:
    return {"dim": draw(2, 16), "dim_head": draw(1, 6), "heads": draw.of(*COUNTS), "ff_mult": draw(1, 4)}


def flamingo_resampler(draw: Draw) -> Model:
    """flamingo-pytorch's or open_flamingo's resampler."""
    config = {**_flamingo(draw), "depth": draw(1, 4), "num_latents": draw(1, 6)}
    batch, media, tokens, width = draw(1, 3), draw(1, 3), draw(1, 8), config["dim"]
    if draw.of(True, False):
        config["num_media_embeds"] = media
        return flamingo.flamingo("resampler", "PerceiverResampler", config, _normal(x=(batch, media, tokens, width)))
    frames = draw(1, 3)
    config |= {"max_num_media": draw.of(None, media), "max_num_frames": draw.of(None, frames)}
    shape = (batch, media, frames, tokens, width)
    return flamingo.open_flamingo("resampler", "PerceiverResampler", config, _normal(x=shape))


def flamingo_gated(draw: Draw) -> Model:
    """flamingo-pytorch's or open_flamingo's gated block."""
    own = draw.of(True, False)
    config = {**_flamingo(draw), "only_attend_immediate_media": draw.of(True, False)}
    batch, length = draw(1, 3), draw(1, 9)
    visual = config["dim"] if own else draw(2, 9)
    shapes = {"x": (batch, length, config["dim"]), "media": (batch, draw(1, 3), draw(1, 5), visual)}
    inputs = _with(_normal(**shapes), media_locations=draw.bits(batch, length))
    if own:
        return flamingo.flamingo("gated", "GatedCrossAttentionBlock", config, inputs)
    return flamingo.open_flamingo("gated", "GatedCrossAttentionBlock", {**config, "dim_visual": visual}, inputs)


def idefics_resampler(draw: Draw) -> Model:
    """Idefics' resampler, or Idefics2's."""
    batch, length, width = draw(1, 3), draw(1, 9), draw(2, 16)
    if draw.of(True, False):
        config = {"embed_dim": width, "depth": draw(1, 3), "n_heads": draw.of(*COUNTS), "head_dim": draw(1, 6)}
        config |= {"n_latents": draw(1, 6), "qk_layer_norms": draw.of(True, False)}
        inputs = _normal(context=(batch, length, width))
        return Model("resampler", "idefics", IDEFICS_RESAMPLER, "IdeficsPerceiverResampler", config, inputs)
    shared = draw(1, 3)
    config = {
        "hidden_size": width,
        "hidden_act": draw.of("silu", "gelu"),
        "rms_norm_eps": draw.of(1e-6, 1e-3),
        "resampler_n_latents": draw(1, 6),
        "resampler_depth": draw(1, 3),
        "resampler_n_heads": shared * draw(1, 3),
        "resampler_head_dim": draw(1, 6),
        "num_key_value_heads": shared,
        "attn_implementation": draw.of("eager", "sdpa"),
    }
    mask = draw.bits(batch, length).astype("int64")
    inputs = _with(_normal(context=(batch, length, width)), attention_mask=mask)
    return Model("resampler", "idefics2", IDEFICS2, "Idefics2PerceiverResampler", config, inputs)


def idefics_gated(draw: Draw) -> Model:
    """Idefics' gated layer; some text sees no image, and some images are seen by none."""
    heads, batch, length, tokens, images = draw.of(*COUNTS), draw(1, 3), draw(1, 8), draw(1, 3), draw(1, 3)
    config = {
        "hidden_size": heads * draw(1, 6),
        "intermediate_size": draw(2, 20),
        "num_attention_heads": heads,
        "alpha_type": draw.of("float", "vector"),
        "qk_layer_norms": draw.of(True, False),
        "vision_config": {"embed_dim": draw(2, 10)},
        "attn_implementation": "eager",
    }
    shapes = {"hidden_states": (batch, length, config["hidden_size"])}
    shapes |= {"image_hidden_states": (batch, images * tokens, config["vision_config"]["embed_dim"])}
    index = draw.generator.integers(-1, images, (batch, length))
    return Model(
        "gated",
        "idefics",
        IDEFICS_GATED,
        "IdeficsGatedCrossAttentionLayer",
        config,
        _with(_normal(**shapes), image_index=index),
        call={"tokens_per_image": tokens, "method": "idefics_gated"},
    )


# ---------------------------------------------------------------------------------------------------------- DeepMind


def _encoder(draw: Draw) -> dict[str, Any]:
    heads = draw.of(*COUNTS)
    return {
        **deepmind.ENCODER,
        "num_blocks": draw(1, 3),
        "num_self_attends_per_block": draw(1, 3),
        "num_self_attend_heads": heads,
        "num_z_channels": 2 * heads * draw(1, 3),  # decoders have 2
        "self_attend_widening_factor": draw(1, 3),
        "z_index_dim": draw(1, 8),
    }


def deepmind_image(draw: Draw) -> Model:
    """ImageNet's Perceiver IO in small."""
    encoder, batch, shape = _encoder(draw), draw(1, 3), (draw(1, 5), draw(1, 5), draw(1, 3))
    width = encoder["num_z_channels"]
    kwargs = {**deepmind.CLASSIFIER["kwargs"], "num_z_channels": width, "num_classes": draw(2, 5)}
    kwargs["trainable_position_encoding_kwargs"] = deepmind.trainable(width)
    bands = fourier([shape[0] + draw(0, 3), shape[1] + draw(0, 3)], draw(1, 4))
    pixels = {**deepmind.DM_PIXELS["kwargs"], "fourier_position_encoding_kwargs": bands}
    config = deepmind.perceiver(
        {"class": "ImagePreprocessor", "kwargs": pixels}, encoder, {"class": "ClassificationDecoder", "kwargs": kwargs}
    )
    mask = _mask(draw, batch, shape[0] * shape[1], kind="int32")
    inputs = _with(_normal(inputs=(batch, *shape)), input_mask=mask)
    return deepmind.deepmind("image", deepmind.DM_CLASS, config, (batch, *shape), inputs)


def deepmind_language(draw: Draw) -> Model:
    """Masked bytes, rows without any among them."""
    batch = draw(1, 3)
    ids = draw.generator.integers(0, 14, (batch, 7)).astype(np.int32)
    mask = draw.bits(batch, 7).astype(np.int32)
    inputs = _with(lambda rng: {"inputs": ids}, input_mask=mask, query_mask=mask)
    return deepmind.deepmind("language", deepmind.MLM_CLASS, deepmind.MLM, (), inputs)


def deepmind_flow(draw: Draw) -> Model:
    """Optical flow."""
    height, width = draw(2, 5), draw(2, 5)
    parts = deepmind.FLOW_DECODER["kwargs"] | {"output_image_shape": [height, width]}
    encoder = _encoder(draw)
    config = {
        "flow_scale_factor": 20,
        "perceiver": deepmind.perceiver(deepmind.DM_FLOW, encoder, {"class": "FlowDecoder", "kwargs": parts}),
    }
    shape = (draw(1, 2), 2, height, width, 3)
    return deepmind.deepmind("flow", deepmind.FLOW_CLASS, config, shape, _normal(images=shape), "flow")


KINDS: tuple[Callable[[Draw], Model], ...] = (
    hf_bare,
    hf_language,
    hf_image,
    hf_flow,
    hf_multimodal,
    lucidrains_image,
    lucidrains_io,
    lucidrains_language,
    flamingo_resampler,
    flamingo_gated,
    idefics_resampler,
    idefics_gated,
    deepmind_image,
    deepmind_language,
    deepmind_flow,
)
