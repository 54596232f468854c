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

from ...autograd import ops
from ...autograd.backend import Array, xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.call import Call
from ...models.conventions import FLAMINGO_DIALECTS
from ...models.flamingo import GatedCrossAttention, MediaMask, PerceiverResampler
from ..base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from ..inherited import INHERITED, PRETRAINED
from ..names import NORM, Rows, Table, bind, flat, inside, same, transposed
from .perceiver.config import activation

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
PROJECTION_POINTS: Rows = [
    ("q_proj", "attention.query"),
    ("k_proj", "attention.key"),
    ("v_proj", "attention.value"),
    ("o_proj", "attention"),
    ("output_proj", "attention"),
    ("q_layer_norm", "attention.query_norm"),
    ("k_layer_norm", "attention.key_norm"),
    ("q_norm", "attention.query_norm"),
    ("k_norm", "attention.key_norm"),
]
_RESAMPLER_POINTS: Rows = [
    (r"blocks\.(\d+)\.0", r"resampler.layers.\1.attention"),
    *inside(r"blocks\.(\d+)\.0", r"resampler.layers.\1", PROJECTION_POINTS),
    (r"blocks\.(\d+)\.0\.context_layer_norm", r"resampler.layers.\1.features_norm"),
    (r"blocks\.(\d+)\.0\.latents_layer_norm", r"resampler.layers.\1.latents_norm"),
    (r"blocks\.(\d+)\.1\.ln", r"resampler.layers.\1.mlp_norm"),
    (r"blocks\.(\d+)\.1\.fc", r"resampler.layers.\1.mlp.hidden"),
    (r"blocks\.(\d+)\.1\.act", r"resampler.layers.\1.mlp.activation"),
    (r"blocks\.(\d+)\.1", r"resampler.layers.\1.mlp"),
    (r"blocks\.(\d+)\.1\.c_proj", r"resampler.layers.\1.mlp"),
    ("layer_norm", "resampler"),
]
SWIGLU: Table = {
    "gate/weight": ("gate_proj.weight", transposed),
    "hidden/weight": ("up_proj.weight", transposed),
    "output/weight": ("down_proj.weight", transposed),
}
SWIGLU_POINTS: Rows = [
    ("mlp\\.gate_proj", "mlp.gate"),
    ("mlp\\.up_proj", "mlp.hidden"),
    ("mlp\\.act_fn", "mlp.gate_activation"),
    ("mlp", "mlp"),
    ("mlp\\.down_proj", "mlp"),
]
_GATED: Table = {
    "norm": ("input_layernorm", NORM),
    "attention": ("cross_attn", {**_PROJECTIONS, "output/weight": ("o_proj.weight", transposed)}),
    "attention_gate": ("alpha_cross_attn", flat),
    "mlp_norm": ("post_attention_layernorm", NORM),
    "mlp": ("mlp", SWIGLU),
    "mlp_gate": ("alpha_dense", flat),
}
GATED_POINTS: Rows = [
    ("input_layernorm", "norm"),
    ("cross_attn", "attention"),
    *inside("cross_attn", "", PROJECTION_POINTS),
    ("post_attention_layernorm", "mlp_norm"),
    *SWIGLU_POINTS,
    ("act_cross_attn", "attention_gate"),
    ("act_dense", "mlp_gate"),
]
_GATED_CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "alpha_type": "float",
    "attn_implementation": Option(str),
    "qk_layer_norms": False,
    "vision_config": {},
}
UNUSED_ARGUMENTS = {"attention_mask", "position_ids"}
"""Arguments that transformers' layers accept and cross-attention has no use for."""
# Fields of IdeficsConfig that change nothing in these classes.
_FIELDS = (
    PRETRAINED
    | INHERITED
    | frozenset(
        [
            *_GATED_CONFIG,
            "additional_vocab_size",
            "alpha_initializer",
            "alphas_initializer_range",
            "cross_layer_interval",
            "dropout",
            "freeze_lm_head",
            "freeze_text_layers",
            "freeze_text_module_exceptions",
            "freeze_vision_layers",
            "freeze_vision_module_exceptions",
            "max_position_embeddings",
            "num_hidden_layers",
            "perceiver_config",
            "rope_parameters",
            "use_resampler",
            "vocab_size",
        ]
    )
)


_PERCEIVER = {
    "resampler_depth": 6,
    "resampler_n_heads": 16,
    "resampler_head_dim": 96,
    "resampler_n_latents": 64,
    "qk_layer_norms_perceiver": False,
    "use_resampler": False,
}
"""IdeficsPerceiverConfig, with its defaults."""


