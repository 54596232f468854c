"""`PerceiverEncoder`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import one_of
from ...models.conventions import DEEPMIND
from ...models.encoder import Encoder
from .names import ENCODER, Names, below, layer_points
from .part import NamedPart, options

OPTIONS = {
    "num_self_attends_per_block": 6,
    "num_blocks": 8,
    "z_index_dim": 512,
    "num_z_channels": 1024,
    "qk_channels": None,
    "v_channels": None,
    "num_cross_attend_heads": 1,
    "num_self_attend_heads": 8,
    "cross_attend_widening_factor": 1,
    "self_attend_widening_factor": 1,
    "dropout_prob": 0.0,
    "z_pos_enc_init_scale": 0.02,
    "cross_attention_shape_for_attn": "kv",
    "use_query_residual": True,
    "name": None,
}
CROSS_NORMS = ("query_norm", "key_value_norm", "mlp_norm")
SELF_NORMS = ("norm", "mlp_norm")


def shape_for_attention(value: Any) -> Any:
    """The width that queries and keys default to: "kv" or "q"."""
    if value not in ("kv", "q"):
        raise one_of("shape_for_attn", str(value), ("kv", "q"))
    return value


def build(kwargs: Mapping[str, Any], inputs: int, names: Names, cls: type[Encoder] = Encoder) -> NamedPart:
    """The encoder for inputs of this width."""
    chosen = options("PerceiverEncoder", kwargs, OPTIONS)
    name = names(chosen["name"] or "perceiver_encoder")
    repeats = chosen["num_blocks"] > 0  # else self-attentions are made but never called: the cross-attention alone
    model = cls(
        inputs=inputs,
        latents=chosen["z_index_dim"],
        channels=chosen["num_z_channels"],
        blocks=chosen["num_blocks"] if repeats else 1,
        layers=chosen["num_self_attends_per_block"] if repeats else 0,
        cross_heads=chosen["num_cross_attend_heads"],
        self_heads=chosen["num_self_attend_heads"],
        qk_channels=chosen["qk_channels"],
        v_channels=chosen["v_channels"],
        attend_in=shape_for_attention(chosen["cross_attention_shape_for_attn"]),
        cross_widening=chosen["cross_attend_widening_factor"],
        self_widening=chosen["self_attend_widening_factor"],
        query_residual=bool(chosen["use_query_residual"]),
        conventions=DEEPMIND,
    )
    repeated = [f"encoder.blocks.{b}.{i}" for b in range(model.blocks) for i in range(model.layers)]
    points = [
        ("encoder/latents_init", "encoder.latents"),
        ("encoder/after_cross_attend", "encoder.cross_attention"),
        ("encoder/output", "encoder"),
        *((f"encoder/after_self_attend_{n:02d}", layer) for n, layer in enumerate(repeated)),
        *layer_points(f"{name}/~/cross_attention", "encoder.cross_attention", CROSS_NORMS),
    ]
    layers = [f"{layer}.attention" for layer in ("encoder.cross_attention", *repeated)]
    return NamedPart(model, below(f"{name}/~", ENCODER), points, layers=layers)
