"""transformers: SigLIP's heads, the projections of Kosmos-2, Kosmos-2.5 and Aria, and EdgeTAM's resampler."""

from __future__ import annotations

from typing import Any

from .base import Row
from .perceiver_parts import jsonable

IMPLEMENTATION = "attn_implementation"


def chosen(config: Any) -> dict[str, str]:
    """The attention implementation that a configuration has chosen, if it has."""
    name = getattr(config, f"_{IMPLEMENTATION}", None)
    return {} if name is None else {IMPLEMENTATION: name}


def siglip(module: Any) -> dict[str, Any]:
    """`SiglipMultiheadAttentionPoolingHead` and `Siglip2MultiheadAttentionPoolingHead`."""
    return {
        "hidden_size": module.probe.shape[2],
        "num_attention_heads": module.attention.num_heads,
        "intermediate_size": module.mlp.fc1.out_features,
        "hidden_act": module.mlp.config.hidden_act,
        "layer_norm_eps": module.layernorm.eps,
    }


def kosmos(module: Any) -> dict[str, Any]:
    """`Kosmos2ImageToTextProjection` and `Kosmos2_5ImageToTextProjection`."""
    count, width = module.latent_query.shape
    return {
        "text_config": {"embed_dim": width, "attention_heads": module.x_attn.num_heads},
        "vision_config": {"hidden_size": module.dense.in_features},
        "latent_query_num": count,
        **chosen(module.x_attn.config),
    }


def aria(module: Any) -> dict[str, Any]:
    """`AriaProjector`."""
    return {
        "vision_config": {
            "hidden_size": module.query.shape[1],
            "num_attention_heads": module.cross_attn.multihead_attn.num_heads,
        },
        "text_config": {"hidden_size": module.feed_forward.linear_out.out_features},
        "projector_patch_to_query_dict": jsonable(module.patch_to_query_dict),
    }


def edgetam(module: Any) -> dict[str, Any]:
    """`EdgeTamVideoPerceiverResampler`; its configuration keeps the layers' options where it has none."""
    names = ("hidden_size", "mlp_intermediate_size", "num_attention_heads", "attention_head_dim")
    sizes = {name: getattr(module.config, f"perceiver_resampler_{name}") for name in names}
    if len(module.layers):
        first = module.layers[0]
        sizes |= {
            "mlp_intermediate_size": first.mlp.up_proj.out_features,
            "num_attention_heads": first.cross_attention.num_attention_heads,
            "attention_head_dim": first.cross_attention.head_dim,
        }
    sizes |= {
        "hidden_size": module.layer_norm.normalized_shape[0],
        "num_latents": module.num_latents_1d,
        "num_latents_2d": module.num_latents_2d,
        "num_layers": len(module.layers),
    }
    return {**{f"perceiver_resampler_{name}": size for name, size in sizes.items()}, **chosen(module.config)}


def _eager(config: Any) -> bool:
    """Whether the softmax is eager attention's, in float32."""
    return chosen(config).get(IMPLEMENTATION) == "eager"


_VERSION = "transformers"
_MODELS = "transformers.models"
ROWS: dict[str, Row] = {
    f"{_MODELS}.siglip.modeling_siglip.SiglipMultiheadAttentionPoolingHead": Row("siglip", siglip, _VERSION),
    f"{_MODELS}.siglip2.modeling_siglip2.Siglip2MultiheadAttentionPoolingHead": Row("siglip", siglip, _VERSION),
    f"{_MODELS}.kosmos2.modeling_kosmos2.Kosmos2ImageToTextProjection": Row("kosmos2", kosmos, _VERSION),
    f"{_MODELS}.kosmos2_5.modeling_kosmos2_5.Kosmos2_5ImageToTextProjection": Row(
        "kosmos2", kosmos, _VERSION, float32=lambda module: _eager(module.x_attn.config)
    ),
    f"{_MODELS}.aria.modeling_aria.AriaProjector": Row("aria", aria, _VERSION),
    f"{_MODELS}.edgetam_video.modeling_edgetam_video.EdgeTamVideoPerceiverResampler": Row(
        "edgetam", edgetam, _VERSION, float32=lambda module: _eager(module.config)
    ),
}
