"""perceiver-pytorch and flamingo-pytorch: what their modules were made with, read off attributes and shapes.

They keep no configuration. Where an attribute has a value that no argument gives, such as another scale, a module is
not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .base import Row, Unread


def heads(attention: Any, name: str = "heads", inner: int | None = None) -> dict[str, int]:
    """Heads and their width, of any of these attentions; the scale must be that of the width. `inner`: channels of all
    heads, where they are not those of `to_q`."""
    count, inner = attention.heads, attention.to_q.out_features if inner is None else inner
    width = inner // count
    if width * count != inner or not math.isclose(attention.scale, width**-0.5):
        raise Unread(f"{count} heads of {inner} channels with scale {attention.scale}")
    prefix = name.removesuffix("heads")
    return {name: count, f"{prefix}dim_head": width}


def multiple(inner: int, width: int) -> float | int:
    """What a width was multiplied by to give another, which was rounded down."""
    exact, rest = divmod(inner, width)
    return exact if not rest else inner / width if int(width * (inner / width)) == inner else (inner + 0.5) / width


def attention(module: Any) -> dict[str, Any]:
    """`Attention`."""
    query, context = module.to_q.in_features, module.to_kv.in_features
    made = {"query_dim": query, "context_dim": context, **heads(module), **_dropout(module, "dropout")}
    joins = getattr(module, "queries_contribute_kv", False)
    return {**made, "queries_contribute_kv": True} if joins else made


def feed_forward(module: Any) -> dict[str, Any]:
    """`FeedForward`."""
    width = module.net[0].in_features
    return {"dim": width, "mult": _multiple(module, width), **({"dropout": d} if (d := _net_dropout(module)) else {})}


def block(module: Any) -> dict[str, Any]:
    """`PerceiverBlock`."""
    made: dict[str, Any] = {
        "self_per_cross_attn": len(module.self_attns),
        "has_cross_attn": bool(module.has_cross_attn),
    }
    first = None
    if module.has_cross_attn:
        cross = module.cross_attn.fn
        made |= {"dim": cross.to_q.in_features, "context_dim": cross.to_kv.in_features, **heads(cross, "cross_heads")}
        if cross.queries_contribute_kv:
            made["queries_contribute_kv"] = True
        first = (cross, module.cross_ff.fn)
    if len(module.self_attns):
        own, ff = (part.fn for part in module.self_attns[0])
        made |= {"dim": own.to_q.in_features, **heads(own, "latent_heads")}
        first = (own, ff)
    if first is None:
        raise Unread("a block without any layer")
    return {**made, **_dropouts(*first)}


def residual(module: Any) -> dict[str, Any]:
    """`EnformerAttentionResidual`."""
    first = module.to_attn_logits[1]
    return {"dim": first.in_features, "rank": first.out_features}


def perceiver(module: Any) -> dict[str, Any]:
    """`Perceiver`."""
    first = module.layers[0]
    made = {**_grid(module, block(first), module.fourier_encode_data), "self_per_cross_attn": len(first.self_attns)}
    head = len(list(module.to_logits.children()))
    made |= {"final_classifier_head": bool(head), **({"num_classes": module.to_logits[2].out_features} if head else {})}
    made |= {
        "fourier_encode_data": bool(module.fourier_encode_data),
        "inverted_cross_attn": [bool(one) for one in module.inverted_cross_attn],
        **_residuals(module),
    }
    return {**made, "weight_tie_layers": _tied(module, 1)}


def gated(module: Any) -> dict[str, Any]:
    """`gated.Perceiver`."""
    cross, ff, own, _ = module.layers[0]
    return _variant(module, cross.fn.fn, own.fn.fn, ff.fn.fn)


def mixed_latents(module: Any) -> dict[str, Any]:
    """`mixed_latents.Perceiver`."""
    cross, ff, _, _ = module.layers[0]
    return _variant(module, cross.fn, None, ff.fn)


def experimental(module: Any) -> dict[str, Any]:
    """`experimental.Perceiver`."""
    cross, ff, *_, own, _ = module.layers[0]
    made = _variant(module, cross.fn, own.fn, ff.fn, bool(module.fourier_encode_data))
    return {**made, "fourier_encode_data": bool(module.fourier_encode_data)}


def perceiver_io(module: Any) -> dict[str, Any]:
    """`PerceiverIO`."""
    first = block(module.cross_attend_block)
    count, width = module.latents.shape
    logits = getattr(module.to_logits, "out_features", None)
    made = {
        "depth": len(module.layers),
        "dim": first["context_dim"],
        "queries_dim": module.decoder_cross_attn.fn.to_q.in_features,
        **({} if logits is None else {"logits_dim": logits}),
        "num_latents": count,
        "latent_dim": width,
        **{name: first[name] for name in ("cross_heads", "cross_dim_head")},
        "weight_tie_layers": _tied(module, 0),
        "decoder_ff": module.decoder_ff is not None,
        "seq_dropout_prob": module.seq_dropout_prob,
        "inverted_cross_attn": bool(module.inverted_cross_attn),
        **_residuals(module),
    }
    if len(module.layers):
        own = block(module.layers[0])
        made |= {name: own[name] for name in ("latent_heads", "latent_dim_head")}
    return made


def perceiver_lm(module: Any) -> dict[str, Any]:
    """`PerceiverLM`."""
    inner = {k: v for k, v in perceiver_io(module.perceiver_io).items() if k not in ("queries_dim", "logits_dim")}
    tokens, length = module.token_emb.num_embeddings, module.pos_emb.num_embeddings
    return {**inner, "num_tokens": tokens, "max_seq_len": length}


def resampler(module: Any) -> dict[str, Any]:
    """`PerceiverResampler`, of flamingo-pytorch and, but for embeddings, of open_flamingo."""
    count, width = module.latents.shape
    made: dict[str, Any] = {"dim": width, "depth": len(module.layers), "num_latents": count}
    if len(module.layers):
        attend, ff = module.layers[0]
        made |= {**heads(attend), "ff_mult": multiple(ff[1].out_features, width)}
    return made


def gated_block(module: Any) -> dict[str, Any]:
    """`GatedCrossAttentionBlock`, of flamingo-pytorch and, but for the width of media, of open_flamingo."""
    width = module.attn.to_q.in_features
    return {
        "dim": width,
        **heads(module.attn),
        "ff_mult": multiple(module.ff[1].out_features, width),
        "only_attend_immediate_media": bool(module.attn.only_attend_immediate_media),
    }


def palm(module: Any) -> dict[str, Any]:
    """`FlamingoPaLM`; its image encoder is left out of account."""
    tokens, width = module.token_emb.num_embeddings, module.token_emb.embedding_dim
    crosses = [i for i, (_, cross) in enumerate(module.layers) if cross is not None]
    first = module.layers[0][0].fn
    frames = module.video_frame_pos_emb
    inner = module.perceiver_resampler
    scale = first.attn_out.in_features // first.heads
    if not math.isclose(first.scale, scale**-0.5):
        raise Unread(f"{first.heads} heads with scale {first.scale}")
    return {
        "dim": width,
        "num_tokens": tokens,
        "depth": len(module.layers),
        "dim_head": scale,
        "heads": first.heads,
        "ff_mult": first.ff_out[1].in_features // width,
        "media_token_id": module.media_token_id,
        "cross_attn_every": crosses[1] - crosses[0] if len(crosses) > 1 else len(module.layers),
        "perceiver_num_latents": inner.latents.shape[0],
        "perceiver_depth": len(inner.layers),
        "max_video_frames": None if frames is None else frames.shape[0],
        "only_attend_immediate_media": bool(module.layers[0][1].attn.only_attend_immediate_media),
    }


def _variant(module: Any, cross: Any, own: Any, ff: Any, encoded: bool = True) -> dict[str, Any]:
    made: dict[str, Any] = {**heads(cross, "cross_heads"), **(heads(own, "latent_heads") if own is not None else {})}
    made |= {"context_dim": cross.to_kv.in_features, **_dropouts(cross, ff)}
    head = module.to_logits[1].out_features
    return {**_grid(module, made, encoded), "num_classes": head, "weight_tie_layers": _tied(module, 1)}


def _grid(module: Any, first: Mapping[str, Any], encoded: bool) -> dict[str, Any]:
    """What every `Perceiver` takes, given the options of its first block."""
    axes, bands = module.input_axis, module.num_freq_bands
    count, width = module.latents.shape
    kept = ("cross_heads", "cross_dim_head", "latent_heads", "latent_dim_head", "attn_dropout", "ff_dropout")
    return {
        "num_freq_bands": bands,
        "depth": len(module.layers),
        "max_freq": module.max_freq,
        "input_channels": first["context_dim"] - (axes * (2 * bands + 1) if encoded else 0),
        "input_axis": axes,
        "num_latents": count,
        "latent_dim": width,
        **{name: first[name] for name in kept if name in first},
    }


def _residuals(module: Any) -> dict[str, Any]:
    if not module.has_attn_residual:
        return {}
    return {"attn_residual": True, "attn_residual_rank": residual(module.attn_residuals[0])["rank"]}


def _tied(module: Any, first: int) -> bool:
    """Whether layers from this one on are one layer; one alone may be either."""
    layers = list(module.layers)[first:]
    if len(layers) < 2:
        return False
    parts = [layer if not hasattr(layer, "__getitem__") else layer[0] for layer in layers]
    return parts[0] is parts[1]


def _multiple(module: Any, width: int) -> int:
    inner, rest = divmod(module.net[2].in_features, width)
    if rest:
        raise Unread(f"a hidden layer of {module.net[2].in_features} channels for {width}")
    return int(inner)


def _net_dropout(module: Any) -> float:
    return float(module.net[3].p) if len(module.net) > 3 else 0.0


def _dropout(module: Any, name: str) -> dict[str, float]:
    rate = getattr(getattr(module, "dropout", None), "p", 0.0)
    return {name: rate} if rate else {}


def _dropouts(attend: Any, ff: Any) -> dict[str, float]:
    made = _dropout(attend, "attn_dropout")
    return {**made, "ff_dropout": rate} if (rate := _net_dropout(ff)) else made


_PERCEIVER, _FLAMINGO = "lucidrains-perceiver", "lucidrains-flamingo"
_GRIDS = frozenset({"Perceiver"})
"""The variants make their grids in PyTorch's default dtype."""
_READERS = {
    "perceiver_pytorch.Perceiver": perceiver,
    "perceiver_pytorch.PerceiverBlock": block,
    "perceiver_pytorch.Attention": attention,
    "perceiver_pytorch.FeedForward": feed_forward,
    "perceiver_pytorch.EnformerAttentionResidual": residual,
    "perceiver_io.PerceiverIO": perceiver_io,
    "perceiver_io.PerceiverLM": perceiver_lm,
}
_VARIANTS = {
    "gated.Perceiver": gated,
    "mixed_latents.Perceiver": mixed_latents,
    "experimental.Perceiver": experimental,
}
_PIP, _FLAMINGO_PIP = "perceiver-pytorch", "flamingo-pytorch"
ROWS: dict[str, Row] = {
    **{f"perceiver_pytorch.{path}": Row(_PERCEIVER, reader, _PIP) for path, reader in _READERS.items()},
    "perceiver_pytorch.perceiver_pytorch.GEGLU": Row(_PERCEIVER, distribution=_PIP),
    "perceiver_pytorch.perceiver_io.GEGLU": Row(_PERCEIVER, distribution=_PIP),
    "perceiver_pytorch.perceiver_io.Attention": Row(_PERCEIVER, attention, _PIP),
    "perceiver_pytorch.perceiver_io.FeedForward": Row(_PERCEIVER, feed_forward, _PIP),
    "perceiver_pytorch.perceiver_io.EnformerAttentionResidual": Row(_PERCEIVER, residual, _PIP),
    **{
        f"perceiver_pytorch.{path}": Row(_PERCEIVER, reader, _PIP, float32=_GRIDS) for path, reader in _VARIANTS.items()
    },
    "flamingo_pytorch.flamingo_pytorch.PerceiverResampler": Row(
        _FLAMINGO, lambda m: {**resampler(m), "num_media_embeds": m.media_pos_emb.shape[0]}, _FLAMINGO_PIP
    ),
    "flamingo_pytorch.flamingo_pytorch.GatedCrossAttentionBlock": Row(_FLAMINGO, gated_block, _FLAMINGO_PIP),
    "flamingo_pytorch.flamingo_palm.FlamingoPaLM": Row(
        _FLAMINGO,
        palm,
        _FLAMINGO_PIP,
        arguments={"embeds": "images"},
        without=("img_encoder.",),
        encoder="img_encoder",
    ),
}
