"""transformers: Perceiver, and the relatives of Flamingo. Models keep their configuration, most parts do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .base import Row, Unread
from .lucidrains import heads, multiple
from .perceiver_parts import (
    READERS,
    configuration,
    layer,
    perceiver_model,
    perceiver_task,
    position_encoding,
    standalone,
)
from .transformers_poolers import ROWS as POOLERS
from .transformers_poolers import chosen


def _with_attention(config: Any) -> dict[str, Any]:
    """A configuration with the attention implementation that it has chosen, by which masks are read."""
    return configuration(config) | chosen(config)


def idefics_resampler(module: Any) -> dict[str, Any]:
    """`IdeficsPerceiverResampler`."""
    names = ("embed_dim", "n_heads", "head_dim", "n_latents")
    hidden = {ff.fc.out_features for _, ff in module.blocks}
    if hidden - {4 * module.embed_dim}:
        raise Unread(f"MLPs of {sorted(hidden)} channels for a width of {module.embed_dim}")
    sizes = {name: getattr(module, name) for name in names}
    return {**sizes, "depth": len(module.blocks), "qk_layer_norms": bool(module.qk_layer_norms)}


def evolla_resampler(module: Any) -> dict[str, Any]:
    """`EvollaSequenceCompressorResampler`."""
    count, width = module.latents.shape
    made: dict[str, Any] = {
        "protein_encoder_config": {"hidden_size": width},
        "hidden_size": module.norm.normalized_shape[0],
        "resampler_num_latents": count,
        "resampler_depth": len(module.layers),
    }
    if len(module.layers):
        attend, ff = module.layers[0]
        sizes = heads(attend)
        made |= {"resampler_heads": sizes["heads"], "resampler_dim_head": sizes["dim_head"]}
        made["resampler_ff_mult"] = multiple(ff.fc1.out_features, width)
    return made


def evolla_aligner(module: Any) -> dict[str, Any]:
    """`EvollaSequenceAlignerCrossAttention`."""
    width, count = module.hidden_size, module.num_attention_heads
    if not math.isclose(module.scale, count**-0.5):
        raise Unread(f"{count} heads with scale {module.scale}")
    keys = {name: getattr(module, f"key_{name}") for name in ("protein", "structure", "msa")}
    return {
        "hidden_size": width,
        "num_attention_heads": count,
        "aligner_ffn_mult": multiple(module.ff.fc1.out_features, width),
        "aligner_enable_bias": module.out_proj.bias is not None,
        **{f"{name}_encoder_dim": key.in_features for name, key in keys.items() if key is not None},
    }


_VERSION = "transformers"
_MODELS = "transformers.models"
_PERCEIVER = f"{_MODELS}.perceiver.modeling_perceiver"
_FOURIER = frozenset({"PerceiverFourierPositionEncoding"})
_TASKS = (
    "MaskedLM",
    "SequenceClassification",
    "ImageClassificationLearned",
    "ImageClassificationFourier",
    "ImageClassificationConvProcessing",
    "OpticalFlow",
    "MultimodalAutoencoding",
)


def _perceiver(reader: Any) -> Row:
    return Row("hf", reader, _VERSION, float32=_FOURIER)


def _relative(peer: str, reader: Any, *float32: str, outputs: Mapping[str, str | None] | None = None) -> Row:
    return Row(peer, reader, _VERSION, float32=frozenset(float32), outputs=outputs or {})


ROWS: dict[str, Row] = {
    f"{_PERCEIVER}.PerceiverModel": _perceiver(perceiver_model),
    **{f"{_PERCEIVER}.PerceiverFor{name}": _perceiver(perceiver_task) for name in _TASKS},
    **{f"{_PERCEIVER}.{name}": _perceiver(standalone) for name in READERS},
    f"{_PERCEIVER}.PerceiverLayer": _perceiver(layer),
    f"{_PERCEIVER}.PerceiverTrainablePositionEncoding": _perceiver(position_encoding),
    f"{_PERCEIVER}.PerceiverFourierPositionEncoding": _perceiver(position_encoding),
    f"{_MODELS}.idefics.perceiver.IdeficsPerceiverResampler": _relative("idefics", idefics_resampler),
    f"{_MODELS}.idefics.modeling_idefics.IdeficsGatedCrossAttentionLayer": _relative(
        "idefics", lambda m: _with_attention(m.cross_attn.config), "IdeficsRMSNorm"
    ),
    f"{_MODELS}.idefics2.modeling_idefics2.Idefics2PerceiverResampler": _relative(
        "idefics2", lambda m: _with_attention(m.config), "Idefics2RMSNorm"
    ),
    f"{_MODELS}.evolla.modeling_evolla.EvollaSequenceCompressorResampler": _relative("evolla", evolla_resampler),
    f"{_MODELS}.evolla.modeling_evolla.EvollaSequenceAlignerCrossAttention": _relative(
        "evolla", evolla_aligner, "EvollaRMSNorm"
    ),
    f"{_MODELS}.mllama.modeling_mllama.MllamaCrossAttentionDecoderLayer": _relative(
        "mllama", lambda m: _with_attention(m.cross_attn.config), "MllamaTextRMSNorm"
    ),
    **POOLERS,
}
