"""The options of krasserm's configuration classes, and the encoder and decoder that they determine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from ...models.conventions import DIALECTS
from ...models.decoder import Decoder
from ...models.encoder import Encoder

CONVENTIONS = DIALECTS["krasserm"]
TRAINING = frozenset(
    [
        "dropout",
        "residual_dropout",
        "cross_attention_dropout",
        "post_attention_dropout",
        "init_scale",
        "freeze",
        "params",
        "activation_checkpointing",
        "activation_offloading",
        "max_heads_parallel",
        "model",
        "class",
    ]
)
"""What changes no output at inference, and the notes "model" and "class"."""
ENCODER: dict[str, Any] = {
    "num_cross_attention_heads": 8,
    "num_cross_attention_qk_channels": None,
    "num_cross_attention_v_channels": None,
    "num_cross_attention_layers": 1,
    "first_cross_attention_layer_shared": False,
    "cross_attention_widening_factor": 1,
    "num_self_attention_heads": 8,
    "num_self_attention_qk_channels": None,
    "num_self_attention_v_channels": None,
    "num_self_attention_layers_per_block": 8,
    "num_self_attention_blocks": 1,
    "first_self_attention_block_shared": True,
    "self_attention_widening_factor": 1,
}
DECODER: dict[str, Any] = {
    "num_cross_attention_heads": 8,
    "num_cross_attention_qk_channels": None,
    "num_cross_attention_v_channels": None,
    "cross_attention_widening_factor": 1,
    "cross_attention_residual": True,
}


def encoder(chosen: Mapping[str, Any], inputs: int, latents: int, channels: int) -> Encoder:
    """The encoder; self-attention is as wide as the latents unless it says otherwise."""
    blocks = chosen["num_self_attention_blocks"]
    if not 1 <= chosen["num_cross_attention_layers"] <= blocks:
        raise InputError(f"num_cross_attention_layers must be from 1 to num_self_attention_blocks ({blocks})")
    own = chosen["num_self_attention_qk_channels"]
    own = channels if own is None else own
    values = chosen["num_self_attention_v_channels"]
    return Encoder(
        inputs=inputs,
        latents=latents,
        channels=channels,
        blocks=blocks,
        layers=chosen["num_self_attention_layers_per_block"],
        cross_heads=chosen["num_cross_attention_heads"],
        self_heads=chosen["num_self_attention_heads"],
        qk_channels=chosen["num_cross_attention_qk_channels"],
        v_channels=chosen["num_cross_attention_v_channels"],
        attend_in="q",
        cross_widening=chosen["cross_attention_widening_factor"],
        self_widening=chosen["self_attention_widening_factor"],
        cross_attends=chosen["num_cross_attention_layers"],
        shared_cross="all" if chosen["first_cross_attention_layer_shared"] else "later",
        shared_blocks="all" if chosen["first_self_attention_block_shared"] else "later",
        self_qk_channels=own,
        self_v_channels=own if values is None else values,
        conventions=CONVENTIONS,
    )


def decoder(
    chosen: Mapping[str, Any], latent_channels: int, query_channels: int, cls: type[Decoder] = Decoder, **options: Any
) -> Decoder:
    """A decoder of this class."""
    return cls(
        latent_channels,
        query_channels,
        heads=chosen["num_cross_attention_heads"],
        qk_channels=chosen["num_cross_attention_qk_channels"],
        v_channels=chosen["num_cross_attention_v_channels"],
        widening=chosen["cross_attention_widening_factor"],
        query_residual=chosen["cross_attention_residual"],
        conventions=CONVENTIONS,
        attend_in="q",
        **options,
    )
