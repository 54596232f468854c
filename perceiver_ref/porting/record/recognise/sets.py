"""The set auto-encoders of 3DShape2VecSet and VecSetX, read off attributes and shapes.

What chance gives a call is no argument there: the points that were sampled and the posterior's noise are found again
in what parts of the module were given and gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Calls, Row, Unread
from .lucidrains import attention, heads

_EMBEDDING = 48
"""Channels of sines and cosines of a point, of which the auto-encoders give no other number."""


def attend(module: Any) -> dict[str, Any]:
    """`Attention` of 3DShape2VecSet."""
    return attention(module)


def points(module: Any) -> dict[str, Any]:
    """`PointEmbed`."""
    return {"hidden_dim": module.embedding_dim, "dim": module.mlp.out_features}


def auto_encoder(module: Any) -> dict[str, Any]:
    """`AutoEncoder`."""
    last = module.to_outputs
    made = {
        **_shared(module),
        "queries_dim": module.decoder_cross_attn.fn.to_q.in_features,
        "output_dim": getattr(last, "out_features", None),
        "decoder_ff": module.decoder_ff is not None,
        "weight_tie_layers": len(module.layers) > 1 and module.layers[0][0] is module.layers[1][0],
    }
    return {**made, **heads(module.layers[0][0].fn)} if len(module.layers) else made


def kl_auto_encoder(module: Any) -> dict[str, Any]:
    """`KLAutoEncoder`."""
    return {**auto_encoder(module), "latent_dim": module.mean_fc.out_features}


def vec_set(module: Any) -> dict[str, Any]:
    """`VecSetAutoEncoder`."""
    kind, inner = type(module.bottleneck).__name__, module.bottleneck
    arguments: dict[str, Any] = {}
    if kind == "KLBottleneck":
        sizes = (inner.mean_fc.in_features, inner.mean_fc.out_features)
        arguments = {**dict(zip(("dim", "latent_dim"), sizes)), "kl_weight": inner.kl_weight}
    elif kind == "NormalizedBottleneck":
        sizes = (inner.pre_bottleneck_proj.in_features, inner.pre_bottleneck_proj.out_features)
        arguments = dict(zip(("dim", "latent_dim"), sizes))
    elif kind != "Bottleneck":
        raise Unread(f"a bottleneck of class {kind}")
    return {
        **_shared(module),
        "dim_head": heads(module.decoder_cross_attn.fn)["dim_head"],
        "output_dim": module.to_outputs[1].out_features,
        "query_type": module.query_type,
        "bottleneck": kind,
        "bottleneck_args": arguments,
    }


def _shared(module: Any) -> dict[str, Any]:
    embedding = points(module.point_embed)
    if embedding["hidden_dim"] != _EMBEDDING:
        raise Unread(f"an embedding of points in {embedding['hidden_dim']} channels")
    return {
        "depth": len(module.layers),
        "dim": embedding["dim"],
        "num_inputs": module.num_inputs,
        "num_latents": module.num_latents,
    }


def sampled(module: Any, inputs: Mapping[str, np.ndarray], calls: Calls) -> dict[str, np.ndarray]:
    """`fps_index`, which points of the cloud were embedded first, and `noise`, where there is any."""
    made = {}
    if getattr(module, "query_type", "point") == "point":  # else learned queries stand for samples
        made["fps_index"] = _places(calls["point_embed"][0][0], inputs["pc"])
    for prefix in ("", "bottleneck."):
        if calls.get(f"{prefix}mean_fc"):
            ((_, mean),) = calls[f"{prefix}mean_fc"]
            ((_, log_variance),) = calls[f"{prefix}logvar_fc"]
            z = calls[f"{prefix}proj"][0][0]
            made["noise"] = (z - mean) / np.exp(np.clip(log_variance, -30.0, 20.0) / 2)
    return made


def _places(samples: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """For each sample its place in its cloud; of equal points each is used once, as long as there are any."""
    found = np.zeros(samples.shape[:2], np.int64)
    for row, points_, whole in zip(found, samples, cloud):
        places: dict[bytes, list[int]] = {}
        for i, point in enumerate(whole):
            places.setdefault(point.tobytes(), []).append(i)
        for i, point in enumerate(points_):
            if not (known := places.get(point.tobytes())):
                raise Unread("what is embedded first is no part of the cloud")
            row[i] = known.pop(0) if len(known) > 1 else known[0]
    return found


_PIP = "shape2vecset"
_GAUSSIAN = ("mean_fc", "logvar_fc", "proj")
_SETS = "models_ae"
_BFLOAT16 = frozenset({"Attention"})
ROWS: dict[str, Row] = {
    f"{_SETS}.AutoEncoder": Row(_PIP, auto_encoder, watched=("point_embed",), chance=sampled),
    f"{_SETS}.KLAutoEncoder": Row(_PIP, kl_auto_encoder, watched=("point_embed", *_GAUSSIAN), chance=sampled),
    f"{_SETS}.Attention": Row(_PIP, attend),
    f"{_SETS}.PointEmbed": Row(_PIP, points),
    "vecset.models.utils.PointEmbed": Row(_PIP, points),
    "vecset.models.autoencoder.VecSetAutoEncoder": Row(
        _PIP,
        vec_set,
        watched=("point_embed", *(f"bottleneck.{name}" for name in _GAUSSIAN)),
        chance=sampled,
        float32=_BFLOAT16,
        inside="bfloat16",  # its flash attention
    ),
}
