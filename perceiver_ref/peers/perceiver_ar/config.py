"""The constructor's options of the released Perceiver AR, and the Haiku names of its parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.call import Call
from ...models.conventions import AUTOREGRESSIVE_DIALECTS
from ...models.rotary import Rotary, even_part, frequencies
from ..base import REQUIRED, Arguments, Given, Outputs, Rebuilt, options, read_call
from ..deepmind.names import ATTENTION, LINEAR, NORM, SEPARATOR
from ..deepmind.names import MLP as DENSE
from ..names import Table, bind, same
from .model import ReleasedPerceiverAR

_OPTIONS: dict[str, Any] = {
    "num_classes": REQUIRED,
    "input_idx_size": REQUIRED,
    "max_context_length": REQUIRED,
    "position_encoding_type": REQUIRED,
    "input_embed_dim": 1024,
    "position_encoding": "sinusoidal",
    "learnable_position_embeddings": False,
    "num_transformers_per_block": 12,
    "z_index_dim": 1024,
    "num_z_channels": 1024,
    "num_cross_attend_heads": 1,
    "num_transformer_heads": 8,
    "cross_attend_widening_factor": 1,
    "transformer_widening_factor": 1,
    "initial_query_offsetting": False,
    "initial_query_embed_style": "none",
    "share_learned_initial_query": False,
    "initial_query_embed_activation_name": "sq_relu",
    "initial_query_embed_num_layers": 2,
    "include_initial_cross_attention": True,
    "additional_cross_attend_after_layers": None,
    "cross_attention_shape_for_attn": "kv",
    "encoder_use_query_residual": True,
    "mask_style": "final_block",
    "num_latents_per_position": 1,
    "activation_name": "sq_relu",
    "fraction_to_rotate": 0.25,
    "fraction_heads_to_rotate": 1.0,
    "max_wavelength": 8192,
    "cross_attention_head_group_size": 0,
    "chunked_cross_attention": False,
    "chunked_cross_query_size": 1024,
    "chunked_cross_key_size": 4096,
    "use_positions_from_data": False,
    "use_negative_rotary_positions": False,
    "name": "perceiver_ar",
}
_DROPOUT = {
    "dropout_prob": 0.0,
    "latent_dropout_prob": 0.0,
    "encoder_dropout_prob": 0.0,
    "train_input_positions": 0,
}
"""What drops out at random in training."""
_IGNORED = frozenset(["z_pos_enc_init_scale", "concat_pos", "final_layer_init_zeros"])
_CALL = {"is_training": False, "memory_type": "none", "z_index_dim": None, "use_remat": False}
_CHOICES = {
    "position_encoding_type": ("absolute", "rotary"),
    "position_encoding": ("sinusoidal", "linear", "random", "fourier"),
    "initial_query_embed_style": ("none", "mlp", "learned"),
    "cross_attention_shape_for_attn": ("q", "kv"),
    "mask_style": ("final_block",),
}
_ACTIVATIONS = {
    "sq_relu": "squared_relu",
    "relu": "relu",
    "gelu": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


def perceiver_ar(given: Given) -> Rebuilt:
    """`PerceiverAR.__call__`: logits, the latents' steps and, unless there is only one latent, masks."""
    chosen = options("PerceiverAR", given.config, {**_OPTIONS, **_DROPOUT}, _IGNORED)
    for name, known in _CHOICES.items():
        if chosen[name] not in known:
            raise one_of(name, str(chosen[name]), known)
    axes = given.inputs["input_idxs"][-1] if chosen["use_positions_from_data"] and "input_idxs" in given.inputs else 1
    model = _model(chosen, axes)

    def run(
        model: ReleasedPerceiverAR, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call
    ) -> Outputs:
        values, wanted = read_call("PerceiverAR", arguments, called, {"inputs", "input_idxs"}, _CALL)
        if wanted["memory_type"] not in ("none", "kv", "fixed_size_kv"):
            raise one_of("memory_type", wanted["memory_type"], ("none", "kv", "fixed_size_kv"))
        if wanted["is_training"] and (random := [name for name in _DROPOUT if chosen[name]]):
            raise InputError(f"PerceiverAR with {', '.join(random)} is random in training; the reference needs 0")
        places = values.get("input_idxs") if chosen["use_positions_from_data"] else None
        if chosen["use_positions_from_data"] and places is None:
            raise InputError("PerceiverAR with use_positions_from_data needs the argument 'input_idxs'")
        latents = chosen["z_index_dim"] if wanted["z_index_dim"] is None else wanted["z_index_dim"]
        _check_chunks(chosen, latents)
        return model.predict(params, values["inputs"], places, latents)

    rows = [(re.escape(f"{chosen['name']}/{theirs}"), ours) for theirs, ours in _POINTS + _many(model)]
    return Rebuilt(model, bind(model.parameters(), _names(chosen), SEPARATOR), run, rows)


