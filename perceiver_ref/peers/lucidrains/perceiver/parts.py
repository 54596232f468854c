"""perceiver-pytorch's building blocks on their own: `Attention`, `FeedForward`, `PerceiverBlock` and functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....autograd import ops
from ....autograd.tree import Tree
from ....errors import InputError
from ....models.attention import SelfAttention
from ....models.call import Call
from ....models.constraints import Count
from ....models.layers import MLP
from ....models.module import Module, part
from ....models.positions import fourier_features
from ....models.tracing import point, scope
from ...base import Arguments, Function, Given, Option, Outputs, Rebuilt, read_call
from ...names import bind, renamed
from . import names
from .config import ATTENTION, BLOCK, array_list, flat_mask, read
from .quirks import CONVENTIONS, MULTIPLE, AttentionResidual, VariedAttention, VariedCrossAttention, axis_major

_INVERTED = {"inverted_attention": False}


def _context_dim(what: str, chosen: Mapping[str, Any], own: int) -> int:
    width: int = own if chosen["context_dim"] is None else chosen["context_dim"]
    if chosen["queries_contribute_kv"] and width != own:
        raise InputError(f"{what}: queries_contribute_kv needs context_dim to be {own}, as the queries; got {width}")
    return width


def _rows(mask: Any, context: Any) -> Any:
    """A mask of keys as (B, 1, M)."""
    flat = flat_mask(mask, *context.shape[:2])
    return None if flat is None else flat[:, None, :]


def attention(given: Given) -> Rebuilt:
    """`Attention`, of x on a context or on itself."""
    chosen = read("Attention", given.config, ATTENTION)
    width, inner = chosen["query_dim"], chosen["heads"] * chosen["dim_head"]
    sizes = (width, _context_dim("Attention", chosen, width), inner, inner, width, chosen["heads"])
    module = VariedAttention(*sizes, conventions=CONVENTIONS, queries_join=chosen["queries_contribute_kv"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, wanted = read_call("Attention", arguments, called, {"x", "context", "mask"}, _INVERTED, ["x"])
        x = values["x"]
        context = values.get("context", x)
        layer = model.with_fields(inverted=wanted["inverted_attention"])
        out = layer.apply(params, x, context, mask=_rows(values.get("mask"), context))
        return {"out": out}

    rows = names.exactly("", "", names.ATTENTION_POINTS)
    return Rebuilt(module, bind(module.parameters(), names.ATTENTION), run, rows)


def feed_forward(given: Given) -> Rebuilt:
    """`FeedForward`: the gated MLP."""
    chosen = read("FeedForward", given.config, {"dim": Option(int, required=True), "mult": MULTIPLE, "dropout": 0.0})
    module = MLP(chosen["dim"], chosen["mult"], CONVENTIONS)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("FeedForward", arguments, called, {"x"}, {}, ["x"])
        return {"out": model.apply(params, values["x"])}

    rows = names.exactly("", "", names.MLP_POINTS)
    return Rebuilt(module, bind(module.parameters(), names.MLP), run, rows)


@dataclass(frozen=True)
class Block(Module):
    """A cross-attention, or none, then self-attentions."""

    cross: VariedCrossAttention | None
    layer: SelfAttention
    layers: Count

    @part
    def inverted_cross(self) -> VariedCrossAttention | None:
        """The cross-attention with its softmax over queries."""
        return None if self.cross is None else replace(self.cross, inverted=True)

    def parameters(self) -> Tree:
        cross = {} if self.cross is None else self.cross.parameters()
        return {"cross_attention": cross, "block": [self.layer.parameters() for _ in range(self.layers)]}

    def apply(self, p: Tree, x: Any, context: Any = None, *, mask: Any = None, inverted: bool = False) -> Any:
        """x (B, N, channels), context (B, M, C), mask (B, 1, M) -> (B, N, channels)."""
        cross = self.inverted_cross if inverted else self.cross
        if cross is not None:
            with scope("cross_attention"):
                x = cross.apply(p["cross_attention"], x, context, mask=mask)
        for i, weights in enumerate(p["block"]):
            with scope(f"layers.{i}"):
                x = self.layer.apply(weights, x)
        return point("", x)


def perceiver_block(given: Given) -> Rebuilt:
    """`PerceiverBlock`; without cross-attention it takes no notice of context, mask and inverted_attention."""
    chosen = read("PerceiverBlock", given.config, BLOCK)
    width, cross = chosen["dim"], None
    shared: dict[str, Any] = {"widening": MULTIPLE, "conventions": CONVENTIONS}
    if chosen["has_cross_attn"]:
        cross = VariedCrossAttention(
            width,
            _context_dim("PerceiverBlock", chosen, width),
            chosen["cross_heads"],
            chosen["cross_heads"] * chosen["cross_dim_head"],
            queries_join=chosen["queries_contribute_kv"],
            **shared,
        )
    inner = chosen["latent_heads"] * chosen["latent_dim_head"]
    module = Block(cross, SelfAttention(width, chosen["latent_heads"], inner, **shared), chosen["self_per_cross_attn"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        required = ["x"] if cross is None else ["x", "context"]
        known = {"x", "context", "mask"}
        values, wanted = read_call("PerceiverBlock", arguments, called, known, _INVERTED, required)
        if cross is None:
            return {"out": model.apply(params, values["x"])}
        x, context = values["x"], values["context"]
        mask = _rows(values.get("mask"), context)
        return {"out": model.apply(params, x, context, mask=mask, inverted=wanted["inverted_attention"])}

    block = {"{i}": ("self_attns.{i}", names.layer("0", "1"))}
    table = {"cross_attention": ("", names.layer("cross_attn", "cross_ff")), "block": ("", block)}
    crosses = [("cross_attn", "attention"), ("cross_ff", "mlp"), *names.layer_points("cross_attn", "cross_ff")]
    rows = names.exactly("", "cross_attention", crosses)
    for i in range(chosen["self_per_cross_attn"]):
        own = [("0", "attention"), ("1", "mlp"), *names.layer_points("0", "1")]
        rows += names.exactly(f"self_attns.{i}", f"layers.{i}", own)
    return Rebuilt(module, bind(module.parameters(), table), run, rows)


def attention_residual(given: Given) -> Rebuilt:
    """`EnformerAttentionResidual` of a list of arrays, or of one array of them all."""
    chosen = read("EnformerAttentionResidual", given.config, {"dim": Option(int, required=True), "rank": 64})
    module = AttentionResidual(chosen["dim"], chosen["rank"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        name = "block_outputs"
        values, _ = read_call("EnformerAttentionResidual", arguments, called, {name}, {}, [name])
        return {"out": model.apply(params, array_list(values[name]))}

    table, rows = renamed("to_attn_logits", names.RESIDUAL), names.exactly("", "", names.RESIDUAL_POINTS)
    return Rebuilt(module, bind(module.parameters(), table), run, rows)


def fourier_encode(given: Given) -> Rebuilt:
    """`fourier_encode`: x (...) -> (..., 2 num_bands + 1), sines, cosines and x itself."""
    known = {"max_freq": Option(float, required=True), "num_bands": 4}

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, chosen = read_call("fourier_encode", arguments, {**given.config, **called}, {"x"}, known, ["x"])
        x = values["x"]
        column = ops.reshape(x, shape=(*x.shape, 1))
        features = fourier_features(column, chosen["num_bands"], (chosen["max_freq"],))
        return {"out": axis_major(features, chosen["num_bands"])}

    return Rebuilt(Function(fourier_features), [], run)


def geglu(given: Given) -> Rebuilt:
    """`GEGLU`: the first half of the channels times gelu of the second."""

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        x = read_call("GEGLU", arguments, called, {"x"}, {}, ["x"])[0]["x"]
        half = x.shape[-1] - x.shape[-1] // 2
        hidden, gates = ops.split(x, sizes=(half, x.shape[-1] - half), axis=-1)
        return {"out": ops.multiply(hidden, ops.gelu_erf(gates))}

    read("GEGLU", given.config, {})
    return Rebuilt(Function(ops.gelu_erf), [], run)
