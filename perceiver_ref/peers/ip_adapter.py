"""IP-Adapter (tencent-ailab/IP-Adapter at 62e4af9; `ip-adapter` 0.1.0): its resamplers, which diffusers has, too.

Read off its source: features mapped to the latents' width, layers like those of Flamingo's resampler without biases, a
map to the width of the text encoder and a norm after it. Heads are as wide as wanted. The scale of scores is split
evenly over queries and keys, and their softmax runs in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..autograd import ops
from ..autograd.tree import Tree
from ..models.activations import activations
from ..models.call import Call
from ..models.conventions import RESAMPLER_DIALECTS
from ..models.layers import Linear, Norm, norm
from ..models.module import Module, part
from ..models.resamplers import LatentAttention, Resampler
from ..models.tracing import point
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .hard_coded import hard_coded
from .lucidrains.flamingo.parts import ATTENTION, MLP, MLP_POINTS
from .names import LINEAR, NORM, Rows, Table, bind, inside, renamed, same

SIZE = Option(int, required=True)
_ATTENTION = {"dim": SIZE, "dim_head": 64, "heads": 8}
_FACE = {
    "dim": 768,
    "depth": 4,
    "dim_head": 64,
    "heads": 16,
    "embedding_dim": 1280,
    "output_dim": 768,
    "ff_mult": 4.0,
}
_RESAMPLER = {
    **_FACE,
    "dim": 1024,
    "depth": 8,
    "num_queries": 8,
    "embedding_dim": 768,
    "output_dim": 1024,
    "max_seq_len": 257,
    "apply_pos_emb": False,
    "num_latents_mean_pooled": 0,
}
_PROJECTION: dict[str, Any] = {
    "cross_attention_dim": 768,
    "id_embeddings_dim": 512,
    "clip_embeddings_dim": 1280,
    "num_tokens": 4,
    "hard_coded_replacements": None,
}
_HARD_CODED = {
    "depth=4": ("depth",),
    "dim_head=64": ("dim_head",),
    "heads=cross_attention_dim // 64": ("divisor",),
    "ff_mult=4": ("ff_mult",),
}


def only(array: Any) -> Any:
    """(1, N, D) as (N, D)."""
    return array[0]


ATTENTION_NAMES: Table = {
    "features_norm": ("norm1", NORM),
    "latents_norm": ("norm2", NORM),
    "attention": ("", ATTENTION),
}
LAYER_NAMES: Table = {**renamed("0", ATTENTION_NAMES), "mlp_norm": ("1.0", NORM), "mlp": ("1", MLP)}
AROUND: Table = {
    "latents": ("latents", only),
    "input": ("proj_in", LINEAR),
    "output": ("proj_out", LINEAR),
    "norm": ("norm_out", NORM),
}
"""What is around the layers."""
NAMES: Table = {
    **AROUND,
    "positions": ("pos_emb.weight", same),
    "pool/norm": ("to_latents_from_mean_pooled_seq.0", NORM),
    "pool/linear": ("to_latents_from_mean_pooled_seq.1", LINEAR),
    "layers/{i}": ("layers.{i}", LAYER_NAMES),
}
ATTENTION_POINTS: Rows = [
    ("norm1", "features_norm"),
    ("norm2", "latents_norm"),
    ("to_q", "attention.query"),
    ("to_kv", "attention.key_value"),
    ("to_out", "attention"),
]
LAYER_POINTS: Rows = [
    *inside(r"layers\.(\d+)\.0", r"layers.\1", [("", "attention"), *ATTENTION_POINTS]),
    *inside(r"layers\.(\d+)\.1", r"layers.\1", MLP_POINTS),
]
AROUND_POINTS: Rows = [("proj_in", "projected"), ("proj_out", "output"), ("norm_out", "")]
POINTS: Rows = inside(
    "",
    "resampler",
    [
        *AROUND_POINTS,
        ("pos_emb", "positions"),
        (r"to_latents_from_mean_pooled_seq\.0", "pooled.norm"),
        (r"to_latents_from_mean_pooled_seq\.1", "pooled.linear"),
        (r"to_latents_from_mean_pooled_seq(?:\.2)?", "pooled"),
        *LAYER_POINTS,
    ],
)


@dataclass(frozen=True)
class FaceProjection(Module):
    """The embedding of a face as tokens that look at features of its picture (IP-Adapter FaceID Plus).

        e = norm(W2 gelu(W1 ids + b1) + b2, cut into tokens); y = resampler(latents = e, features)

    ids: their width, `hidden`: that between the maps.
    """

    ids: int
    hidden: int
    tokens: int
    resampler: Resampler
    arguments: ClassVar[tuple[str, ...]] = ("id_embeds", "clip_embeds")

    @part
    def first(self) -> Linear:
        """The map of embeddings."""
        return Linear(self.ids, self.hidden)

    @part
    def second(self) -> Linear:
        """The map to all tokens."""
        return Linear(self.hidden, self.tokens * self.resampler.channels)

    @part
    def norm(self) -> Norm:
        """The norm of each token."""
        return norm(self.resampler.channels, self.resampler.conventions)

    def apply(self, p: Tree, ids: Any, features: Any, *, shortcut: float | None = None) -> Any:
        """ids (..., I), features (..., S, C) -> (B, tokens, E); B is all axes before the last (two) together.

        shortcut: what comes of the resampler, times this, is added to the tokens, which must be as wide.
        """
        h = point("ids.first", self.first.apply(p["first"], ids))
        h = point("ids.activation", activations[self.resampler.conventions.activation](h))
        h = point("ids.second", self.second.apply(p["second"], h))
        tokens = ops.reshape(h, shape=(-1, self.tokens, self.resampler.channels))
        tokens = point("ids.norm", self.norm.apply(p["norm"], tokens))
        out = self.resampler.apply(p["resampler"], features, latents=tokens)
        return out if shortcut is None else ops.add(tokens, ops.multiply(out, float(shortcut)))


def latent_attention(given: Given) -> Rebuilt:
    """PerceiverAttention."""
    chosen = options("PerceiverAttention", given.config, _ATTENTION)
    model = LatentAttention(
        chosen["dim"], heads=chosen["heads"], head_channels=positive("dim_head", chosen["dim_head"])
    )
    return attention_alone("PerceiverAttention", model)


def attention_alone(what: str, model: LatentAttention) -> Rebuilt:
    """A class of a layer's attention alone, called with `x` and `latents`."""

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(what, arguments, called, {"x", "latents"}, {}, ["x", "latents"])
        for name in ("x", "latents"):
            check_axes(name, values[name], "batch, tokens, dim")
        return {"out": model.apply(params, values["latents"], values["x"])}

    return Rebuilt(model, bind(model.parameters(), ATTENTION_NAMES), run, ATTENTION_POINTS)


