"""transformers' Llama 3.2 Vision (`transformers.models.mllama`, version 5.23): its gated cross-attention layer.

Read off its source: RMS norms, also of each head's queries and keys; fewer heads of keys and values than of queries; a
gated MLP; no biases. Text without any image attends to every vision token, since its row of the mask is reset, and only
its MLP is left out.
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
from ...errors import InputError
from ...models.call import Call
from ...models.conventions import FLAMINGO_DIALECTS
from ...models.flamingo import GatedCrossAttention, MediaMask
from ..base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from ..inherited import INHERITED, PRETRAINED
from ..names import NORM, Table, bind, same, transposed
from .idefics import GATED_POINTS, SWIGLU, UNUSED_ARGUMENTS, added_mask, under
from .perceiver.config import activation

_LAYER = "MllamaCrossAttentionDecoderLayer"
_CONFIG = {
    "attn_implementation": Option(str),
    "hidden_size": 4096,
    "hidden_act": "silu",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "rms_norm_eps": 1e-5,
}
# Fields of MllamaTextConfig, and an argument of the class, that change nothing in this layer.
_FIELDS = (
    PRETRAINED
    | INHERITED
    | {
        "cross_attention_layers",
        "dropout",
        "layer_idx",
        "max_position_embeddings",
        "num_hidden_layers",
        "rope_parameters",
        "vocab_size",
    }
)
_NAMES: Table = {
    "norm": ("input_layernorm", NORM),
    "attention": (
        "cross_attn",
        {
            "query/weight": ("q_proj.weight", transposed),
            "key/weight": ("k_proj.weight", transposed),
            "value/weight": ("v_proj.weight", transposed),
            "output/weight": ("o_proj.weight", transposed),
            "query_norm": ("q_norm", NORM),
            "key_norm": ("k_norm", NORM),
        },
    ),
    "attention_gate": ("cross_attn_attn_gate", same),
    "mlp_norm": ("post_attention_layernorm", NORM),
    "mlp": ("mlp", SWIGLU),
    "mlp_gate": ("cross_attn_mlp_gate", same),
}


def _own_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """An MllamaTextConfig, or the one in an MllamaConfig."""
    if not isinstance(config, Mapping) or "text_config" not in config:
        return config
    others = PRETRAINED | {"image_token_index", "vision_config"}
    return options("MllamaConfig", config, {"text_config": {}}, others, INHERITED)["text_config"]  # type: ignore[no-any-return]


def _layer(given: Given) -> Rebuilt:
    chosen = options("MllamaTextConfig", _own_part(given.config), _CONFIG, _FIELDS, INHERITED)
    heads = positive("num_attention_heads", chosen["num_attention_heads"])
    model = GatedCrossAttention(
        channels=chosen["hidden_size"],
        media_channels=chosen["hidden_size"],
        heads=heads,
        head_channels=chosen["hidden_size"] // heads,
        qk_norm=True,
        kv_heads=chosen["num_key_value_heads"],
        hidden=chosen["intermediate_size"],
        conventions=replace(
            FLAMINGO_DIALECTS["idefics2"],
            activation=activation(chosen["hidden_act"]),
            norm_eps=chosen["rms_norm_eps"],
        ),
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        masks = {"raw_cross_attention_mask", "cross_attention_mask", "full_text_row_masked_out_mask"}
        required = ["hidden_states", "cross_attention_states"]
        known = {*required, *masks, *UNUSED_ARGUMENTS, "position_embeddings"}
        defaults = {"num_vision_tokens": Option(int), "method": Option(str), "use_cache": False}
        values, wanted = read_call(_LAYER, arguments, called, known, defaults, required)
        x = values["hidden_states"]
        check_axes("hidden_states", x, "batch, tokens, channels")
        media = _one_medium(values["cross_attention_states"], x)
        made: Outputs = {}
        if "raw_cross_attention_mask" in values:
            raw = array_of(values["raw_cross_attention_mask"])
            made = prepared(raw, wanted["num_vision_tokens"], x, media.shape[2])
        mask = made.get("prepared_mask", values.get("cross_attention_mask"))
        attend, bias = added_mask(mask, x, media, "cross_attention_mask", chosen["attn_implementation"])
        layer = under(model, mask, chosen["attn_implementation"])
        rows = made.get("full_text_row_masked_out_mask", values.get("full_text_row_masked_out_mask"))
        if rows is not None:
            if tuple(rows.shape) != (x.shape[0], 1, x.shape[1], 1):
                raise InputError(
                    f"full_text_row_masked_out_mask must be {(x.shape[0], 1, x.shape[1], 1)}, got {tuple(rows.shape)}"
                )
            rows = rows[:, 0]
        return {"out": layer.apply(params, x, media, mask=MediaMask(attend), bias=bias, rows=rows), **made}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, GATED_POINTS)


def _one_medium(states: Any, x: Any) -> Any:
    """Vision tokens as a single medium of each text: (B, 1, S, D). They may come with axes of images and tiles."""
    channels, batch = states.shape[-1], x.shape[0]
    if len(states.shape) < 3 or not states.size or states.size % (batch * channels):
        raise InputError(
            f"cross_attention_states must be ({batch}, vision tokens, channels), got {tuple(states.shape)}"
        )
    return ops.reshape(states, shape=(batch, 1, -1, channels))


def prepared(raw: Array, tokens: Any, x: Any, keys: int) -> Outputs:
    """The peer's `_prepare_cross_attention_mask`: raw (B, L, images, tiles), 1 where text may attend to a tile.

    The first is added to the scores, (B, 1, L, S): 0 for tokens of such tiles, the lowest number for others, but all 0
    in rows that have no such tile. The second is 0 for those rows and 1 for the rest, (B, 1, L, 1).
    """
    tokens = positive("num_vision_tokens", tokens)
    check_axes("raw_cross_attention_mask", raw, "batch, text, images, tiles")
    wanted = (*x.shape[:2], keys)
    if (*raw.shape[:2], raw.shape[2] * raw.shape[3] * tokens) != wanted or raw.dtype == bool:
        raise InputError(
            f"raw_cross_attention_mask must be numbers of shape (batch, text, images, tiles), {wanted} with "
            f"num_vision_tokens ({tokens}) to a tile; got {raw.dtype} of {raw.shape}"
        )
    library, dtype = xp(raw), array_of(x).dtype
    attend = (raw == 1).repeat(tokens, axis=3).reshape(wanted)
    rows = attend.any(-1, keepdims=True)
    lowest = library.asarray(np.finfo(dtype).min, dtype)
    mask = library.where(attend | ~rows, library.zeros((), dtype), lowest)
    return {"prepared_mask": mask[:, None], "full_text_row_masked_out_mask": rows.astype(dtype)[:, None]}


PEER = Peer("mllama", {_LAYER: _layer})
