"""flamingo-pytorch 0.1.2 (Phil Wang): PerceiverResampler, GatedCrossAttentionBlock, FlamingoPaLM.

Read off its source: no biases but those of norms; exact GELU; keys and values are one linear map; scores of other
media are filled with `-finfo.max`, so that text which matches no medium averages all media, later ones included. Only
text before the first medium gets zeros, and only when the immediate medium alone is attended to.
"""

from __future__ import annotations

from ...base import Peer
from .palm import palm
from .parts import gated_cross_attention, perceiver_resampler

PEER = Peer(
    "lucidrains-flamingo",
    {
        "PerceiverResampler": perceiver_resampler,
        "GatedCrossAttentionBlock": gated_cross_attention,
        "FlamingoPaLM": palm,
    },
)
