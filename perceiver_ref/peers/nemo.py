"""nemo-toolkit 2.0.0 (`asr/modules/transformer/perceiver_encoders.py`): PerceiverEncoder.

Its blocks are a Transformer's: one of the decoder (self-attention, attention to the input, MLP) and some of the encoder
(self-attention, MLP) follow each other, and each such pair has a residual around all of it. Norms come after the sums,
or before attention and MLP, and then once more at the end of each stack; the input is never normed. Latents start as
learned ones that went through a block of the decoder, or as sums of the input, weighted by an MLP ("bridge"). A mask is
no mask of keys: -10000 is added to the scores of padding, so that input which is nothing but padding is attended to as
if it were real. 3.0.0 still has the class, and cannot run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..autograd import ops
from ..autograd.backend import Array, to_host, xp
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError, one_of
from ..models.attention import CrossAttention, SelfAttention
from ..models.call import Call
from ..models.constraints import Count
from ..models.conventions import DIALECTS, Conventions
from ..models.layers import LayerNorm, Linear
from ..models.module import Module, Parameter, part, truncated_normal
from ..models.tracing import point, scope
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .names import LINEAR, NORM, Rows, Table, bind, inside, same

_SIZE = Option(int, required=True)
_OPTIONS: dict[str, Any] = {
    "num_layers": _SIZE,
    "hidden_size": _SIZE,
    "inner_size": _SIZE,
    "mask_future": False,
    "num_attention_heads": 1,
    "attn_score_dropout": 0.0,
    "attn_layer_dropout": 0.0,
    "ffn_dropout": 0.0,
    "hidden_act": "relu",
    "pre_ln": False,
    "pre_ln_final_layer_norm": True,
    "hidden_steps": 32,
    "hidden_init_method": "default",
    "hidden_blocks": 2,
}
_CONVENTIONS: dict[str, Conventions] = {
    "relu": replace(DIALECTS["hf"], activation="relu"),
    "gelu": DIALECTS["hf"],
}
_STARTS = {"default": False, "params": False, "bridge": True}
_PADDING = -10_000.0


@dataclass(frozen=True)
class Bridge(Module):
    """As many weighted sums of the input as there are latents (Lin et al. 2017, arXiv 1703.03130, eq. 6).

    softmax over the input of W2 (relu(W1 x / s) / s); s = hidden^(1/4)
    """

    channels: int
    hidden: int
    latents: int

    @part
    def input(self) -> Linear:
        """The first map, W1."""
        return Linear(self.channels, self.hidden, False)

    @part
    def output(self) -> Linear:
        """The second map, W2."""
        return Linear(self.hidden, self.latents, False)

    def apply(self, p: Tree, x: Any, bias: Any) -> Any:
        """x (B, M, C), bias (B, 1, M) added to the scores -> (B, N, C)."""
        scale = self.hidden**-0.25
        with scope("bridge"):
            hidden = point("hidden", self.input.apply(p["input"], x))
            hidden = point("activation", ops.relu(ops.multiply(hidden, scale)))
            scores = point("scores", self.output.apply(p["output"], ops.multiply(hidden, scale)))
            scores = ops.transpose(scores, axes=(0, 2, 1))
            weights = point("weights", ops.softmax(scores if bias is None else ops.add(scores, bias), axis=-1))
            return point("", ops.matmul(weights, x))


@dataclass(frozen=True)
class Stack(Module):
    """Layers one after the other, then a norm, if any: a block of the decoder, or blocks of the encoder."""

    own: SelfAttention
    cross: CrossAttention | None
    layers: Count
    final_norm: bool

    @part
    def norm(self) -> LayerNorm | None:
        """The norm at the end."""
        return LayerNorm(self.own.channels) if self.final_norm else None

    def parameters(self) -> Tree:
        cross = {} if self.cross is None else {"cross": self.cross.parameters()}
        layers = [{"own": self.own.parameters(), **cross} for _ in range(self.layers)]
        return {"layers": layers, **({} if self.norm is None else {"norm": self.norm.parameters()})}

    def apply(self, p: Tree, z: Any, own_bias: Any, x: Any = None, bias: Any = None) -> Any:
        """z (B, N, C), x (B, M, C), with what is added to the scores of both attentions -> (B, N, C)."""
        for i, layer in enumerate(p["layers"]):
            with scope(f"layers.{i}"):
                with scope("own"):
                    z = self.own.apply(layer["own"], z, bias=own_bias)
                if self.cross is not None:
                    with scope("cross"):
                        z = self.cross.apply(layer["cross"], z, x, bias=bias)
                point("", z)
        return point("", z if self.norm is None else self.norm.apply(p["norm"], z))


@dataclass(frozen=True)
class PerceiverEncoder(Module):
    """x (B, M, C) -> latents (B, N, C): `blocks` times z = z + own(cross(z, x)).

    `bridge`: what makes the latents at the start; without it learned ones go through a cross-attention of their own.
    `causal`: latents attend to themselves and to earlier ones.
    """

    cross: Stack
    own: Stack
    latents: int
    blocks: Count
    bridge: Bridge | None = None
    causal: bool = False

    @property
    def channels(self) -> int:
        """The width of the input and of the latents."""
        return self.own.own.channels

    @property
    def arguments(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shape of one example of each argument; None where the model does not say."""
        return {"encoder_states": (None, self.channels)}

    def parameters(self) -> Tree:
        start: Tree = {"bridge": self.bridge.parameters()} if self.bridge is not None else {}
        if self.bridge is None:
            start["latents"] = Parameter((self.latents, self.channels), truncated_normal(0.02))
            start["start"] = self.cross.parameters()
        block = {"cross": self.cross.parameters(), "own": self.own.parameters()}
        return {**start, "blocks": [block for _ in range(self.blocks)]}

    def apply(self, p: Tree, x: Any, mask: Array | None = None) -> Any:
        """x (B, M, C) -> (B, N, C). mask (B, M): what is not 0 is real."""
        like = array_of(x)
        library = xp(like)
        bias = own_bias = None
        if mask is not None:
            bias = library.where(mask != 0, library.zeros((), like.dtype), library.asarray(_PADDING, like.dtype))
            bias = bias[:, None, :]
        if self.causal:
            later = ~library.tri(self.latents, dtype=bool)
            own_bias = library.where(later, library.asarray(_PADDING, like.dtype), library.zeros((), like.dtype))
        heads = None if bias is None else bias[:, None]
        if self.bridge is not None:
            z = self.bridge.apply(p["bridge"], x, bias)
        else:
            z = ops.broadcast_to(p["latents"], shape=(x.shape[0], self.latents, self.channels))
            with scope("start"):
                z = self.cross.apply(p["start"], z, own_bias, x, heads)
        for i, block in enumerate(p["blocks"]):
            with scope(f"blocks.{i}"):
                with scope("cross"):
                    made = self.cross.apply(block["cross"], z, own_bias, x, heads)
                with scope("own"):
                    made = self.own.apply(block["own"], made, own_bias)
                z = point("", ops.add(made, z))
        return z


