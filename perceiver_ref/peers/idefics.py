"""transformers' IDEFICS (`transformers.models.idefics`, version 5.23): its resampler and gated cross-attention layer.

Read off its source: the resampler has layer norms and ReLU, the gated layer RMS norms and a gated MLP; no biases; the
feed-forward of the resampler is 4 times as wide as the vision encoder, whatever its own width. Text that sees no image
averages all of them, and `cross_attention_gate` then zeroes that, but not its MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..autograd import ops
from ..autograd.backend import xp
from ..autograd.tensor import array_of
from ..autograd.tree import Tree
from ..call import Call
from ..conventions import FLAMINGO_DIALECTS
from ..errors import InputError, one_of
from ..flamingo import GatedCrossAttention, MediaMask, PerceiverResampler
from .base import REQUIRED, Arguments, Given, Outputs, Peer, Rebuilt, options, read_call
from .hf.config import activation
from .names import NORM, Table, bind, flat, same, transposed

_DIALECT = FLAMINGO_DIALECTS["idefics"]
_PROJECTIONS: Table = {
    "query/weight": ("q_proj.weight", transposed),
    "key/weight": ("k_proj.weight", transposed),
    "value/weight": ("v_proj.weight", transposed),
    "query_norm": ("q_layer_norm", NORM),
    "key_norm": ("k_layer_norm", NORM),
}
_RESAMPLER: Table = {
    "latents": ("latents", same),
    "layers/{i}/features_norm": ("blocks.{i}.0.context_layer_norm", NORM),
    "layers/{i}/latents_norm": ("blocks.{i}.0.latents_layer_norm", NORM),
    "layers/{i}/attention": ("blocks.{i}.0", {**_PROJECTIONS, "output/weight": ("output_proj.weight", transposed)}),
    "layers/{i}/mlp_norm": ("blocks.{i}.1.ln", NORM),
    "layers/{i}/mlp/hidden/weight": ("blocks.{i}.1.fc.weight", transposed),
    "layers/{i}/mlp/output/weight": ("blocks.{i}.1.c_proj.weight", transposed),
    "norm": ("layer_norm", NORM),
}
_RESAMPLER_POINTS = [
    (r"blocks\.(\d+)\.0", r"resampler.layers.\1.attention"),
    (r"blocks\.(\d+)\.1", r"resampler.layers.\1.mlp"),
    ("layer_norm", "resampler"),
]
SWIGLU: Table = {
    "gate/weight": ("gate_proj.weight", transposed),
    "hidden/weight": ("up_proj.weight", transposed),
    "output/weight": ("down_proj.weight", transposed),
}
_GATED: Table = {
    "norm": ("input_layernorm", NORM),
    "attention": ("cross_attn", {**_PROJECTIONS, "output/weight": ("o_proj.weight", transposed)}),
    "attention_gate": ("alpha_cross_attn", flat),
    "mlp_norm": ("post_attention_layernorm", NORM),
    "mlp": ("mlp", SWIGLU),
    "mlp_gate": ("alpha_dense", flat),
}
_GATED_POINTS = [
    ("input_layernorm", "norm"),
    ("cross_attn", "attention"),
    ("post_attention_layernorm", "mlp_norm"),
    ("mlp", "mlp"),
]
_GATED_CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "alpha_type": "float",
    "qk_layer_norms": False,
    "vision_config": REQUIRED,
}
_UNUSED = frozenset(["attn_implementation", "alpha_initializer", "alphas_initializer_range", "dropout", "vocab_size"])


def _resampler(given: Given) -> Rebuilt:
    known = {"embed_dim": REQUIRED, "depth": REQUIRED, "n_heads": REQUIRED, "head_dim": REQUIRED}
    known |= {"n_latents": REQUIRED, "qk_layer_norms": False}
    chosen = options("IdeficsPerceiverResampler", given.config, known, frozenset(["vision_config", "config"]))
    wide = given.params.get("blocks.0.1.fc.weight", (4 * chosen["embed_dim"],))[0]
    model = PerceiverResampler(
        channels=chosen["embed_dim"],
        latents=chosen["n_latents"],
        layers=chosen["depth"],
        heads=chosen["n_heads"],
        head_channels=chosen["head_dim"],
        qk_norm=chosen["qk_layer_norms"],
        hidden=wide,
        conventions=_DIALECT,
    )

    def run(params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("IdeficsPerceiverResampler", arguments, called, {"context"}, {})
        return {"out": alone(model, params, values["context"])}

    return Rebuilt(model, bind(model.parameters(), _RESAMPLER), run, _RESAMPLER_POINTS)


def alone(model: PerceiverResampler, params: Tree, context: Any, mask: Any = None) -> Any:
    """context (B, S, D), one medium each -> (B, N, D)."""
    if len(context.shape) != 3:
        raise InputError(f"context must be (batch, tokens, dim), got {tuple(context.shape)}")
    return model.apply(params, context, mask=mask)


def _gated(given: Given) -> Rebuilt:
    chosen = options("IdeficsGatedCrossAttentionLayer", given.config, _GATED_CONFIG, _UNUSED)
    vision = chosen["vision_config"]
    if not isinstance(vision, Mapping) or "embed_dim" not in vision:
        raise InputError("vision_config needs the option 'embed_dim'")
    if chosen["alpha_type"] not in ("float", "vector"):
        raise one_of("alpha_type", chosen["alpha_type"], ("float", "vector"))
    model = GatedCrossAttention(
        channels=chosen["hidden_size"],
        media_channels=vision["embed_dim"],
        heads=chosen["num_attention_heads"],
        gate="scalar" if chosen["alpha_type"] == "float" else "vector",
        qk_norm=chosen["qk_layer_norms"],
        hidden=chosen["intermediate_size"],
        conventions=replace(
            _DIALECT,
            activation=activation(chosen["hidden_act"]),
            norm="rms",
            norm_eps=chosen["rms_norm_eps"],
            gated_mlp=True,
        ),
    )

    def run(params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        known = {"hidden_states", "image_hidden_states", "image_attention_mask", "cross_attention_gate", "image_index"}
        values, wanted = read_call(
            "IdeficsGatedCrossAttentionLayer", arguments, called, known, {"tokens_per_image": None, "method": None}
        )
        made: Outputs = {}
        if "image_index" in values:
            made = _masks(values, wanted["tokens_per_image"])
            values |= made
        for name in known - {"image_index"}:
            if name not in values:
                raise InputError(f"IdeficsGatedCrossAttentionLayer needs the argument {name!r}")
        images = values["image_hidden_states"]
        b, s, c = images.shape
        seen = array_of(values["cross_attention_gate"]) != 0
        mask = MediaMask(array_of(values["image_attention_mask"])[:, 0] == 0, seen)
        media = ops.reshape(images, shape=(b, 1, s, c))
        return {"out": model.apply(params, values["hidden_states"], media, mask=mask), **made}

    return Rebuilt(model, bind(model.parameters(), _GATED), run, _GATED_POINTS)


def _masks(values: Mapping[str, Any], tokens: Any) -> Outputs:
    """The two masks that the processor makes of each token's image: its number, or -1 for none."""
    if not isinstance(tokens, int) or tokens < 1:
        raise InputError(f"tokens_per_image must be a whole number above 0, got {tokens!r}")
    index, images = array_of(values["image_index"]), array_of(values["image_hidden_states"])
    library, dtype = xp(index), images.dtype
    number = library.arange(images.shape[1]) // tokens
    attend = index[..., None] == number
    lowest = library.asarray(np.finfo(dtype).min, dtype)
    return {
        "image_attention_mask": library.where(attend, library.zeros((), dtype), lowest)[:, None],
        "cross_attention_gate": attend.any(-1).astype(dtype),
    }


PEER = Peer("idefics", {"IdeficsPerceiverResampler": _resampler, "IdeficsGatedCrossAttentionLayer": _gated})