def _arguments(given: Given) -> Mapping[str, Any]:
    """The class's arguments: as given, or as the whole model takes them from an IdeficsConfig or its part.

    That part alone, an IdeficsPerceiverConfig, leaves out the width, which the latents have.
    """
    config = given.config
    if not isinstance(config, Mapping) or "n_latents" in config:
        return config
    if "perceiver_config" in config:
        whole = options("IdeficsConfig", config, {"perceiver_config": {}, "vision_config": {}}, _FIELDS, INHERITED)
        part, width = whole["perceiver_config"], _vision_width(whole["vision_config"], 768)
    elif "resampler_depth" in config:
        latents = given.params.get("latents", ())
        if len(latents) != 2:
            raise InputError(
                "an IdeficsPerceiverConfig lacks the width of the vision encoder; give the whole IdeficsConfig"
            )
        part, width = config, latents[1]
    else:
        return config
    own = options("IdeficsPerceiverConfig", part, _PERCEIVER, PRETRAINED, INHERITED)
    sizes = {name: own[f"resampler_{name}"] for name in ("depth", "n_heads", "head_dim", "n_latents")}
    return {"embed_dim": width, **sizes, "qk_layer_norms": own["qk_layer_norms_perceiver"]}


def _resampler(given: Given) -> Rebuilt:
    sizes = ("embed_dim", "depth", "n_heads", "head_dim", "n_latents")
    known: dict[str, Any] = {name: Option(int, required=True) for name in sizes}
    known |= {"qk_layer_norms": Option(bool), "vision_config": {}, "config": {}}
    chosen = options("IdeficsPerceiverResampler", _arguments(given), known)
    config = options(
        "IdeficsConfig", chosen["config"], {"vision_config": {}, "perceiver_config": {}}, _FIELDS, INHERITED
    )
    vision = _vision_width({**config["vision_config"], **chosen["vision_config"]}, chosen["embed_dim"])
    if vision != chosen["embed_dim"]:
        raise InputError(
            f"embed_dim ({chosen['embed_dim']}) must be the width of the vision encoder ({vision}): the MLPs have that"
        )
    normed = config["perceiver_config"].get("qk_layer_norms_perceiver", False)
    model = PerceiverResampler(
        channels=chosen["embed_dim"],
        latents=chosen["n_latents"],
        layers=chosen["depth"],
        heads=chosen["n_heads"],
        head_channels=chosen["head_dim"],
        qk_norm=normed if chosen["qk_layer_norms"] is None else chosen["qk_layer_norms"],
        hidden=4 * vision,
        conventions=_DIALECT,
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("IdeficsPerceiverResampler", arguments, called, {"context"}, {}, ["context"])
        return {"out": alone(model, params, values["context"])}

    return Rebuilt(model, bind(model.parameters(), _RESAMPLER), run, _RESAMPLER_POINTS)


def _vision_width(vision: Mapping[str, Any], default: int) -> int:
    """The width of the vision encoder, which its configuration has two names for."""
    width = vision.get("embed_dim", vision.get("hidden_size", default))
    return positive("option 'embed_dim' of vision_config", width)


def alone(model: PerceiverResampler, params: Tree, context: Any, mask: Any = None) -> Any:
    """context (B, S, D), one medium each -> (B, N, D)."""
    check_axes("context", context, "batch, tokens, dim")
    return model.apply(params, context, mask=mask)


def _gated(given: Given) -> Rebuilt:
    chosen = options("IdeficsGatedCrossAttentionLayer", given.config, _GATED_CONFIG, _FIELDS, INHERITED)
    if chosen["alpha_type"] not in ("float", "vector"):
        raise one_of("alpha_type", chosen["alpha_type"], ("float", "vector"))
    model = GatedCrossAttention(
        channels=chosen["hidden_size"],
        media_channels=_vision_width(chosen["vision_config"], 768),
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

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        known = {"hidden_states", "image_hidden_states", "image_attention_mask", "cross_attention_gate", "image_index"}
        values, wanted = read_call(
            "IdeficsGatedCrossAttentionLayer",
            arguments,
            called,
            known | UNUSED_ARGUMENTS,
            {"tokens_per_image": Option(int), "method": Option(str)},
            ["hidden_states", "image_hidden_states", *([] if "image_index" in arguments else ["cross_attention_gate"])],
        )
        x, media = values["hidden_states"], one_medium(values["image_hidden_states"], "image_hidden_states")
        check_axes("hidden_states", x, "batch, tokens, channels")
        made = _masks(array_of(values["image_index"]), wanted, x, media) if "image_index" in values else {}
        values |= made
        gate = array_of(values["cross_attention_gate"])
        if gate.shape != tuple(x.shape[:2]):
            raise InputError(f"cross_attention_gate must be {tuple(x.shape[:2])}, got {tuple(gate.shape)}")
        mask, implementation = values.get("image_attention_mask"), chosen["attn_implementation"]
        attend, bias = added_mask(mask, x, media, "image_attention_mask", implementation)
        layer = under(model, mask, implementation)
        return {"out": layer.apply(params, x, media, mask=MediaMask(attend, gate != 0), bias=bias), **made}

    return Rebuilt(model, bind(model.parameters(), _GATED), run, GATED_POINTS)


def one_medium(states: Any, name: str) -> Any:
    """What is attended to, (B, S, C), as a single medium of S tokens."""
    check_axes(name, states, "batch, tokens, channels")
    return ops.reshape(states, shape=(states.shape[0], 1, *states.shape[1:]))


_KINDS: dict[str | None, str] = {"eager": "fbiu", "sdpa": "fb"}
"""By attention implementation: the kinds of masks' dtypes. Where none is named, a bool could mean either."""


def added_mask(mask: Any, x: Any, media: Any, name: str, implementation: str | None) -> tuple[Array, Any]:
    """(attend (B, L, S), bias (B, 1, L, S)) of a mask (B, 1, L, S) that is added to the logits.

    What is at half the dtype's lowest number or below counts as masked, whatever the logits; the rest is added. In a
    row that is masked as a whole the numbers themselves are kept, since there they have gradients, as all else added.
    Under the attention `implementation` "eager", integers and bools are numbers, too; under "sdpa" a bool says what to
    attend to (see `under`). Without a mask, text attends to everything; but under "sdpa", which
    then takes the layer for causal self-attention, text longer than 1 attends from token i to tokens 0 to i.
    """
    shape = (*x.shape[:2], media.shape[1] * media.shape[2])
    fused = implementation == "sdpa"
    if mask is None:
        library = xp(array_of(x))
        everything = library.ones(shape, bool)
        return library.tril(everything) if fused and shape[1] > 1 else everything, None
    full = (shape[0], 1, *shape[1:])
    kind = array_of(mask).dtype.kind
    fits = len(mask.shape) == 4 and all(n in (1, m) for n, m in zip(mask.shape, full))
    if not fits or kind not in _KINDS.get(implementation, "f"):
        raise InputError(
            f"{name} must be floating-point numbers to add, of shape {full}, "
            f"got {array_of(mask).dtype} of {tuple(mask.shape)}"
        )
    if kind != "f":
        mask = array_of(mask)
        if fused:
            return xp(mask).broadcast_to(mask, full)[:, 0], None
        mask = mask.astype(array_of(x).dtype)
    mask = ops.broadcast_to(mask, shape=full)
    given = array_of(mask)
    attend = given > np.finfo(given.dtype).min / 2
    kept = attend | ~attend.any(-1, keepdims=True)
    bias = ops.where(kept, mask, xp(given).zeros((), given.dtype))
    return attend[:, 0], bias


def under(model: GatedCrossAttention, mask: Any, implementation: str | None) -> GatedCrossAttention:
    """The layer as it treats this mask: under "sdpa" a token for which a bool one leaves nothing gets zeros."""
    if mask is None or implementation != "sdpa" or array_of(mask).dtype != bool:
        return model
    return replace(model, conventions=replace(model.conventions, masked_rows="zero"))


def _masks(index: Array, wanted: Mapping[str, Any], x: Any, media: Any) -> Outputs:
    """The two masks that the processor makes of each token's image: its number, or -1 for none."""
    tokens = positive("tokens_per_image", wanted["tokens_per_image"])
    if index.shape != tuple(x.shape[:2]):
        raise InputError(f"image_index must be {tuple(x.shape[:2])}, got {tuple(index.shape)}")
    library, dtype = xp(index), array_of(x).dtype
    number = library.arange(media.shape[2]) // tokens
    attend = index[..., None] == number
    lowest = library.asarray(np.finfo(dtype).min, dtype)
    return {
        "image_attention_mask": library.where(attend, library.zeros((), dtype), lowest)[:, None],
        "cross_attention_gate": attend.any(-1).astype(dtype),
    }


PEER = Peer("idefics", {"IdeficsPerceiverResampler": _resampler, "IdeficsGatedCrossAttentionLayer": _gated})
