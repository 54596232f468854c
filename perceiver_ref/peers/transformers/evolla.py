"""transformers' Evolla (`transformers.models.evolla`, version 5.23): its resampler and its gated cross-attention layer.

Read off its source: the resampler is flamingo-pytorch's with a mask of the inputs, whose scores become -1e4 after each
row's largest score was subtracted, and with a linear map to the language model's width before the last norm. The gated
layer attends to up to three encoders at once, each with its own maps to keys and values. It scales scores by
1 / sqrt(number of heads), whatever the heads' width; norms its text by RMS, but has a layer norm before its MLP; has
biases; and is left out where a batch has nothing to attend to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...autograd import ops
from ...autograd.backend import Array, xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.attention import Attention, joined
from ...models.call import Call
from ...models.constraints import Count
from ...models.conventions import FLAMINGO_DIALECTS, Conventions
from ...models.flamingo.resampler import ResamplerLayer
from ...models.layers import MLP, LayerNorm, Linear, RMSNorm
from ...models.module import Module, Parameter, part, truncated_normal, variant, zeros
from ...models.tracing import asked_point, point, scope, trace
from ..base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from ..inherited import INHERITED, PRETRAINED
from ..lucidrains.flamingo.parts import ATTENTION, ATTENTION_POINTS
from ..names import LINEAR, NORM, Rows, Table, bind, inside, same, transposed

_DIALECT = FLAMINGO_DIALECTS["lucidrains-flamingo"]
_ENCODERS = ("protein", "structure", "msa")
_RESAMPLER = "EvollaSequenceCompressorResampler"
_ALIGNER = "EvollaSequenceAlignerCrossAttention"


@dataclass(frozen=True)
class FilledAttention(Attention):
    """Attention whose masked scores are not left out but set to -1e4, after the largest of each row was subtracted."""

    def _mixed(self, q: Any, k: Any, v: Any, mask: Array | None, bias: Any) -> Any:
        scale = (self.qk_channels // self.heads) ** -0.5
        last, other = len(k.shape) - 1, len(k.shape) - 2
        scores = ops.matmul(ops.multiply(q, scale), ops.transpose(k, axes=(*range(other), last, other)))
        scores = ops.subtract(scores, array_of(scores).max(-1, keepdims=True))  # not differentiated, as in the peer
        if mask is not None:
            library = xp(mask)
            scores = ops.where(mask, scores, library.asarray(-1e4, scores.dtype))
        return ops.matmul(point("weights", ops.softmax(scores, axis=-1)), v)


@dataclass(frozen=True)
class FilledLayer(ResamplerLayer):
    """A layer of the resampler with `FilledAttention`."""

    @part
    def attention(self) -> FilledAttention:
        """The attention."""
        return variant(super().attention, FilledAttention)


@dataclass(frozen=True)
class Compressor(Module):
    """inputs (B, S, D) -> latents of another width (B, N, E): the layers, a linear map, a norm."""

    layer: FilledLayer
    latents: int
    layers: Count
    outputs: int

    @part
    def projection(self) -> Linear:
        """The map to the other width."""
        return Linear(self.layer.channels, self.outputs)

    @part
    def norm(self) -> LayerNorm:
        """The norm at the end."""
        return LayerNorm(self.outputs)

    def parameters(self) -> Tree:
        return {
            "latents": Parameter((self.latents, self.layer.channels), truncated_normal(0.02)),
            "layers": [self.layer.parameters() for _ in range(self.layers)],
            "projection": self.projection.parameters(),
            "norm": self.norm.parameters(),
        }

    def apply(self, p: Tree, x: Any, *, mask: Array) -> Any:
        """x (B, S, D), mask (B, S), True = attend -> (B, N, E)."""
        z = ops.broadcast_to(p["latents"], shape=(x.shape[0], self.latents, self.layer.channels))
        for i, p_layer in enumerate(p["layers"]):
            with scope(f"layers.{i}"):
                z = self.layer.apply(p_layer, z, x, mask=mask)
        z = point("projection", self.projection.apply(p["projection"], z))
        return point("norm", self.norm.apply(p["norm"], z))


@dataclass(frozen=True)
class Aligner(Module):
    """Text (B, L, D) attends to the states of several encoders, laid end to end, and passes an MLP, both gated.

        x = x + tanh(a) attention(rms_norm(x), states); x = x + tanh(b) mlp(layer_norm(x))

    `encoders` are names and widths.
    """

    channels: int
    heads: int
    hidden: int
    encoders: tuple[tuple[str, int], ...]
    output_bias: bool = True

    @property
    def _conventions(self) -> Conventions:
        return replace(_DIALECT, qkv_bias=True, output_bias=self.output_bias)

    def _attention(self, inputs: int) -> Attention:
        d = self.channels
        return Attention(d, inputs, d, d, d, self.heads, self._conventions, scale=self.heads**-0.5)

    @part
    def norm(self) -> RMSNorm:
        """The norm of text before attention."""
        return RMSNorm(self.channels)

    @part
    def attention(self) -> Attention:
        """The attention, of which the maps to keys and values are each encoder's own."""
        return self._attention(1)

    @part
    def attentions(self) -> tuple[Attention, ...]:
        """The same for each encoder, for its keys and values."""
        return tuple(self._attention(width) for _, width in self.encoders)

    @part
    def mlp_norm(self) -> LayerNorm:
        """The norm before the MLP."""
        return LayerNorm(self.channels)

    @part
    def mlp(self) -> MLP:
        """The MLP."""
        return MLP(self.channels, conventions=self._conventions, hidden=self.hidden)

    def parameters(self) -> Tree:
        own = self.attention.parameters()
        encoders = {name: made.parameters() for (name, _), made in zip(self.encoders, self.attentions)}
        return {
            "norm": self.norm.parameters(),
            "attention": {name: own[name] for name in ("query", "output")},
            "encoders": {name: {part: p[part] for part in ("key", "value")} for name, p in encoders.items()},
            "attention_gate": Parameter((1,), zeros),
            "mlp_norm": self.mlp_norm.parameters(),
            "mlp": self.mlp.parameters(),
            "mlp_gate": Parameter((1,), zeros),
        }

    def apply(self, p: Tree, x: Any, states: Mapping[str, Any], *, mask: Array) -> Any:
        """x (B, L, D), states: (B, S, C) by encoder; mask (B, L, sum of S), True = attend -> (B, L, D)."""
        made = []
        for (name, _), attention in zip(self.encoders, self.attentions):
            with trace({"attention.key", "attention.value"}.__contains__, tensors=True) as inner:
                made.append(attention.keys_values(p["encoders"][name], states[name]))
            for projected, value in inner.items():  # by the encoder's name, where that is asked for
                asked_point(f"encoders.{name}.{projected}", partial(array_of, value))
        normed = point("norm", self.norm.apply(p["norm"], x))
        attended = self.attention.apply(p["attention"], normed, joined(*made), mask=mask)
        x = ops.add(x, ops.multiply(ops.tanh(p["attention_gate"]), attended))
        normed = point("mlp_norm", self.mlp_norm.apply(p["mlp_norm"], x))
        return ops.add(x, ops.multiply(ops.tanh(p["mlp_gate"]), self.mlp.apply(p["mlp"], normed)))