_ATTENTION: Table = {
    "query": ("query_net", LINEAR),
    "key": ("key_net", LINEAR),
    "value": ("value_net", LINEAR),
    "output": ("out_projection", LINEAR),
}


def _mlp(layer: str, number: int) -> Table:
    """An MLP and its norm, by the name of the sub-layer and the number of the norm."""
    return {
        "mlp_norm": (f"layer_norm_{number}", NORM),
        "mlp": (layer, {"hidden": ("dense_in", LINEAR), "output": ("dense_out", LINEAR)}),
    }


_OWN: Table = {"norm": ("layer_norm_1", NORM), "attention": ("first_sub_layer", _ATTENTION)}
_CROSS: Table = {
    "query_norm": ("layer_norm_2", NORM),
    "norm": ("layer_norm_2", NORM),
    "attention": ("second_sub_layer", _ATTENTION),
    **_mlp("third_sub_layer", 3),
}
_FINAL: Table = {"norm": ("final_layer_norm", NORM)}
_DECODER: Table = {"layers/{i}/own": ("layers.{i}", _OWN), "layers/{i}/cross": ("layers.{i}", _CROSS), **_FINAL}
_ENCODER: Table = {"layers/{i}/own": ("layers.{i}", {**_OWN, **_mlp("second_sub_layer", 2)}), **_FINAL}
_NAMES: Table = {
    "latents": ("init_hidden", same),
    "start": ("init_cross_att", _DECODER),
    "bridge/input": ("att_bridge.W1", LINEAR),
    "bridge/output": ("att_bridge.W2", LINEAR),
    "blocks/{i}/cross": ("cross_att_layers.{i}", _DECODER),
    "blocks/{i}/own": ("self_att_layers.{i}", _ENCODER),
}
_ATTENTION_POINTS: Rows = [
    ("", "attention"),
    ("query_net", "attention.query"),
    ("key_net", "attention.key"),
    ("value_net", "attention.value"),
    ("attn_dropout", "attention.weights"),
    ("(?:out_projection|layer_dropout)", "attention"),
]
_MLP_POINTS: Rows = [("", "mlp"), ("dense_in", "mlp.hidden"), ("(?:dense_out|layer_dropout)", "mlp")]
_OWN_POINTS: Rows = [
    (r"layer_norm_1(?:@\d)?", "own.norm"),  # called for queries and for keys, where it comes before
    *inside("first_sub_layer", "own", _ATTENTION_POINTS),
]
_DECODER_POINTS: Rows = [
    ("", ""),
    *_OWN_POINTS,
    ("layer_norm_2", "cross.query_norm|cross.norm"),
    *inside("second_sub_layer", "cross", _ATTENTION_POINTS),
    ("layer_norm_3", "cross.mlp_norm"),
    *inside("third_sub_layer", "cross", _MLP_POINTS),
]
_ENCODER_POINTS: Rows = [
    ("", ""),
    *_OWN_POINTS,
    ("layer_norm_2", "own.mlp_norm"),
    *inside("second_sub_layer", "own", _MLP_POINTS),
]


