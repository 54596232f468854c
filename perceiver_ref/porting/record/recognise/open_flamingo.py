"""open_flamingo: its resampler and gated block are flamingo-pytorch's with other embeddings and a width of media."""

from __future__ import annotations

from typing import Any

from .base import Row
from .lucidrains import gated_block, resampler


def _resampler(module: Any) -> dict[str, Any]:
    made = resampler(module)
    for option, table in (("max_num_media", module.media_time_embs), ("max_num_frames", module.frame_embs)):
        if table is not None:
            made[option] = table.shape[0]
    return made


def _gated(module: Any) -> dict[str, Any]:
    return {**gated_block(module), "dim_visual": module.attn.to_kv.in_features}


_PATH, _PEER, _PIP = "open_flamingo.src.helpers", "open-flamingo", "open-flamingo"
ROWS = {
    f"{_PATH}.PerceiverResampler": Row(_PEER, _resampler, _PIP),
    f"{_PATH}.GatedCrossAttentionBlock": Row(_PEER, _gated, _PIP),
}
