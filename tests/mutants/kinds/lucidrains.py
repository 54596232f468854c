"""Small models of perceiver-pytorch."""

from __future__ import annotations

from typing import Any

from mutants.kinds.inputs import lengths, masked, normal, tokens
from mutants.models import LUCIDRAINS, Model

PERCEIVER = {
    "num_freq_bands": 2,
    "depth": 2,
    "max_freq": 6.0,
    "input_channels": 2,
    "input_axis": 2,
    "num_latents": 4,
    "latent_dim": 6,
    "cross_heads": 2,
    "latent_heads": 3,
    "cross_dim_head": 4,
    "latent_dim_head": 4,
    "num_classes": 5,
}
IO = {
    "depth": 2,
    "dim": 7,
    "queries_dim": 6,
    "logits_dim": 5,
    "num_latents": 4,
    "latent_dim": 8,
    "cross_heads": 2,
    "latent_heads": 3,
    "cross_dim_head": 4,
    "latent_dim_head": 5,
}


def lucidrains(name: str, cls: str, config: dict[str, Any], inputs: Any) -> Model:
    """A model of perceiver-pytorch."""
    return Model(name, "lucidrains-perceiver", LUCIDRAINS, cls, config, inputs)


LUCIDRAINS_MODELS = (
    lucidrains("perceiver_2d", "Perceiver", PERCEIVER, normal(data=(2, 3, 5, 2))),
    lucidrains(
        "perceiver_2d_mask",
        "Perceiver",
        {**PERCEIVER, "num_freq_bands": 3},
        masked(normal(data=(3, 3, 5, 2)), mask=lengths((15, 6, 0), 15).astype(bool).reshape(3, 3, 5)),
    ),
    lucidrains(
        "perceiver_1d",
        "Perceiver",
        {**PERCEIVER, "input_axis": 1, "input_channels": 3},
        masked(normal(data=(2, 9, 3)), mask=lengths((9, 5), 9).astype(bool)),
    ),
    lucidrains(
        "perceiver_tied",
        "Perceiver",
        {**PERCEIVER, "depth": 3, "weight_tie_layers": True, "self_per_cross_attn": 2},
        normal(data=(2, 3, 4, 2)),
    ),
    lucidrains("io", "PerceiverIO", IO, normal(data=(2, 8, 7), queries=(2, 5, 6))),
    lucidrains(
        "io_ff_tied_mask",
        "PerceiverIO",
        {**IO, "depth": 3, "decoder_ff": True, "weight_tie_layers": True},
        masked(normal(data=(2, 8, 7), queries=(2, 5, 6)), mask=lengths((8, 5), 8).astype(bool)),
    ),
    lucidrains(
        "lm",
        "PerceiverLM",
        {"dim": 6, "num_tokens": 13, "max_seq_len": 9}
        | {key: value for key, value in IO.items() if key not in ("dim", "queries_dim", "logits_dim")},
        masked(tokens(13, (2, 8), "x"), mask=lengths((8, 5), 8).astype(bool)),
    ),
)
