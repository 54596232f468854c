"""PuLID (ToTheBeginning/PuLID at 1aa2fc7, `pulid/encoders_transformer.py`): IP-Adapter's attention, the same of other
features alone, and IDFormer, whose layers look at one scale of a vision encoder after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..autograd import ops
from ..autograd.tree import Tree
from ..errors import InputError
from ..models.activations import leaky_relu
from ..models.call import Call
from ..models.constraints import Count
from ..models.conventions import RESAMPLER_DIALECTS, Conventions
from ..models.flamingo.resampler import ResamplerLayer
from ..models.layers import Linear, Norm, norm
from ..models.module import Module, Parameter, part, truncated_normal
from ..models.resamplers import LatentAttention
from ..models.tracing import point, scope
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .hard_coded import hard_coded
from .ip_adapter import LAYER_NAMES, LAYER_POINTS, SIZE, attention_alone, only
from .names import LINEAR, NORM, Rows, Table, bind, inside, same

_ATTENTION = {"dim": SIZE, "dim_head": 64, "heads": 8, "kv_dim": Option(int)}
_CROSS = {"dim": 3072, "dim_head": 128, "heads": 16, "kv_dim": 2048}
_FORMER: dict[str, Any] = {
    "dim": 1024,
    "depth": 10,
    "dim_head": 64,
    "heads": 16,
    "num_id_token": 5,
    "num_queries": 32,
    "output_dim": 2048,
    "ff_mult": 4.0,
    "hard_coded_replacements": None,
}
_WIDTHS = ("features", "features")
_HARD_CODED = {
    "nn.Linear(1024, 1024)": _WIDTHS,
    "nn.LayerNorm(1024)": _WIDTHS[:1],
    "nn.Linear(1024, dim": _WIDTHS[:1],
    "nn.Linear(1280, 1024)": ("ids", "features"),
}
SCALES = 5


def _attention(given: Given) -> Rebuilt:
    """PerceiverAttention: features and latents are joined as keys, so that `kv_dim` must be `dim`."""
    chosen = options("PerceiverAttention", given.config, _ATTENTION)
    width = chosen["dim"] if chosen["kv_dim"] is None else chosen["kv_dim"]
    return _alone("PerceiverAttention", chosen, width, latents_in_keys=True)


def _cross_attention(given: Given) -> Rebuilt:
    """PerceiverAttentionCA: keys of the features alone; the image's tokens are the "latents"."""
    chosen = options("PerceiverAttentionCA", given.config, {**_CROSS, "kv_dim": Option(int)})
    width = chosen["kv_dim"] if "kv_dim" in given.config else _CROSS["kv_dim"]
    return _alone("PerceiverAttentionCA", chosen, chosen["dim"] if width is None else width, latents_in_keys=False)


def _alone(what: str, chosen: Mapping[str, Any], width: int, *, latents_in_keys: bool) -> Rebuilt:
    model = LatentAttention(
        chosen["dim"],
        width,
        heads=chosen["heads"],
        head_channels=positive("dim_head", chosen["dim_head"]),
        latents_in_keys=latents_in_keys,
        conventions=RESAMPLER_DIALECTS["pulid"],
    )
    return attention_alone(what, model)


