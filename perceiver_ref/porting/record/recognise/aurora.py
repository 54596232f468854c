"""microsoft-aurora: the resampler of pressure levels, read off attributes and shapes."""

from __future__ import annotations

from typing import Any

from .base import Row, Unread
from .lucidrains import multiple


def resampler(module: Any) -> dict[str, Any]:
    """`PerceiverResampler`, of at least one layer: without any there is nothing to read its widths off."""
    if not len(module.layers):
        raise Unread("no layers, which say how wide latents and context are")
    attend, ff, norm, _ = module.layers[0]
    width = attend.to_q.in_features
    return {
        "latent_dim": width,
        "context_dim": attend.to_kv.in_features,
        "depth": len(module.layers),
        "head_dim": attend.head_dim,
        "num_heads": attend.num_heads,
        "mlp_ratio": multiple(ff.net[0].out_features, width),
        "drop": ff.net[3].p,
        "residual_latent": bool(module.residual_latent),
        "ln_eps": norm.eps,
        "ln_k_q": hasattr(attend.ln_k, "weight"),
    }


def _call(module: Any) -> dict[str, Any]:
    return {"use_fp16_safe_attention": True} if module.layers[0][0].use_fp16_safe_attention else {}


ROWS: dict[str, Row] = {
    "aurora.model.perceiver.PerceiverResampler": Row("aurora", resampler, "microsoft-aurora", call=_call)
}
