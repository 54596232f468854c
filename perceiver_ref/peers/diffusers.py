"""diffusers 0.42.1 (`models/embeddings.py`): image projections of IP-Adapter Plus, FaceID Plus and for SD3.

Plus is IP-Adapter's Resampler and FaceIDPlus its ProjPlusModel, by other names. SD3's has a timestep besides, which
shifts and scales what norms give (adaptive layer norm, Peebles and Xie 2022, arXiv 2212.09748); that is here alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..autograd import ops
from ..autograd.backend import xp
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError
from ..models.call import Call
from ..models.conventions import RESAMPLER_DIALECTS
from ..models.flamingo.resampler import ResamplerLayer
from ..models.layers import Linear
from ..models.module import Module, part, variant
from ..models.resamplers import Resampler
from ..models.tracing import point, scope
from .base import Arguments, Given, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .ip_adapter import AROUND, AROUND_POINTS, PROJECTION_POINTS, FaceProjection
from .names import LINEAR, NORM, Rows, Table, bind, fused, inside, transposed

_LAYERS = {"depth": 4, "dim_head": 64, "heads": 16, "ffn_ratio": 4.0}
_PLUS = {"embed_dims": 768, "output_dims": 1024, "hidden_dims": 1280, **_LAYERS, "num_queries": 8}
_FACE = {
    **_PLUS,
    "output_dims": 768,
    "id_embeddings_dim": 512,
    "num_tokens": 4,
    "ffproj_ratio": 2.0,
}
_TIME = {
    **_LAYERS,
    "heads": 20,
    "embed_dim": 1152,
    "output_dim": 2432,
    "hidden_dim": 1280,
    "num_queries": 64,
    "timestep_in_dim": 320,
    "timestep_flip_sin_to_cos": True,
    "timestep_freq_shift": 0.0,
}
_NORMS: Table = {"features_norm": ("ln0", NORM), "latents_norm": ("ln1", NORM)}
_QUERY: Table = {"query/weight": ("to_q.weight", transposed), "output/weight": ("to_out.0.weight", transposed)}
_APART: Table = {**_QUERY, "key/weight": ("to_k.weight", transposed), "value/weight": ("to_v.weight", transposed)}
_FUSED: Table = {**_QUERY, "key/weight": ("to_kv.weight", fused(0, 2)), "value/weight": ("to_kv.weight", fused(1, 2))}
_MLP: Table = {
    "hidden/weight": ("net.0.proj.weight", transposed),
    "output/weight": ("net.2.weight", transposed),
}
_LAYER: Table = {**_NORMS, "attention": ("attn", _APART), "mlp_norm": ("ff.0", NORM), "mlp": ("ff.1", _MLP)}
_NAMES: Table = {**AROUND, "layers/{i}": ("layers.{i}", _LAYER)}
_FACE_NAMES: Table = {
    "first": ("proj.net.0.proj", LINEAR),
    "second": ("proj.net.2", LINEAR),
    "norm": ("norm", NORM),
    "resampler": ("", _NAMES),
}
_FEEDFORWARD: Rows = [
    (r"net\.0\.proj", "hidden"),
    (r"net\.[01]", "activation"),
    (r"net\.2", ""),
    ("", ""),
]
_LAYER_POINTS: Rows = [
    ("ln0", "features_norm"),
    ("ln1", "latents_norm"),
    (r"attn\.to_q", "attention.query"),
    (r"attn\.to_k", "attention.key"),
    (r"attn\.to_v", "attention.value"),
    (r"attn\.to_kv", "attention.key_value"),
    (r"attn(?:\.to_out\.[01])?", "attention"),
    ("", ""),
]
_POINTS: Rows = inside(
    "",
    "resampler",
    [
        *AROUND_POINTS,
        *inside(r"layers\.(\d+)", r"layers.\1", [*_LAYER_POINTS, (r"ff\.0", "mlp_norm"), ("ff", "mlp")]),
        *inside(r"layers\.(\d+)\.ff\.1", r"layers.\1.mlp", _FEEDFORWARD),
    ],
)
_FACE_POINTS: Rows = [
    *PROJECTION_POINTS,
    (r"proj\.net\.2", "ids.second"),
    (r"proj\.net\.[01]", "ids.activation"),
    (r"proj\.net\.0\.proj", "ids.first"),
]


def _resampler(chosen: Mapping[str, Any], width: int, features: int, outputs: int, latents: int | None) -> Resampler:
    return Resampler(
        channels=width,
        features=features,
        outputs=outputs,
        latents=latents,
        layers=chosen["depth"],
        heads=chosen["heads"],
        head_channels=positive("dim_head", chosen["dim_head"]),
        hidden=int(width * chosen["ffn_ratio"]),
        conventions=RESAMPLER_DIALECTS["diffusers"],
    )


def _plus(given: Given) -> Rebuilt:
    """`embed_dims` is the width of features, `hidden_dims` that of latents."""
    what = "IPAdapterPlusImageProjection"
    chosen = options(what, given.config, _PLUS)
    width = positive("hidden_dims", chosen["hidden_dims"])
    model = _resampler(chosen, width, chosen["embed_dims"], chosen["output_dims"], chosen["num_queries"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(what, arguments, called, {"x"}, {}, ["x"])
        check_axes("x", values["x"], "batch, tokens, dim")
        return {"out": model.apply(params, values["x"])}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


def _face(given: Given) -> Rebuilt:
    """`embed_dims` is the width of latents, `hidden_dims` that of features; `num_queries` does nothing.

    `clip_embeds`, `shortcut` and `shortcut_scale` are attributes there.
    """
    what = "IPAdapterFaceIDPlusImageProjection"
    chosen = options(what, given.config, _FACE)
    width = positive("embed_dims", chosen["embed_dims"])
    ids, outputs = chosen["id_embeddings_dim"], chosen["output_dims"]
    resampler = _resampler(chosen, width, chosen["hidden_dims"], outputs, None)
    model = FaceProjection(ids, int(ids * chosen["ffproj_ratio"]), chosen["num_tokens"], resampler)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names, known = ["id_embeds", "clip_embeds"], {"shortcut": False, "shortcut_scale": 1.0}
        values, wanted = read_call(what, arguments, called, set(names), known, names)
        check_axes("clip_embeds", values["clip_embeds"], "batch, images, tokens, dim")
        if wanted["shortcut"] and outputs != width:
            raise InputError(f"a shortcut needs output_dims ({outputs}) equal to embed_dims ({width})")
        shortcut = wanted["shortcut_scale"] if wanted["shortcut"] else None
        return {"out": model.apply(params, values["id_embeds"], values["clip_embeds"], shortcut=shortcut)}

    return Rebuilt(model, bind(model.parameters(), _FACE_NAMES), run, [*_FACE_POINTS, *_POINTS])


class ModulatedLayer(ResamplerLayer):
    """A layer whose normed latents are scaled and shifted by the timestep, both times; the features are not.

    x = x + attention(q = n, kv = [norm(features), n]), n = norm(x) (1 + scale1) + shift1
    x = x + mlp(norm(x) (1 + scale2) + shift2)          shift1, scale1, shift2, scale2: cut from silu(time) W + b
    """

    @part
    def modulation(self) -> Linear:
        """The map of the timestep to two shifts and scales."""
        return Linear(self.channels, 4 * self.channels)

    def timed(self, p: Tree, x: Any, features: Any, time: Any) -> Any:
        """x (B, N, D), features (B, S, D), time (B, D) -> (B, N, D)."""
        normed = self.normed(p, "features_norm", features)
        moved = point("modulation.activation", ops.silu(time))
        moved = point("modulation", self.modulation.apply(p["modulation"], moved))
        moved = ops.reshape(moved, shape=(moved.shape[0], 1, moved.shape[1]))
        shift1, scale1, shift2, scale2 = ops.split(moved, sizes=(self.channels,) * 4, axis=-1)
        q = _moved(self.normed(p, "latents_norm", x), scale1, shift1)
        x = self._joined(p, x, self.attended(p, q, normed))
        h = _moved(self.normed(p, "mlp_norm", x), scale2, shift2)
        return point("", ops.add(x, self.mlp.apply(p["mlp"], h)))


def _moved(x: Any, scale: Any, shift: Any) -> Any:
    return ops.add(ops.multiply(x, ops.add(scale, 1.0)), shift)


@dataclass(frozen=True)
class TimeResampler(Module):
    """A resampler of features at a timestep, and what its layers are given of that (SD3's IP-Adapter).

        e = silu(sinusoids(t) W1 + b1) W2 + b2; x = features W + b + e; y = norm(layers(latents, x, e) W' + b')

    `sinusoids`: how many channels; with `cosine_first` cosines come before sines. Frequencies are
    10000^(-j / (half - shift)).
    """

    resampler: Resampler
    sinusoids: int
    cosine_first: bool = True
    shift: float = 0.0
    arguments: ClassVar[tuple[str, ...]] = ("x", "timestep")

    @part
    def first(self) -> Linear:
        """The map of sinusoids."""
        return Linear(self.sinusoids, self.resampler.channels)

    @part
    def second(self) -> Linear:
        """The map after it."""
        return Linear(self.resampler.channels, self.resampler.channels)

    @part
    def layer(self) -> ModulatedLayer:
        """Each of the layers."""
        return variant(self.resampler.layer, ModulatedLayer)

    def parameters(self) -> Tree:
        around = {**self.resampler.parameters(), "layers": [self.layer.parameters()] * self.resampler.layers}
        return {"resampler": around, "first": self.first.parameters(), "second": self.second.parameters()}

    def apply(self, p: Tree, features: Any, times: Any) -> tuple[Any, Any]:
        """features (B, S, C), times (B,), (1,) or (B, 1) -> latents (B, N, E), time embedding (B or 1, D)."""
        whole, own = self.resampler, p["resampler"]
        h = point("time.sinusoids", self._sinusoids(times, array_of(features).dtype))
        h = point("time.first", self.first.apply(p["first"], h))
        time = point("time", self.second.apply(p["second"], point("time.activation", ops.silu(h))))
        with scope("resampler"):
            assert whole.input is not None
            x = point("projected", whole.input.apply(own["input"], features))
            x = point("features", ops.add(x, ops.reshape(time, shape=(time.shape[0], 1, time.shape[1]))))
            b, (n, d) = x.shape[0], own["latents"].shape
            every = time if time.shape[0] == b else ops.broadcast_to(time, shape=(b, d))
            z = point("latents", ops.broadcast_to(own["latents"], shape=(b, n, d)))
            for i, p_layer in enumerate(own["layers"]):
                with scope(f"layers.{i}"):
                    z = self.layer.timed(p_layer, z, x, every)
            return whole.ended(own, z), time

    def _sinusoids(self, times: Any, dtype: Any) -> Any:
        """Cosines and sines of the timesteps (B,) -> (B, sinusoids); an odd number of channels ends in a zero."""
        half = self.sinusoids // 2
        data = array_of(times)
        waves = np.exp(-math.log(10000) * np.arange(half) / (half - self.shift)).astype(dtype)
        t = times if data.dtype == dtype else data.astype(dtype)
        angles = ops.multiply(ops.reshape(t, shape=(-1, 1)), xp(data).asarray(waves))
        parts = [ops.cos(angles), ops.sin(angles)] if self.cosine_first else [ops.sin(angles), ops.cos(angles)]
        made = ops.concatenate(parts, axis=-1)
        return ops.pad(made, widths=((0, 0), (0, self.sinusoids % 2))) if self.sinusoids % 2 else made


_TIME_LAYER: Table = {
    **_NORMS,
    "attention": ("attn", _FUSED),
    "mlp_norm": ("adaln_norm", NORM),
    "mlp": ("ff", _MLP),
    "modulation": ("adaln_proj", LINEAR),
}
_TIME_NAMES: Table = {
    "first": ("time_embedding.linear_1", LINEAR),
    "second": ("time_embedding.linear_2", LINEAR),
    "resampler": ("", {**AROUND, "layers/{i}": ("layers.{i}", _TIME_LAYER)}),
}
_TIME_POINTS: Rows = [
    ("time_proj", "time.sinusoids"),
    (r"time_embedding\.linear_1", "time.first"),
    (r"time_embedding\.act", "time.activation"),
    (r"time_embedding(\.linear_2)?", "time"),
    *inside(
        "",
        "resampler",
        [
            *AROUND_POINTS,
            *inside(
                r"layers\.(\d+)",
                r"layers.\1",
                [
                    *_LAYER_POINTS,
                    ("adaln_norm", "mlp_norm"),
                    ("adaln_silu", "modulation.activation"),
                    ("adaln_proj", "modulation"),
                ],
            ),
            *inside(r"layers\.(\d+)\.ff", r"layers.\1.mlp", _FEEDFORWARD),
        ],
    ),
]


def _time(given: Given) -> Rebuilt:
    what = "IPAdapterTimeImageProjection"
    chosen = options(what, given.config, _TIME)
    width, channels = positive("hidden_dim", chosen["hidden_dim"]), chosen["timestep_in_dim"]
    shift = chosen["timestep_freq_shift"]
    if channels // 2 == shift:
        raise InputError(f"timestep_freq_shift ({shift}) must not be half of timestep_in_dim ({channels})")
    resampler = _resampler(chosen, width, chosen["embed_dim"], chosen["output_dim"], chosen["num_queries"])
    cosine_first = chosen["timestep_flip_sin_to_cos"]
    model = TimeResampler(resampler, positive("timestep_in_dim", channels), cosine_first, float(shift))

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(what, arguments, called, {"x", "timestep"}, {}, ["x", "timestep"])
        x, times = values["x"], values["timestep"]
        check_axes("x", x, "batch, tokens, dim")
        check_axes("timestep", times, "batch")
        if times.shape[0] not in (1, x.shape[0]):
            raise InputError(f"timestep must be ({x.shape[0]},) or (1,), got {tuple(times.shape)}")
        latents, time = model.apply(params, x, times)
        return {"out0": latents, "out1": time}

    return Rebuilt(model, bind(model.parameters(), _TIME_NAMES), run, _TIME_POINTS)


PEER = Peer(
    "diffusers",
    {
        "IPAdapterPlusImageProjection": _plus,
        "IPAdapterFaceIDPlusImageProjection": _face,
        "IPAdapterTimeImageProjection": _time,
    },
)
