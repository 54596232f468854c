"""XTTS's, NaturalSpeech 2's, Chatterbox's and NeMo's, read off attributes and shapes."""

from __future__ import annotations

import math
from typing import Any

from .base import Row, Unread
from .lucidrains import heads


def resampler(module: Any) -> dict[str, Any]:
    """`PerceiverResampler` of coqui-tts and naturalspeech2-pytorch."""
    count, width = module.latents.shape
    made: dict[str, Any] = {"dim": width, "depth": len(module.layers), "num_latents": count}
    if hasattr(module.proj_context, "in_features"):
        made["dim_context"] = module.proj_context.in_features
    if len(module.layers):
        attend, ff = module.layers[0]
        if attend.attend.causal or not attend.cross_attn_include_queries or len(ff) != 3:
            raise Unread("layers that are causal, leave latents out of the keys or have convolutions")
        made |= {**heads(attend), "ff_mult": _gated_multiple(ff[2].in_features, width)}
        made["use_flash_attn"] = bool(attend.attend.use_flash)
    return made


def _gated_multiple(inner: int, width: int) -> float | int:
    """`ff_mult` that gives this width, int(width ff_mult 2 / 3); a whole number where one does."""
    exact = 1.5 * inner / width
    found = (m for m in (math.floor(exact), math.ceil(exact), exact) if int(width * m * 2 / 3) == inner)
    return next(found, 1.5 * (inner + 0.5) / width)


def block(module: Any) -> dict[str, Any]:
    """`AttentionBlock2` of Chatterbox."""
    count, channels = module.num_heads, module.channels
    inner = module.attention
    made: dict[str, Any] = {
        "channels": channels,
        "num_heads": count,
        "flash_attention": bool(inner.flash),
        "dropout_rate": inner.dropout_rate,
    }
    if not math.isclose(inner.scale, (channels // count) ** -0.5):
        made["scale"] = inner.scale
    if module.relative_pos_embeddings is not None:
        made["relative_pos_embeddings"] = True
        table = module.relative_pos_embeddings.relative_attention_bias.embedding_dim
        if table != count:  # of the heads that were asked for by number, while their width decided
            made |= {"num_heads": table, "num_head_channels": channels // count}
    return made


def perceiver(module: Any) -> dict[str, Any]:
    """`Perceiver` of Chatterbox."""
    _, count, size = module.pre_attention_query.shape
    inner = block(module.attn)
    if not inner["flash_attention"] or inner.keys() & {"scale", "relative_pos_embeddings"}:
        raise Unread("an attention block that is not made as Perceiver makes its own")
    return {
        "pre_attention_query_token": count,
        "pre_attention_query_size": size,
        "embedding_dim": inner["channels"],
        "num_attn_heads": inner["num_heads"],
    }


def nemo(module: Any) -> dict[str, Any]:
    """`PerceiverEncoder` of NeMo; options that nothing there depends on, of blocks where there are none, are left."""
    bridge = module.hidden_init_method == "bridge"
    made: dict[str, Any] = {
        "hidden_steps": module.hidden_steps,
        "hidden_init_method": "bridge" if bridge else "params",
        "hidden_blocks": len(module.self_att_layers),
        "num_layers": 1,  # where there is a block, as many as it has
    }
    if bridge:
        made |= {"hidden_size": module.att_bridge.hidden_size, "inner_size": module.att_bridge.bridge_size}
    decoders = [*(() if bridge else (module.init_cross_att,)), *module.cross_att_layers]
    if decoders:
        first = decoders[0].layers[0]
        made |= {
            "hidden_size": first.first_sub_layer.hidden_size,
            "inner_size": first.third_sub_layer.dense_in.out_features,
            "num_attention_heads": first.first_sub_layer.num_attention_heads,
            "attn_score_dropout": first.first_sub_layer.attn_dropout.p,
            "attn_layer_dropout": first.first_sub_layer.layer_dropout.p,
            "ffn_dropout": first.third_sub_layer.layer_dropout.p,
            "hidden_act": first.third_sub_layer.act_fn.__name__,
            "pre_ln": bool(first.pre_ln),
            "mask_future": decoders[0].diagonal is not None,
        }
        if first.pre_ln:
            made["pre_ln_final_layer_norm"] = decoders[0].final_layer_norm is not None
    if made["hidden_blocks"]:
        made["num_layers"] = len(module.self_att_layers[0].layers)
    return made


_CHATTERBOX = "chatterbox.models.t3.modules.perceiver"
ROWS: dict[str, Row] = {
    "TTS.tts.layers.xtts.perceiver_encoder.PerceiverResampler": Row("xtts", resampler, "coqui-tts"),
    "naturalspeech2_pytorch.naturalspeech2_pytorch.PerceiverResampler": Row(
        "naturalspeech2", resampler, "naturalspeech2-pytorch"
    ),
    f"{_CHATTERBOX}.AttentionBlock2": Row("chatterbox", block, "chatterbox-tts"),
    f"{_CHATTERBOX}.Perceiver": Row("chatterbox", perceiver, "chatterbox-tts"),
    "nemo.collections.asr.modules.transformer.perceiver_encoders.PerceiverEncoder": Row("nemo", nemo, "nemo-toolkit"),
}
