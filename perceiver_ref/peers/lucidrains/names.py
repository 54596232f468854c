"""How perceiver-pytorch 0.11 names its parameters and modules.

A layer is a module that norms its inputs (`norm`, `norm_context`) around another (`fn`); keys and values are one linear
map, and so are an MLP's hidden channels and gates. Several repetitions with the same weights are one module, named by
the first; its n-th use has `@n` in a trace.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ...encoder import Encoder, Sharing, weights_of
from ..names import LINEAR, NORM, Rows, Table, fused, same, transposed
from .encoders import BlockEncoder

ATTENTION: Table = {
    "query/weight": ("to_q.weight", transposed),
    "key/weight": ("to_kv.weight", fused(0, 2)),
    "value/weight": ("to_kv.weight", fused(1, 2)),
    "output": ("to_out", LINEAR),
}
MLP: Table = {
    "hidden": ("net.0", {"weight": ("weight", fused(0, 2)), "bias": ("bias", fused(0, 2))}),
    "gate": ("net.0", {"weight": ("weight", fused(1, 2)), "bias": ("bias", fused(1, 2))}),
    "output": ("net.2", LINEAR),
}
GRU: Table = {
    "input": ("", {"weight": ("weight_ih", transposed), "bias": ("bias_ih", same)}),
    "state": ("", {"weight": ("weight_hh", transposed), "bias": ("bias_hh", same)}),
}


def _pointwise(array: Any) -> Any:
    """A convolution of width 1 as a linear map."""
    return array[:, :, 0].T


_CONVOLUTION: Table = {"weight": ("weight", _pointwise), "bias": ("bias", same)}
_MIXER: Table = {"hidden": ("0", _CONVOLUTION), "output": ("3", _CONVOLUTION)}
RESIDUAL: Table = {
    "norm/scale": ("0.weight", same),
    "down/weight": ("1.weight", transposed),
    "up/weight": ("2.weight", transposed),
}


def layer(attention: str, mlp: str, inside: str = "fn", gate: str = "") -> Table:
    """A layer whose attention and MLP are the modules of these names, each around the module `inside`."""
    norm = inside.removesuffix("fn") + "norm"
    return {
        "query_norm": (f"{attention}.{norm}", NORM),
        "norm": (f"{attention}.{norm}", NORM),
        "key_value_norm": (f"{attention}.{norm}_context", NORM),
        "attention": (f"{attention}.{inside}", ATTENTION),
        "mixer": (f"{attention}.{inside}", _MIXER),
        "gru": (f"{attention}.{gate}", GRU),
        "mlp_norm": (f"{mlp}.{norm}", NORM),
        "mlp": (f"{mlp}.{inside}", MLP),
    }


CROSS = layer("cross_attn", "cross_ff")
BLOCK: Table = {"{i}": ("self_attns.{i}", layer("0", "1"))}
GATED = (layer("0", "1", "fn.fn", "gru"), {"{i}": ("", layer("2", "3", "fn.fn", "gru"))})
MIXED = (layer("0", "1"), {"{i}": ("", layer("2", "3"))})
"""Cross-attention, and the block of one layer after it."""


def encoder_table(own: int, cross: Table, block: Table, first: str = "layers.0") -> Table:
    """An encoder of `own` blocks with weights of their own; `first` is where the first cross-attention is."""
    table: dict[str, tuple[str, Table]] = {"cross_attention": (first, cross), "block": ("layers.0", block)}
    for i in range(1, own):
        table[f"later_cross_attentions/{i - 1}"] = (f"layers.{i}", cross)
        table[f"later_blocks/{i - 1}"] = (f"layers.{i}", block)
    return {
        "latents": ("latents", same),
        "attention_residuals/{i}": ("attn_residuals.{i}.to_attn_logits", RESIDUAL),
        **table,
    }


def cross_name(encoder: Encoder, repetition: int) -> str:
    """Our trace name of a cross-attention."""
    return "encoder.cross_attention" + (f".{repetition}" if encoder.cross_attends > 1 else "")


def block_rows(encoder: BlockEncoder) -> Rows:
    """The modules of the blocks of `Perceiver` and `PerceiverIO`."""

    def modules(b: int) -> Rows:
        cross = cross_name(encoder, b)
        own = [("cross_attn", f"{cross}.attention"), ("cross_ff", f"{cross}.mlp")] if encoder.first == "latents" else []
        for i in range(encoder.layers):
            own += [
                (f"self_attns.{i}.0", f"encoder.blocks.{b}.{i}.attention"),
                (f"self_attns.{i}.1", f"encoder.blocks.{b}.{i}.mlp"),
            ]
        return [*((f"layers.{{}}.{name}", ours) for name, ours in own), ("layers.{}", f"encoder.blocks.{b}")]

    def residuals(b: int) -> Rows:
        return [("attn_residuals.{}", f"encoder.attention_residuals.{b}")]

    return [*repeated(encoder, modules), *repeated(encoder, residuals)]


def sequence_rows(encoder: Encoder, ends: tuple[str, str, str, str]) -> Rows:
    """The four modules of each block of the variants: cross-attention, MLP, what mixes latents, MLP.

    `ends` are our names for what each gives, below the layer's.
    """

    def modules(b: int) -> Rows:
        layers = (cross_name(encoder, b), cross_name(encoder, b), *[f"encoder.blocks.{b}.0"] * 2)
        names = [".".join(part for part in (own, end) if part) for own, end in zip(layers, ends)]
        return [(f"layers.{{}}.{i}", name) for i, name in enumerate(names)]

    return repeated(encoder, modules)


def repeated(encoder: Encoder, modules: Callable[[int], Rows]) -> Rows:
    """Rows for every use of every block's modules; `modules` gives them for one, with {} for the module's number."""
    which = [weights_of(b, encoder.shared_blocks) for b in range(encoder.blocks)]
    rows = []
    for b, i in enumerate(which):
        use = f"@{which[:b].count(i)}" if which.count(i) > 1 else ""
        rows += [(re.escape(theirs.format(i) + use), ours) for theirs, ours in modules(b)]
    return rows


def sharing(tied: bool, also_first: bool) -> Sharing:
    """Whose weights are one when layers are tied."""
    return ("all" if also_first else "later") if tied else "none"
