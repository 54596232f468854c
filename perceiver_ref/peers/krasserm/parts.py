"""krasserm's building blocks on their own: attention, Fourier positions, encoder and decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...autograd import ops
from ...autograd.backend import Array, xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.attention import Attention
from ...models.call import Call
from ...models.decoder import trainable_queries
from ...models.inputs import VectorInput
from ...models.perceiver_io import PerceiverIO
from ...models.positions import FourierPositions
from ..base import REQUIRED, Arguments, Given, Outputs, Rebuilt, options, read_call
from ..names import below, bind, same
from .config import CONVENTIONS, DECODER, ENCODER, TRAINING, decoder, encoder
from .names import ATTENTION, ATTENTION_POINTS, decoder_points, encoder_points
from .names import ENCODER as ENCODER_NAMES
from .names import decoder as decoder_names
from .quirks import BufferedTable, GivenAngles

_ATTENTION: dict[str, Any] = {
    "num_heads": REQUIRED,
    "num_q_input_channels": REQUIRED,
    "num_kv_input_channels": REQUIRED,
    "num_qk_channels": None,
    "num_v_channels": None,
    "num_output_channels": None,
    "causal_attention": False,
    "qkv_bias": True,
    "out_bias": True,
}
_SIZES = {"num_latents": REQUIRED, "num_latent_channels": REQUIRED}


def attend(pad_mask: Any) -> Array | None:
    """Our mask of what is real, from theirs of what is padding."""
    return None if pad_mask is None else array_of(pad_mask) == 0


def multi_head_attention(given: Given) -> Rebuilt:
    """MultiHeadAttention, given the angles `frq_q` and `frq_k` (B, n, r) by which queries and keys turn.

    Angles belong to the first of them or, with `right_align`, to the last.
    """
    chosen = options("MultiHeadAttention", given.config, _ATTENTION, TRAINING)
    q = chosen["num_q_input_channels"]
    qk, v, out = (chosen[f"num_{name}_channels"] for name in ("qk", "v", "output"))
    qk = q if qk is None else qk
    model = Attention(
        q,
        chosen["num_kv_input_channels"],
        qk,
        qk if v is None else v,
        q if out is None else out,
        chosen["num_heads"],
        replace(CONVENTIONS, qkv_bias=chosen["qkv_bias"], output_bias=chosen["out_bias"]),
    )
    known = {"x_q", "x_kv", "pad_mask", "frq_q", "frq_k"}

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, wanted = read_call(
            "MultiHeadAttention", arguments, called, known, {"right_align": False, "method": "kr_attention"}
        )
        x, z = values["x_q"], values["x_kv"]
        library, n, m = xp(array_of(x)), x.shape[1], z.shape[1]
        mask = attend(values.get("pad_mask"))
        mask = None if mask is None else mask[:, None, :]
        if chosen["causal_attention"]:
            causal = library.arange(m)[None, :] <= library.arange(m - n, m)[:, None]
            mask = causal[None] if mask is None else causal & mask
        angles = {}
        for name, count in (("frq_q", n), ("frq_k", m)):
            turned = values.get(name)
            if turned is None:
                turned = library.zeros((x.shape[0], count, 0), x.dtype)
            if turned.shape[1] < count:
                raise InputError(f"{name} has angles for {turned.shape[1]} positions, {count} are needed")
            angles[name] = turned[:, -count:] if wanted["right_align"] else turned[:, :count]
        turning = model.with_fields(rotary=GivenAngles(()))
        out = turning.apply(params, x, z, mask=mask, positions=angles["frq_q"], key_positions=angles["frq_k"])
        return {"last_hidden_state": out}

    return Rebuilt(model, bind(model.parameters(), ATTENTION), run, ATTENTION_POINTS)


def fourier(grid: tuple[int, ...], bands: int) -> FourierPositions:
    """FourierPositionEncoding: the highest frequencies are those of the grid itself."""
    return FourierPositions(bands, grid, conventions=CONVENTIONS)


def fourier_positions(given: Given) -> Rebuilt:
    """FourierPositionEncoding: its buffer, repeated for a batch of `b`."""
    known = {"input_shape": REQUIRED, "num_frequency_bands": REQUIRED}
    chosen = options("FourierPositionEncoding", given.config, known, TRAINING)
    grid = tuple(chosen["input_shape"])
    model = BufferedTable(fourier(grid, chosen["num_frequency_bands"]), grid)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        _, wanted = read_call("FourierPositionEncoding", arguments, called, set(), {"b": REQUIRED})
        table = call.state["positions"]
        return {"out": ops.broadcast_to(table, shape=(wanted["b"], *table.shape))}

    return Rebuilt(model, [], run, state=bind(model.state(), {"positions": ("position_encoding", same)}))


def perceiver_encoder(given: Given) -> Rebuilt:
    """PerceiverEncoder on inputs as they are; with `return_adapted_input` a pair."""
    own = {"num_cross_attention_heads": 4, "num_self_attention_heads": 4, "num_self_attention_layers_per_block": 6}
    known = {**ENCODER, **own, **_SIZES, "num_input_channels": REQUIRED}
    chosen = options("PerceiverEncoder", given.config, known, TRAINING)
    inputs = chosen["num_input_channels"]
    coded = encoder(chosen, inputs, chosen["num_latents"], chosen["num_latent_channels"])
    model = PerceiverIO(coded, VectorInput(inputs))

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, wanted = read_call(
            "PerceiverEncoder", arguments, called, {"x", "pad_mask"}, {"return_adapted_input": False}
        )
        latents, adapted = model.encode(params, values["x"], mask=attend(values.get("pad_mask")), call=call)
        return {"out0": latents, "out1": adapted.inputs} if wanted["return_adapted_input"] else {"out": latents}

    points = [("input_adapter", "input"), *below("", "encoder", encoder_points(coded))]
    return Rebuilt(model, bind(model.parameters(), {"encoder": ("", ENCODER_NAMES)}), run, points)


def perceiver_decoder(given: Given) -> Rebuilt:
    """PerceiverDecoder with trained queries, whose outputs are left as they are."""
    known = {
        **DECODER,
        "num_cross_attention_heads": 4,
        "num_queries": REQUIRED,
        "num_query_channels": REQUIRED,
        "num_latent_channels": REQUIRED,
    }
    chosen = options("PerceiverDecoder", given.config, known, TRAINING)
    count, width = chosen["num_queries"], chosen["num_query_channels"]
    model = decoder(chosen, chosen["num_latent_channels"], width, queries=trainable_queries(count, width))
    names = decoder_names(model.query_residual)
    return Rebuilt(
        model,
        bind(model.parameters(), names),
        _decode,
        below("", "decoder", decoder_points(model.query_residual)),
    )


def _decode(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
    values, _ = read_call("PerceiverDecoder", arguments, called, {"x_latent"}, {})
    return {"out": model.apply(params, values["x_latent"])}
