"""timm's and open_clip's attention poolers, read off attributes and shapes."""

from __future__ import annotations

from typing import Any

from .base import Row, Unread
from .lucidrains import multiple

_ACTIVATIONS = {
    ("GELU", "none"): "gelu",
    ("GELU", "tanh"): "gelu_tanh",
    ("GELUTanh", "none"): "gelu_tanh",
    ("ReLU", "none"): "relu",
    ("SiLU", "none"): "silu",
    ("QuickGELU", "none"): "quick_gelu",
}
"""By class and, of PyTorch's GELU, `approximate`."""
_NORMS = {
    ("layer", 1e-5): "torch.nn.LayerNorm",
    ("layer", 1e-6): "timm.layers.LayerNorm",
    ("rms", 1e-6): "timm.layers.RmsNorm",
}


def pool(module: Any) -> dict[str, Any]:
    """`AttentionPoolLatent` of timm."""
    width = module.kv.in_features
    made: dict[str, Any] = {
        "in_features": width,
        "num_heads": module.num_heads,
        "qkv_bias": module.kv.bias is not None,
        "q_proj": _is_map(module.q),
        "qk_norm": _is_map(module.q_norm),
        "latent_len": module.latent.shape[1],
        "latent_dim": module.latent.shape[2],
        "pool_type": module.pool,
        "out_features": 0,
    }
    if module.pos_embed is not None:
        made |= {"pos_embed": "abs", "feat_size": module.pos_embed.shape[0]}
    if module.mlp is not None:
        outputs = module.proj.out_features
        made |= {
            "out_features": outputs,
            "mlp_ratio": multiple(module.mlp.fc1.out_features, outputs),
            "act_layer": _activation(module.mlp.act),
        }
    norm = _norm(module)
    return made if norm is None else {**made, "norm_layer": norm}


def _is_map(part: Any) -> bool:
    """Whether a part is more than the identity that stands where there is none."""
    return getattr(part, "weight", None) is not None


def _activation(part: Any) -> str:
    key = (type(part).__name__, getattr(part, "approximate", "none"))
    if key not in _ACTIVATIONS:
        raise Unread(f"an activation of class {type(part).__module__}.{key[0]}")
    return _ACTIVATIONS[key]


def _norm(module: Any) -> str | None:
    """`norm_layer`: of all norms there are; None where the MLP has none, and queries and keys PyTorch's or none."""
    parts = [part for part in (module.norm, module.q_norm, module.k_norm) if _is_map(part)]
    kinds = {("rms" if "rms" in type(part).__name__.lower() else "layer", part.eps) for part in parts}
    if not kinds:
        return None
    if len(kinds) > 1 or not kinds <= set(_NORMS) or any(p.bias is None for p in parts if _has_offset(p)):
        raise Unread(f"norms {sorted(map(str, kinds))}")
    name = _NORMS[kinds.pop()]
    if module.mlp is None or _is_map(module.norm):
        return name
    if name != "torch.nn.LayerNorm":
        raise Unread(f"{name} of queries and keys, and no norm of the MLP")
    return None


def _has_offset(part: Any) -> bool:
    """Whether a norm is one with means, and so with an offset."""
    return "rms" not in type(part).__name__.lower()


def attentional(module: Any) -> dict[str, Any]:
    """`AttentionalPooler` of open_clip."""
    count, width = module.query.shape
    if module.ln_q.eps != module.ln_k.eps:
        raise Unread(f"norms with eps {module.ln_q.eps} and {module.ln_k.eps}")
    return {
        "d_model": width,
        "context_dim": module.ln_k.normalized_shape[0],
        "n_head": module.attn.num_heads,
        "n_queries": count,
        "norm_eps": module.ln_q.eps,
    }


ROWS: dict[str, Row] = {
    "timm.layers.attention_pool.AttentionPoolLatent": Row(
        "timm", pool, "timm", call=lambda module: {"fused_attn": bool(module.fused_attn)}
    ),
    "open_clip.transformer.AttentionalPooler": Row(
        "open-clip", attentional, "open-clip-torch", float32=frozenset({"LayerNormFp32"})
    ),
}