def resampler_of(chosen: Mapping[str, Any], **own: Any) -> Resampler:
    """The resampler of options by IP-Adapter's names."""
    return Resampler(
        channels=positive("dim", chosen["dim"]),
        features=chosen["embedding_dim"],
        outputs=chosen["output_dim"],
        layers=chosen["depth"],
        heads=chosen["heads"],
        head_channels=positive("dim_head", chosen["dim_head"]),
        hidden=int(chosen["dim"] * chosen["ff_mult"]),
        conventions=RESAMPLER_DIALECTS["ip-adapter"],
        **own,
    )


def _resampler(given: Given) -> Rebuilt:
    chosen = options("Resampler", given.config, _RESAMPLER)
    model = resampler_of(
        chosen,
        latents=chosen["num_queries"],
        pooled=chosen["num_latents_mean_pooled"],
        places=chosen["max_seq_len"] if chosen["apply_pos_emb"] else None,
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("Resampler", arguments, called, {"x"}, {}, ["x"])
        check_axes("x", values["x"], "batch, tokens, dim")
        return {"out": model.apply(params, values["x"])}

    return Rebuilt(model, bind(model.parameters(), NAMES), run, POINTS)


def _face_resampler(given: Given) -> Rebuilt:
    chosen = options("FacePerceiverResampler", given.config, _FACE)
    model = resampler_of(chosen, latents=None)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = ["latents", "x"]
        values, _ = read_call("FacePerceiverResampler", arguments, called, set(names), {}, names)
        check_axes("x", values["x"], "batch, tokens, dim")
        return {"out": model.apply(params, values["x"], latents=values["latents"])}

    return Rebuilt(model, bind(model.parameters(), NAMES), run, POINTS)


_PROJECTION_NAMES: Table = {
    "first": ("proj.0", LINEAR),
    "second": ("proj.2", LINEAR),
    "norm": ("norm", NORM),
    "resampler": ("perceiver_resampler", NAMES),
}
PROJECTION_POINTS: Rows = [("proj", "ids.second"), ("norm", "ids.norm")]
_PROJECTION_POINTS: Rows = [
    *PROJECTION_POINTS,
    (r"proj\.0", "ids.first"),
    (r"proj\.1", "ids.activation"),
    (r"proj\.2", "ids.second"),
    ("perceiver_resampler", "resampler"),
    *inside("perceiver_resampler", "", POINTS),
]


def _projection(given: Given) -> Rebuilt:
    chosen = options("ProjPlusModel", given.config, _PROJECTION)
    width = chosen["cross_attention_dim"]
    constants = {"depth": 4, "dim_head": 64, "ff_mult": 4}
    constants |= hard_coded("ProjPlusModel", chosen["hard_coded_replacements"], _HARD_CODED)
    constants.setdefault("heads", width // constants.pop("divisor", 64))
    sizes = {"dim": width, "embedding_dim": chosen["clip_embeddings_dim"], "output_dim": width}
    resampler = resampler_of(options("FacePerceiverResampler", {**constants, **sizes}, _FACE), latents=None)
    ids = chosen["id_embeddings_dim"]
    model = FaceProjection(ids, 2 * ids, chosen["num_tokens"], resampler)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names, known = ["id_embeds", "clip_embeds"], {"shortcut": False, "scale": 1.0}
        values, wanted = read_call("ProjPlusModel", arguments, called, set(names), known, names)
        check_axes("clip_embeds", values["clip_embeds"], "batch, tokens, dim")
        shortcut = wanted["scale"] if wanted["shortcut"] else None
        return {"out": model.apply(params, values["id_embeds"], values["clip_embeds"], shortcut=shortcut)}

    return Rebuilt(model, bind(model.parameters(), _PROJECTION_NAMES), run, _PROJECTION_POINTS)


PEER = Peer(
    "ip-adapter",
    {
        "PerceiverAttention": latent_attention,
        "Resampler": _resampler,
        "FacePerceiverResampler": _face_resampler,
        "ProjPlusModel": _projection,
    },
)