def _points() -> Rows:
    rows: Rows = [
        ("att_bridge", "bridge"),
        (r"att_bridge\.W1", "bridge.hidden"),
        (r"att_bridge\.act", "bridge.activation"),
        (r"att_bridge\.W2", "bridge.scores"),
    ]
    for theirs, ours, layers in (
        ("init_cross_att", "start", _DECODER_POINTS),
        (r"cross_att_layers\.(\d+)", r"blocks.\1.cross", _DECODER_POINTS),
        (r"self_att_layers\.(\d+)", r"blocks.\1.own", _ENCODER_POINTS),
    ):
        number = r"\2" if r"\1" in ours else r"\1"
        rows += [(theirs, ours), (rf"{theirs}\.final_layer_norm", ours)]
        rows += inside(rf"{theirs}\.layers\.(\d+)", rf"{ours}.layers.{number}", layers)
    return rows


def _perceiver_encoder(given: Given) -> Rebuilt:
    what = "PerceiverEncoder"
    chosen = options(what, given.config, _OPTIONS)
    for name, known in (("hidden_act", _CONVENTIONS), ("hidden_init_method", _STARTS)):
        if chosen[name] not in known:
            raise one_of(name, str(chosen[name]), known)
    width, heads = (
        positive("hidden_size", chosen["hidden_size"]),
        positive("num_attention_heads", chosen["num_attention_heads"]),
    )
    if width % heads:
        raise InputError(f"hidden_size ({width}) must be divisible by num_attention_heads ({heads})")
    inner, steps = positive("inner_size", chosen["inner_size"]), positive("hidden_steps", chosen["hidden_steps"])
    final = chosen["pre_ln"] and chosen["pre_ln_final_layer_norm"]
    if final:
        positive("num_layers, where a norm follows", chosen["num_layers"])
    shared: dict[str, Any] = {
        "conventions": _CONVENTIONS[chosen["hidden_act"]],
        "norms": "before" if chosen["pre_ln"] else "around",
        "hidden": inner,
    }
    own = SelfAttention(width, heads, **shared)
    cross = CrossAttention(width, width, heads, context_norm=False, **shared)
    model = PerceiverEncoder(
        cross=Stack(replace(own, feed_forward=False), cross, 1, final),
        own=Stack(own, None, chosen["num_layers"], final),
        latents=steps,
        blocks=chosen["hidden_blocks"],
        bridge=Bridge(width, inner, steps) if _STARTS[chosen["hidden_init_method"]] else None,
        causal=chosen["mask_future"],
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = ["encoder_states", "encoder_mask"]
        values, _ = read_call(what, arguments, called, set(names), {}, names)
        x, mask = values["encoder_states"], array_of(values["encoder_mask"])
        check_axes("encoder_states", x, "batch, tokens, channels")
        if tuple(mask.shape) != tuple(x.shape[:2]):
            raise InputError(f"encoder_mask must be {tuple(x.shape[:2])}, got {tuple(mask.shape)}")
        library = xp(array_of(x))
        mask = mask if xp(mask) is library else library.asarray(to_host(mask))
        return {"out0": model.apply(params, x, mask), "out1": library.ones((x.shape[0], steps), mask.dtype)}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _points())


PEER = Peer("nemo", {"PerceiverEncoder": _perceiver_encoder})
