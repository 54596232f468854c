"""perceiver-pytorch 0.11.0 (Phil Wang): `Perceiver` and its variants, `PerceiverIO`, `PerceiverLM` and their parts.

Read off its source: no biases for queries, keys and values; heads of any width; every MLP is gated (GEGLU); a fully
masked row averages all values, since scores are filled with `-finfo.max`; masks of grids have the grid's axes. Tied
layers leave block 0 of a `Perceiver` out, but not of a `PerceiverIO`, whose decoder has no residual around its
attention. What only this implementation does is in `quirks` and `encoders`. `gated.Perceiver`,
`mixed_latents.Perceiver` and `experimental.Perceiver` are the classes `Perceiver` of those modules.
"""

from __future__ import annotations

from ...base import Peer
from .models import experimental, gated, mixed_latents, perceiver, perceiver_io, perceiver_lm
from .parts import attention, attention_residual, feed_forward, fourier_encode, geglu, perceiver_block

PEER = Peer(
    "lucidrains-perceiver",
    {
        "Perceiver": perceiver,
        "PerceiverIO": perceiver_io,
        "PerceiverLM": perceiver_lm,
        "gated.Perceiver": gated,
        "mixed_latents.Perceiver": mixed_latents,
        "experimental.Perceiver": experimental,
        "PerceiverBlock": perceiver_block,
        "Attention": attention,
        "FeedForward": feed_forward,
        "GEGLU": geglu,
        "EnformerAttentionResidual": attention_residual,
        "fourier_encode": fourier_encode,
    },
)
