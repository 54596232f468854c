"""perceiver-ar-pytorch, which keeps no configuration: read off attributes and shapes."""

from __future__ import annotations

from typing import Any

from .base import Row
from .lucidrains import heads, multiple


def perceiver_ar(module: Any) -> dict[str, Any]:
    """`PerceiverAR`."""
    tokens, width = module.token_emb.num_embeddings, module.token_emb.embedding_dim
    made: dict[str, Any] = {
        "num_tokens": tokens,
        "dim": width,
        "depth": len(module.layers),
        "max_seq_len": module.max_seq_len,
        "cross_attn_seq_len": module.cross_attn_seq_len,
        "perceive_depth": len(module.perceive_layers),
        # what the angles say of the heads' width, where there is no layer
        "dim_head": 4 * module.rotary_pos_emb.inv_freq.shape[0],
    }
    for attend, ff in (*module.perceive_layers[:1], *module.layers[:1]):
        query = attend.to_q.out_features if hasattr(attend, "to_q") else attend.to_qkv.out_features // 3
        made |= {**heads(attend, inner=query), "ff_mult": multiple(ff[1].out_features, width), "dropout": ff[3].p}
    if len(module.perceive_layers):
        first = module.perceive_layers[0][0]
        made |= {
            "perceive_max_heads_process": first.max_heads_process,
            "cross_attn_dropout": first.cross_attn_dropout,
        }
    return made


def _chunked(module: Any) -> frozenset[str]:
    """The dropouts that are given a few heads at a time."""
    return frozenset(f"perceive_layers.{i}.0.dropout" for i in range(len(module.perceive_layers)))


ROWS: dict[str, Row] = {
    "perceiver_ar_pytorch.perceiver_ar_pytorch.PerceiverAR": Row(
        "perceiver-ar-pytorch", perceiver_ar, "perceiver-ar-pytorch", partial=_chunked
    )
}