@dataclass(frozen=True)
class Mapped(Module):
    """Three linear maps, the first two each with a norm and a leaky ReLU after it."""

    inputs: int
    hidden: int
    outputs: int
    conventions: Conventions

    @part
    def linear(self) -> tuple[Linear, ...]:
        """The maps."""
        return tuple(
            Linear(a, b) for a, b in ((self.inputs, self.hidden), (self.hidden,) * 2, (self.hidden, self.outputs))
        )

    @part
    def norm(self) -> tuple[Norm, ...]:
        """The norms after the first two."""
        return (norm(self.hidden, self.conventions),) * 2

    def parameters(self) -> Tree:
        return {name: [own.parameters() for own in getattr(self, name)] for name in ("linear", "norm")}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., inputs) -> (..., outputs)."""
        for i, own in enumerate(self.norm):
            x = point(f"linear.{i}", self.linear[i].apply(p["linear"][i], x))
            x = point(f"norm.{i}", own.apply(p["norm"][i], x))
            x = point(f"activation.{i}", leaky_relu(x))
        return point("", self.linear[-1].apply(p["linear"][-1], x))


@dataclass(frozen=True)
class IDFormer(Module):
    """Latents and tokens of identities attend, scale by scale, to features of a picture beside the identities' tokens.

        ids = map(embeddings), cut into tokens; z = [latents; ids]
        for each scale s: layers(z, features = [ids; map_s(y_s)]); out = z of the latents, times W; no norm at the end

    `layers` a scale. The identities' tokens among the features are those at the start, at every scale.
    """

    channels: int
    latents: int
    tokens: int
    outputs: int
    layers: Count
    ids: int
    features: int
    layer: ResamplerLayer
    arguments: ClassVar[tuple[str, ...]] = ("x", *(f"y.{i}" for i in range(SCALES)))

    @part
    def maps(self) -> tuple[Mapped, ...]:
        """The maps of the scales, and last that of identities."""
        scales = (Mapped(self.features, self.features, self.channels, self.layer.conventions),) * SCALES
        return (*scales, Mapped(self.ids, self.features, self.channels * self.tokens, self.layer.conventions))

    def parameters(self) -> Tree:
        drawn = truncated_normal(self.channels**-0.5)
        return {
            "latents": Parameter((self.latents, self.channels), drawn),
            "maps": [own.parameters() for own in self.maps],
            "layers": [self.layer.parameters() for _ in range(SCALES * self.layers)],
            "output": Parameter((self.channels, self.outputs), drawn),
        }

    def apply(self, p: Tree, embeddings: Any, *scales: Any) -> Any:
        """embeddings (B, I) or (B, m, I) of m identities, five features (B, S_i, C) -> (B, N, E)."""
        b = embeddings.shape[0]

        def mapped(i: int, x: Any) -> Any:
            with scope(f"maps.{i}"):
                return self.maps[i].apply(p["maps"][i], x)

        ids = ops.reshape(mapped(SCALES, embeddings), shape=(b, -1, self.channels))
        z = ops.concatenate([ops.broadcast_to(p["latents"], shape=(b, self.latents, self.channels)), ids], axis=1)
        for scale, features in enumerate(scales):
            x = self.context(ids, mapped(scale, features), z)
            for i in range(scale * self.layers, (scale + 1) * self.layers):
                with scope(f"layers.{i}"):
                    z = self.layer.apply(p["layers"][i], z, x)
        return point("output", ops.matmul(self.kept(z), p["output"]))

    def context(self, ids: Any, features: Any, z: Any) -> Any:
        """What a scale's layers look at, of the identities' tokens at the start, mapped features and the latents."""
        return ops.concatenate([ids, features], axis=1)

    def kept(self, z: Any) -> Any:
        """The latents of all tokens."""
        return z[:, : self.latents]


_MAP: Table = {
    **{f"linear/{i}": (f"{3 * i}", LINEAR) for i in range(3)},
    **{f"norm/{i}": (f"{3 * i + 1}", NORM) for i in range(2)},
}
_NAMES: Table = {
    "latents": ("latents", only),
    "output": ("proj_out", same),
    "layers/{i}": ("layers.{i}", LAYER_NAMES),
    f"maps/{SCALES}": ("id_embedding_mapping", _MAP),
    "maps/{i}": ("mapping_{i}", _MAP),
}
_MAP_POINTS: Rows = [
    *((rf"{3 * i + j}", f"{kind}.{i}") for i in range(2) for j, kind in enumerate(("linear", "norm", "activation"))),
    ("(6)?", ""),
]
_POINTS: Rows = [
    *inside("id_embedding_mapping", f"maps.{SCALES}", _MAP_POINTS[:-1]),
    (r"id_embedding_mapping(\.6)?", f"maps.{SCALES}"),
    *inside(r"mapping_(\d)", r"maps.\1", _MAP_POINTS[:-1]),
    (r"mapping_(\d)(?:\.6)?", r"maps.\1"),
    *LAYER_POINTS,
]


def _former(given: Given) -> Rebuilt:
    """IDFormer; `hard_coded_replacements` change the widths 1280 of embeddings and 1024 of features."""
    chosen = options("IDFormer", given.config, _FORMER)
    widths = {"ids": 1280, "features": 1024}
    widths |= hard_coded("IDFormer", chosen["hard_coded_replacements"], _HARD_CODED)
    if chosen["depth"] % SCALES:
        raise InputError(f"depth ({chosen['depth']}) must be divisible by the number of scales, {SCALES}")
    width = positive("dim", chosen["dim"])
    layer = ResamplerLayer(
        width,
        chosen["heads"],
        positive("dim_head", chosen["dim_head"]),
        hidden=int(width * chosen["ff_mult"]),
        conventions=RESAMPLER_DIALECTS["pulid"],
    )
    sizes = {"latents": chosen["num_queries"], "tokens": chosen["num_id_token"], "outputs": chosen["output_dim"]}
    model = IDFormer(channels=width, layers=chosen["depth"] // SCALES, layer=layer, **sizes, **widths)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("IDFormer", arguments, called, {"x", "y"}, {}, ["x", "y"])
        x, y = values["x"], values["y"]
        check_axes("x", x, "batch, dim", "batch, identities, dim")
        if not isinstance(y, Mapping) or sorted(y) != [str(i) for i in range(SCALES)]:
            raise InputError(f"IDFormer needs the arguments y.0 to y.{SCALES - 1}, features of one scale each")
        for i, features in y.items():
            check_axes(f"y.{i}", features, "batch, tokens, dim")
        return {"out": model.apply(params, x, *(y[str(i)] for i in range(SCALES)))}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


PEER = Peer(
    "pulid",
    {"PerceiverAttention": _attention, "PerceiverAttentionCA": _cross_attention, "IDFormer": _former},
)