_MLP: Table = {"hidden/weight": ("fc1.weight", transposed), "output/weight": ("fc2.weight", transposed)}
_RESAMPLER_NAMES: Table = {
    "latents": ("latents", same),
    "layers/{i}": (
        "layers.{i}",
        {
            "features_norm": ("0.norm_media", NORM),
            "latents_norm": ("0.norm_latents", NORM),
            "attention": ("0", ATTENTION),
            "mlp_norm": ("1.norm", NORM),
            "mlp": ("1", _MLP),
        },
    ),
    "projection": ("protein_projector", LINEAR),
    "norm": ("norm", NORM),
}
_MLP_POINTS: Rows = [
    ("", "mlp"),
    ("norm", "mlp_norm"),
    ("fc1", "mlp.hidden"),
    ("activation", "mlp.activation"),
    ("fc2", "mlp"),
]
_RESAMPLER_POINTS: Rows = [
    *inside(r"layers\.(\d+)\.0", r"layers.\1", [("", "attention"), *ATTENTION_POINTS]),
    *inside(r"layers\.(\d+)\.1", r"layers.\1", _MLP_POINTS),
    ("protein_projector", "projection"),
    ("norm", "norm"),
]
_ALIGNER_NAMES: Table = {
    "norm": ("attention_norm", NORM),
    "attention/query": ("query", LINEAR),
    "attention/output": ("out_proj", LINEAR),
    **{f"encoders/{name}/{part}": (f"{part}_{name}", LINEAR) for name in _ENCODERS for part in ("key", "value")},
    "attention_gate": ("gate_attention", same),
    "mlp_norm": ("ff.norm", NORM),
    "mlp": ("ff", _MLP),
    "mlp_gate": ("gate_ffw", same),
}
_ALIGNER_POINTS: Rows = [
    ("attention_norm", "norm"),
    ("query", "attention.query"),
    (r"(key|value)_(\w+)", r"encoders.\2.attention.\1"),
    ("out_proj", "attention"),
    *inside("ff", "", _MLP_POINTS),
]

