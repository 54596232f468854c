"""flamingo-pytorch 0.1.2 (Phil Wang): PerceiverResampler and GatedCrossAttentionBlock.

Read off its source: no biases but those of norms; exact GELU; keys and values are one linear map; scores of other
media are filled with `-finfo.max`, so that text which matches no medium averages all media, later ones included. Only
text before the first medium gets zeros, and only when the immediate medium alone is attended to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..autograd import ops
from ..autograd.tensor import array_of
from ..autograd.tree import Tree
from ..call import Call
from ..conventions import FLAMINGO_DIALECTS
from ..errors import InputError
from ..flamingo import GatedCrossAttention, PerceiverResampler, media_mask, preceding
from .base import REQUIRED, Arguments, Given, Outputs, Peer, Rebuilt, options, read_call
from .names import NORM, Table, bind, fused, same, transposed

_MEDIA = {"dim": REQUIRED, "dim_head": 64, "heads": 8, "ff_mult": 4}
RESAMPLER = {**_MEDIA, "num_latents": 64}
GATED = {**_MEDIA, "only_attend_immediate_media": True}

_ATTENTION: Table = {
    "query/weight": ("to_q.weight", transposed),
    "key/weight": ("to_kv.weight", fused(0, 2)),
    "value/weight": ("to_kv.weight", fused(1, 2)),
    "output/weight": ("to_out.weight", transposed),
}
_MLP: Table = {"hidden/weight": ("1.weight", transposed), "output/weight": ("3.weight", transposed)}
_LAYER: Table = {
    "features_norm": ("0.norm_media", NORM),
    "latents_norm": ("0.norm_latents", NORM),
    "attention": ("0", _ATTENTION),
    "mlp_norm": ("1.0", NORM),
    "mlp": ("1", _MLP),
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
RESAMPLER_POINTS = [
    (r"layers\.(\d+)\.0", r"resampler.layers.\1.attention"),
    (r"layers\.(\d+)\.1", r"resampler.layers.\1.mlp"),
    ("norm", "resampler"),
]
GATED_NAMES: Table = {
    "norm": ("attn.norm", NORM),
    "attention": ("attn", _ATTENTION),
    "attention_gate": ("attn_gate", same),
    "mlp_norm": ("ff.0", NORM),
    "mlp": ("ff", _MLP),
    "mlp_gate": ("ff_gate", same),
}
GATED_POINTS = [("attn", "attention_seen|attention"), ("ff", "mlp")]


def hidden(chosen: Mapping[str, Any]) -> int:
    """The width of the feed-forward, whose multiple may be broken."""
    width: int = int(chosen["dim"] * chosen["ff_mult"])
    return width


def _resampler(given: Given) -> Rebuilt:
    """A medium may come without its axis; every place among the media has an embedding."""
    chosen = options("PerceiverResampler", given.config, {**RESAMPLER, "depth": REQUIRED, "num_media_embeds": 4})
    model = PerceiverResampler(
        channels=chosen["dim"],
        latents=chosen["num_latents"],
        layers=chosen["depth"],
        heads=chosen["heads"],
        head_channels=chosen["dim_head"],
        media=chosen["num_media_embeds"],
        hidden=hidden(chosen),
        conventions=FLAMINGO_DIALECTS["lucidrains-flamingo"],
    )

    def run(params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("PerceiverResampler", arguments, called, {"x"}, {})
        x = values["x"]
        if len(x.shape) == 3:
            x = ops.reshape(x, shape=(x.shape[0], 1, *x.shape[1:]))
        if len(x.shape) != 4:
            raise InputError(f"x must be (batch, tokens, dim) or (batch, media, tokens, dim), got {tuple(x.shape)}")
        return {"out": model.apply(params, x)}

    return Rebuilt(model, bind(model.parameters(), RESAMPLER_NAMES), run, RESAMPLER_POINTS)


def _gated(given: Given) -> Rebuilt:
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

    def run(params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, wanted = read_call(
            "GatedCrossAttentionBlock", arguments, called, {"x", "media", "media_locations"}, known
        )
        x, media, mask = values["x"], values["media"], None
        if "media_locations" in values:
            phi = preceding(array_of(values["media_locations"]) != 0)
            if wanted.get("use_cached_media"):
                phi = phi[:, -1:].repeat(x.shape[1], axis=1)
            mask = media_mask(phi, media=media.shape[1], tokens=media.shape[2], which=which)
        elif wanted.get("use_cached_media"):
            raise InputError("use_cached_media needs media_locations, those of the cached tokens")
        return {"out": model.apply(params, x, media, mask=mask)}

    return Rebuilt(model, bind(model.parameters(), GATED_NAMES), run, GATED_POINTS)


PEER = Peer("lucidrains-flamingo", {"PerceiverResampler": _resampler, "GatedCrossAttentionBlock": _gated})