def _model(chosen: Mapping[str, Any], axes: int) -> ReleasedPerceiverAR:
    rotary = chosen["position_encoding_type"] == "rotary"
    if not rotary and chosen["initial_query_offsetting"]:
        raise InputError("initial_query_offsetting needs rotary positions")
    if rotary and axes != 1:
        raise InputError(f"rotary positions have one axis, but input_idxs have {axes}")
    heads, layers = chosen["num_cross_attend_heads"], chosen["num_transformers_per_block"]
    group = chosen["cross_attention_head_group_size"] or heads
    if heads % group:
        raise InputError(f"{heads} heads cannot be split into groups of {group} (cross_attention_head_group_size)")
    width, side = chosen["num_z_channels"], chosen["cross_attention_shape_for_attn"]
    own = chosen["num_transformer_heads"]
    activation = {name: _activation(chosen[name]) for name in ("activation_name", _QUERY_ACTIVATION)}
    attended = chosen["input_embed_dim"] if side == "kv" else width
    return ReleasedPerceiverAR(
        vocabulary=chosen["num_classes"],
        length=chosen["max_context_length"],
        latents=chosen["z_index_dim"],
        channels=chosen["input_embed_dim"],
        latent_channels=width,
        layers=layers,
        cross_heads=heads,
        self_heads=own,
        cross_widening=chosen["cross_attend_widening_factor"],
        self_widening=chosen["transformer_widening_factor"],
        attend_in=side,
        cross_attends=_cross_attends(chosen),
        query_residual=chosen["encoder_use_query_residual"],
        cross_rotary=_rotary(chosen, attended // heads, heads, group) if rotary else None,
        self_rotary=_rotary(chosen, width // own, own, own) if rotary else None,
        conventions=replace(AUTOREGRESSIVE_DIALECTS["perceiver-ar"], activation=activation["activation_name"]),
        tables=() if rotary else _tables(chosen, axes),
        learned_tables=chosen["learnable_position_embeddings"],
        query_style=chosen["initial_query_embed_style"],
        query_layers=chosen["initial_query_embed_num_layers"],
        query_activation=ops.activations[activation[_QUERY_ACTIVATION]],
        shared_query=chosen["share_learned_initial_query"],
        per_position=chosen["num_latents_per_position"],
        offset=chosen["initial_query_offsetting"],
        negative=chosen["use_negative_rotary_positions"],
        key_chunk=chosen["chunked_cross_key_size"] if chosen["chunked_cross_attention"] else None,
    )


_QUERY_ACTIVATION = "initial_query_embed_activation_name"


def _activation(name: str) -> Any:
    if name not in _ACTIVATIONS:
        raise one_of("activation", name, _ACTIVATIONS)
    return _ACTIVATIONS[name]


def _cross_attends(chosen: Mapping[str, Any]) -> tuple[int, ...]:
    """Before which self-attentions the latents attend to the inputs."""
    after = chosen["additional_cross_attend_after_layers"] or []
    if any(not 0 <= i < chosen["num_transformers_per_block"] for i in after) or len(set(after)) < len(after):
        raise InputError(f"additional_cross_attend_after_layers must be different layers, got {after}")
    return (*([0] if chosen["include_initial_cross_attention"] else []), *(i + 1 for i in sorted(after)))


def _rotary(chosen: Mapping[str, Any], channels: int, heads: int, group: int) -> Rotary:
    """Of the heads, the first ones of every group turn."""
    longest = chosen["max_wavelength"] + int(chosen["initial_query_offsetting"])
    if longest < chosen["max_context_length"]:
        raise InputError(
            f"max_wavelength ({longest}) must not be smaller than max_context_length ({chosen['max_context_length']})"
        )
    turning = math.floor(chosen["fraction_heads_to_rotate"] * group)
    bands = frequencies(even_part(channels, chosen["fraction_to_rotate"]), longest, "closed")
    if not bands:
        raise InputError(f"fraction_to_rotate ({chosen['fraction_to_rotate']}) turns none of {channels} channels")
    return Rotary(bands, heads=None if turning == group else tuple(i % group < turning for i in range(heads)))


def _tables(chosen: Mapping[str, Any], axes: int) -> tuple[int, ...]:
    """The sizes of the position tables that are used: one for each axis of a position."""
    sizes = list(chosen["input_idx_size"])
    if len(sizes) < axes:
        raise InputError(f"input_idx_size {sizes} has fewer axes than input_idxs, {axes}")
    if -1 in sizes and chosen["use_positions_from_data"]:
        raise InputError(f"input_idx_size {sizes} must be known with use_positions_from_data")
    return tuple(chosen["max_context_length"] if size == -1 else size for size in sizes[:axes])


def _check_chunks(chosen: Mapping[str, Any], latents: int) -> None:
    chunk = chosen["chunked_cross_query_size"]
    if chosen["chunked_cross_attention"] and chosen["cross_attention_head_group_size"]:
        raise InputError("chunked_cross_attention excludes cross_attention_head_group_size")
    if chosen["chunked_cross_attention"] and chunk < latents and latents % chunk:
        raise InputError(f"{latents} latents cannot be split into chunks of {chunk} (chunked_cross_query_size)")


_CROSS_ATTENTION: Table = {
    "query_norm": ("layer_norm", NORM),
    "key_value_norm": ("layer_norm_1", NORM),
    "attention": ("attention", ATTENTION),
    "mlp_norm": ("layer_norm_2", NORM),
    "mlp": ("dense", DENSE),
}
_SELF_ATTENTION: Table = {
    "norm": ("layer_norm", NORM),
    "attention": ("attention", ATTENTION),
    "mlp_norm": ("layer_norm_1", NORM),
    "mlp": ("dense", DENSE),
}


def _names(chosen: Mapping[str, Any]) -> Table:
    """Tables of positions are numbered after the tokens' embedding, the map to queries after the layers of an MLP."""
    name = chosen["name"]
    mlp = chosen["initial_query_embed_num_layers"] if chosen["initial_query_embed_style"] == "mlp" else 0
    linear = f"linear_{mlp}" if mlp else "linear"
    tables = range(len(chosen["input_idx_size"]))
    return {
        "embedding": (f"{name}/~/embed/embeddings", same),
        **{f"tables/{k}": (f"{name}/~/embed_{k + 1}/embeddings", same) for k in tables},
        "query": (f"{name}/~/{linear}", LINEAR),
        "query_layers/{i}": (f"{name}/~/linear{{_i}}", LINEAR),
        "learned_query": (f"{name}/~/q_embed_learned", same),
        "latent_index": (f"{name}/~/z_pos_enc/pos_embs", same),
        "cross_attentions/{i}": (f"{name}/~/cross_attention{{_i}}", _CROSS_ATTENTION),
        "layers/{i}": (f"{name}/~/self_attention{{_i}}", _SELF_ATTENTION),
        "norm": (f"{name}/layer_norm", NORM),
        "logits": (f"{name}/~/logits", LINEAR),
    }


_POINTS = [
    ("~/embed/output", "embedding"),
    ("~/z_pos_enc/output", "latent_index"),
    ("layer_norm/output", "final"),
    ("~/logits/output", "logits"),
]


def _many(model: ReleasedPerceiverAR) -> list[tuple[str, str]]:
    """Trace points of what there may be several of."""
    rows = [(f"~/embed_{k + 1}/output", f"positions.{k}") for k in range(len(model.tables))]
    for theirs, ours, count in (
        ("cross_attention", "cross_attention", len(model.cross_attends)),
        ("self_attention", "layers", model.layers),
    ):
        rows += [(f"~/{theirs}{f'_{i}' if i else ''}/output", f"{ours}.{i}") for i in range(count)]
    return rows
