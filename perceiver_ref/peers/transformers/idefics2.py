"""transformers' Idefics2 (`transformers.models.idefics2`, version 5.23): its resampler.

Read off its source: RMS norms, a gated MLP of 4 times the width, fewer heads of keys and values than of queries, no
biases, latents that start as ones. Padding is left out by its mask; the latents are always among the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ...models.conventions import FLAMINGO_DIALECTS
from ...models.flamingo import PerceiverResampler
from ..base import Arguments, Given, Outputs, Peer, Rebuilt, check_axes, options, read_call
from ..inherited import INHERITED, PRETRAINED
from ..names import NORM, Rows, Table, bind, inside, same, transposed
from .idefics import PROJECTION_POINTS, SWIGLU, SWIGLU_POINTS, alone
from .perceiver.config import activation

_CONFIG = {
    "hidden_size": 4096,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "resampler_n_latents": 64,
    "resampler_depth": 3,
    "resampler_n_heads": 16,
    "resampler_head_dim": 96,
    "num_key_value_heads": 4,
}
ATTENTION: Table = {
    "query/weight": ("q_proj.weight", transposed),
    "key/weight": ("k_proj.weight", transposed),
    "value/weight": ("v_proj.weight", transposed),
    "output/weight": ("o_proj.weight", transposed),
}
_LAYER: Table = {
    "features_norm": ("input_context_norm", NORM),
    "latents_norm": ("input_latents_norm", NORM),
    "attention": ("self_attn", ATTENTION),
    "mlp_norm": ("post_attention_layernorm", NORM),
    "mlp": ("mlp", SWIGLU),
}
_NAMES: Table = {"latents": ("latents", same), "layers/{i}": ("layers.{i}", _LAYER), "norm": ("norm", NORM)}
_POINTS: Rows = [
    (r"layers\.(\d+)\.self_attn", r"resampler.layers.\1.attention"),
    *inside(r"layers\.(\d+)\.self_attn", r"resampler.layers.\1", PROJECTION_POINTS),
    *inside(r"layers\.(\d+)", r"resampler.layers.\1", SWIGLU_POINTS),
    (r"layers\.(\d+)\.input_context_norm", r"resampler.layers.\1.features_norm"),
    (r"layers\.(\d+)\.input_latents_norm", r"resampler.layers.\1.latents_norm"),
    (r"layers\.(\d+)\.post_attention_layernorm", r"resampler.layers.\1.mlp_norm"),
    (r"layers\.(\d+)", r"resampler.layers.\1"),
    ("norm", "resampler"),
]


_WHOLE: dict[str, Any] = {"perceiver_config": {}, "text_config": {}}
"""What an Idefics2Config has of the resampler."""


def _own_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """An Idefics2PerceiverConfig, or the one in an Idefics2Config, which takes another width from the text model."""
    if not isinstance(config, Mapping) or "perceiver_config" not in config:
        return config
    whole = options("Idefics2Config", config, _WHOLE, PRETRAINED | {"image_token_id", "vision_config"}, INHERITED)
    part, text = whole["perceiver_config"], whole["text_config"]
    width = text.get("hidden_size", _CONFIG["hidden_size"])
    if width == part.get("hidden_size", _CONFIG["hidden_size"]):
        return part  # type: ignore[no-any-return]
    return {**part, "hidden_size": width, "rms_norm_eps": text.get("rms_norm_eps", 1e-6)}


def _resampler(given: Given) -> Rebuilt:
    ignored = PRETRAINED | {"attention_dropout"}
    chosen = options("Idefics2PerceiverConfig", _own_part(given.config), _CONFIG, ignored, INHERITED)
    model = PerceiverResampler(
        channels=chosen["hidden_size"],
        latents=chosen["resampler_n_latents"],
        layers=chosen["resampler_depth"],
        heads=chosen["resampler_n_heads"],
        head_channels=chosen["resampler_head_dim"],
        kv_heads=chosen["num_key_value_heads"],
        conventions=replace(
            FLAMINGO_DIALECTS["idefics2"],
            activation=activation(chosen["hidden_act"]),
            norm_eps=chosen["rms_norm_eps"],
        ),
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = ["context", "attention_mask"]
        values, _ = read_call("Idefics2PerceiverResampler", arguments, called, set(names), {}, names)
        context, mask = values["context"], array_of(values["attention_mask"]) != 0
        check_axes("context", context, "batch, tokens, dim")
        if mask.shape != tuple(context.shape[:2]):
            raise InputError(f"attention_mask must be {tuple(context.shape[:2])}, got {mask.shape}")
        return {"out": alone(model, params, context, mask)}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


PEER = Peer("idefics2", {"Idefics2PerceiverResampler": _resampler})