# Fields of EvollaConfig, and arguments, by the class that they shape.
_RESAMPLER_CONFIG = {
    "hidden_size": 4096,
    "protein_encoder_config": {},
    "resampler_depth": 6,
    "resampler_dim_head": 64,
    "resampler_heads": 8,
    "resampler_num_latents": 64,
    "resampler_ff_mult": 4.0,
}
_ALIGNER_CONFIG = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "aligner_ffn_mult": 4.0,
    "aligner_enable_bias": True,
    **{f"{name}_encoder_dim": Option(int) for name in _ENCODERS},
}
_FIELDS = (
    PRETRAINED
    | INHERITED
    | frozenset(
        [
            *_RESAMPLER_CONFIG,
            *_ALIGNER_CONFIG,
            "aligner_attention_probs_dropout_prob",
            "aligner_num_add_layers",
            "attention_bias",
            "attention_dropout",
            "hidden_act",
            "intermediate_size",
            "max_position_embeddings",
            "mlp_bias",
            "num_hidden_layers",
            "num_key_value_heads",
            "rms_norm_eps",
            "rope_parameters",
            "vocab_size",
        ]
    )
)


def _resampler(given: Given) -> Rebuilt:
    chosen = options("EvollaConfig", given.config, _RESAMPLER_CONFIG, _FIELDS, INHERITED)
    encoder = chosen["protein_encoder_config"]
    width = positive("option 'hidden_size' of protein_encoder_config", encoder.get("hidden_size", 1280))
    layer = FilledLayer(
        width,
        chosen["resampler_heads"],
        chosen["resampler_dim_head"],
        hidden=int(width * chosen["resampler_ff_mult"]),
        conventions=_DIALECT,
    )
    model = Compressor(layer, chosen["resampler_num_latents"], chosen["resampler_depth"], chosen["hidden_size"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = ["embeds", "mask"]
        values, _ = read_call(_RESAMPLER, arguments, called, set(names), {}, names)
        x, mask = values["embeds"], array_of(values["mask"])
        check_axes("embeds", x, "batch, tokens, channels")
        check_mask("mask", mask, x)
        return {"out": model.apply(params, x, mask=mask == 1)}

    return Rebuilt(model, bind(model.parameters(), _RESAMPLER_NAMES), run, _RESAMPLER_POINTS)


def check_mask(name: str, mask: Array, x: Any) -> None:
    """Raise unless the mask is (B, S) for x (B, S, C)."""
    if tuple(mask.shape) != tuple(x.shape[:2]):
        raise InputError(f"{name} must be {tuple(x.shape[:2])}, got {tuple(mask.shape)}")


def _aligner(given: Given) -> Rebuilt:
    chosen = options("EvollaConfig", given.config, _ALIGNER_CONFIG, _FIELDS, INHERITED)
    widths = {name: chosen[f"{name}_encoder_dim"] for name in _ENCODERS}
    if not any(widths.values()) and "transformers_version" in given.config:  # a saved EvollaConfig, which lacks them
        keys = {name: given.params.get(f"key_{name}.weight", ()) for name in _ENCODERS}
        widths = {name: shape[1] if len(shape) == 2 else None for name, shape in keys.items()}
    used = tuple((name, width) for name, width in widths.items() if width is not None)
    if not used:
        raise InputError(
            f"{_ALIGNER} needs one of the options {', '.join(f'{name}_encoder_dim' for name in _ENCODERS)}"
        )
    hidden = int(chosen["hidden_size"] * chosen["aligner_ffn_mult"])
    heads = positive("num_attention_heads", chosen["num_attention_heads"])
    model = Aligner(chosen["hidden_size"], heads, hidden, used, chosen["aligner_enable_bias"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        rows = [row.format(name) for name in _ENCODERS for row in ("{}_kv_states", "{}_kv_attn_mask", "{}_batch_mask")]
        required = ["query_states", *(f"{name}_kv_states" for name, _ in used)]
        values, _ = read_call(_ALIGNER, arguments, called, {"query_states", "query_attn_mask", *rows}, {}, required)
        if unused := [name for name in _ENCODERS if f"{name}_kv_states" in values and widths[name] is None]:
            raise InputError(f"{unused[0]}_kv_states needs the option {unused[0]}_encoder_dim")
        x = values["query_states"]
        check_axes("query_states", x, "batch, tokens, channels")
        keys = xp(array_of(x)).concatenate([_key_mask(name, values) for name, _ in used], axis=1)
        if keys.shape[0] != x.shape[0]:
            raise InputError(f"there are {x.shape[0]} texts, and states for {keys.shape[0]}")
        if not keys.any():
            return {"out": x}
        mask = keys[:, None]
        if "query_attn_mask" in values:
            queries = array_of(values["query_attn_mask"])
            check_mask("query_attn_mask", queries, x)
            mask = queries[..., None] * mask
        states = {name: values[f"{name}_kv_states"] for name, _ in used}
        attend = xp(mask).broadcast_to(mask == 1, (*x.shape[:2], mask.shape[-1]))
        return {"out": model.apply(params, x, states, mask=attend)}

    return Rebuilt(model, bind(model.parameters(), _ALIGNER_NAMES), run, _ALIGNER_POINTS)


def _key_mask(name: str, values: Mapping[str, Any]) -> Array:
    """The mask (B, S) of an encoder's states; without one, the mask (B,) of the batch's items that have any."""
    states = values[f"{name}_kv_states"]
    check_axes(f"{name}_kv_states", states, "batch, tokens, channels")
    if f"{name}_kv_attn_mask" in values:
        mask = array_of(values[f"{name}_kv_attn_mask"])
        check_mask(f"{name}_kv_attn_mask", mask, states)
        return mask
    if f"{name}_batch_mask" not in values:
        raise InputError(f"{_ALIGNER} needs the argument '{name}_kv_attn_mask' or '{name}_batch_mask'")
    items = array_of(values[f"{name}_batch_mask"])
    if tuple(items.shape) != tuple(states.shape[:1]):
        raise InputError(f"{name}_batch_mask must be {tuple(states.shape[:1])}, got {tuple(items.shape)}")
    return items[:, None].repeat(states.shape[1], axis=1)


PEER = Peer("evolla", {_RESAMPLER: _resampler, _ALIGNER: _aligner})
