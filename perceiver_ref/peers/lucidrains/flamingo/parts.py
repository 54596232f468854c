"""Resampler and gated block, and what peers that are built like them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....autograd import ops
from ....autograd.backend import Array, xp
from ....autograd.core import array_of
from ....autograd.tree import Tree
from ....errors import InputError
from ....models.call import Call
from ....models.conventions import FLAMINGO_DIALECTS
from ....models.flamingo import GatedCrossAttention, PerceiverResampler, media_mask, preceding
from ...base import Arguments, Given, Option, Outputs, Rebuilt, check_axes, options, read_call
from ...names import NORM, Rows, Table, bind, fused, inside, same, transposed

SIZE = Option(int, required=True)
_MEDIA = {"dim": SIZE, "dim_head": 64, "heads": 8, "ff_mult": 4.0}
RESAMPLER = {**_MEDIA, "num_latents": 64}
GATED = {**_MEDIA, "only_attend_immediate_media": True}

ATTENTION: Table = {
    "query/weight": ("to_q.weight", transposed),
    "key/weight": ("to_kv.weight", fused(0, 2)),
    "value/weight": ("to_kv.weight", fused(1, 2)),
    "output/weight": ("to_out.weight", transposed),
}
MLP: Table = {"hidden/weight": ("1.weight", transposed), "output/weight": ("3.weight", transposed)}
_LAYER: Table = {
    "features_norm": ("0.norm_media", NORM),
    "latents_norm": ("0.norm_latents", NORM),
    "attention": ("0", ATTENTION),
    "mlp_norm": ("1.0", NORM),
    "mlp": ("1", MLP),
}


def _embedding(array: Any) -> Any:
    """(media, 1, D) as (media, D)."""
    return array[:, 0]


RESAMPLER_NAMES: Table = {
    "latents": ("latents", same),
    "media_embedding": ("media_pos_emb", _embedding),
    "layers/{i}": ("layers.{i}", _LAYER),
    "norm": ("norm", NORM),
}
ATTENTION_POINTS: Rows = [
    ("norm_media", "features_norm"),
    ("norm_latents", "latents_norm"),
    ("to_q", "attention.query"),
    ("to_kv", "attention.key_value"),
    ("to_out", "attention"),
]
MLP_POINTS: Rows = [("", "mlp"), ("0", "mlp_norm"), ("1", "mlp.hidden"), ("2", "mlp.activation"), ("3", "mlp")]
"""Of a feed-forward that is a Sequential: norm, linear map, activation, linear map."""
RESAMPLER_POINTS: Rows = [
    *inside(r"layers\.(\d+)\.0", r"resampler.layers.\1", [("", "attention"), *ATTENTION_POINTS]),
    *inside(r"layers\.(\d+)\.1", r"resampler.layers.\1", MLP_POINTS),
    ("norm", "resampler"),
]
GATED_NAMES: Table = {
    "norm": ("attn.norm", NORM),
    "attention": ("attn", ATTENTION),
    "attention_gate": ("attn_gate", same),
    "mlp_norm": ("ff.0", NORM),
    "mlp": ("ff", MLP),
    "mlp_gate": ("ff_gate", same),
}
GATED_POINTS: Rows = [
    ("attn", "attention_seen|attention"),
    ("attn\\.to_out", "attention_seen|attention"),
    ("attn\\.norm", "norm"),
    *inside("attn", "", ATTENTION_POINTS),
    *inside("ff", "", MLP_POINTS),
]


def hidden(chosen: Mapping[str, Any]) -> int:
    """The width of the feed-forward, whose multiple of the width may be a fraction."""
    return int(chosen["dim"] * chosen["ff_mult"])


def one_for_all(embeddings: Any, places: int) -> Any:
    """PyTorch's broadcasting makes a single embedding (1, D) serve all places."""
    only = embeddings.shape[0] == 1 and places > 1
    return ops.broadcast_to(embeddings, shape=(places, embeddings.shape[-1])) if only else embeddings


def resampler(
    chosen: Mapping[str, Any], dialect: str, *, media: int | None, frames: int | None = None
) -> PerceiverResampler:
    """The resampler of these options, with embeddings of so many media and frames."""
    return PerceiverResampler(
        channels=chosen["dim"],
        latents=chosen["num_latents"],
        layers=chosen["depth"],
        heads=chosen["heads"],
        head_channels=chosen["dim_head"],
        frames=frames,
        media=media,
        hidden=hidden(chosen),
        conventions=FLAMINGO_DIALECTS[dialect],
    )


def perceiver_resampler(given: Given) -> Rebuilt:
    """PerceiverResampler: a medium may come without its axis; every place among the media has an embedding."""
    chosen = options("PerceiverResampler", given.config, {**RESAMPLER, "depth": SIZE, "num_media_embeds": 4})
    model = resampler(chosen, "lucidrains-flamingo", media=chosen["num_media_embeds"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("PerceiverResampler", arguments, called, {"x"}, {}, ["x"])
        x = values["x"]
        check_axes("x", x, "batch, tokens, dim", "batch, media, tokens, dim")
        if len(x.shape) == 3:
            x = ops.reshape(x, shape=(x.shape[0], 1, *x.shape[1:]))
        table = one_for_all(params["media_embedding"], x.shape[1])
        return {"out": model.with_fields(media=table.shape[0]).apply({**params, "media_embedding": table}, x)}

    return Rebuilt(model, bind(model.parameters(), RESAMPLER_NAMES), run, RESAMPLER_POINTS)


def gated_cross_attention(given: Given) -> Rebuilt:
    """GatedCrossAttentionBlock."""
    chosen = options("GatedCrossAttentionBlock", given.config, GATED)
    return gated_block(chosen, chosen["dim"], "lucidrains-flamingo")


def gated_block(chosen: Mapping[str, Any], media_channels: int, dialect: str) -> Rebuilt:
    """A GatedCrossAttentionBlock; with `use_cached_media` the locations are those of the tokens before the new ones."""
    model = GatedCrossAttention(
        channels=chosen["dim"],
        media_channels=media_channels,
        heads=chosen["heads"],
        head_channels=chosen["dim_head"],
        hidden=hidden(chosen),
        conventions=FLAMINGO_DIALECTS[dialect],
    )
    which: Any = "immediate" if chosen["only_attend_immediate_media"] else "all"
    known = {"use_cached_media": False} if dialect == "open-flamingo" else {}

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = ["x", "media", "media_locations"]
        values, wanted = read_call("GatedCrossAttentionBlock", arguments, called, set(names), known, names[:2])
        x, media, cached = values["x"], values["media"], wanted.get("use_cached_media", False)
        check_axes("x", x, "batch, tokens, dim")
        check_axes("media", media, "batch, media, tokens, dim")
        if "media_locations" not in values:
            if dialect == "open-flamingo" and not cached:
                raise InputError("GatedCrossAttentionBlock needs the argument 'media_locations', but for cached media")
            return {"out": model.apply(params, x, media)}
        phi = _times(array_of(values["media_locations"]), tuple(x.shape[:2]), cached)
        mask = media_mask(phi, media=media.shape[1], tokens=media.shape[2], which=which)
        return {"out": model.apply(params, x, media, mask=mask)}

    return Rebuilt(model, bind(model.parameters(), GATED_NAMES), run, GATED_POINTS)


def _times(locations: Array, text: tuple[int, ...], cached: bool) -> Array:
    """How many media come up to each token (B, L): for `cached` ones, all that are among the earlier tokens."""
    if locations.ndim != 2 or locations.shape[0] not in (1, text[0]) or not (cached or locations.shape[1] == text[1]):
        wanted = f"({text[0]}, earlier tokens)" if cached else str(text)
        raise InputError(f"media_locations must be {wanted}, got {tuple(locations.shape)}")
    tags = locations != 0
    phi = tags.sum(1, dtype="int64")[:, None] if cached else preceding(tags)
    return xp(phi).broadcast_to(phi, text)
