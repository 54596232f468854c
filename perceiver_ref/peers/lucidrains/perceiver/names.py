"""How perceiver-pytorch names its parameters and modules, in 0.11 and until 0.9.

A layer is a module that norms its inputs (`norm`, `norm_context`) around another (`fn`); keys and values are one linear
map, and so are an MLP's hidden channels and gates. Several repetitions with the same weights are one module, named by
the first; its n-th use has `@n` in a trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ....models.encoder import Encoder, Sharing, weights_of
from ...names import LINEAR, NORM, Rows, Table, fused, same, transposed

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


ATTENTION_POINTS: Rows = [
    ("", "attention"),
    ("to_q", "attention.query"),
    ("to_kv", "attention.key_value"),
    ("dropout", "attention.weights.flat"),
    ("to_out", "attention"),
]
MLP_POINTS: Rows = [
    ("", "mlp"),
    ("net", "mlp"),
    ("net.0", "mlp.hidden_gate"),
    ("net.1", "mlp.activation"),
    ("net.2", "mlp"),
    ("net.3", "mlp"),
]
_MIXER_POINTS: Rows = [
    ("", "mixing"),
    ("0", "mixing.hidden"),
    ("1", "mixing.activation"),
    ("2", "mixing.activation"),
    ("3", "mixing"),
]
RESIDUAL_POINTS: Rows = [
    ("to_attn_logits", "logits"),
    ("to_attn_logits.0", "norm"),
    ("to_attn_logits.1", "down"),
    ("to_attn_logits.2", "logits"),
]
"""Below a module, by its name as it is, and our names below the layer's."""


def layer_points(attention: str, mlp: str, inside: str = "fn", mixes: bool = False) -> Rows:
    """Those of a layer: `attention` and `mlp` norm their inputs around `inside`; `mixes`: an MLP along the latents."""
    outer = inside.removesuffix("fn").strip(".")
    rows = []
    for module, norm, points in (
        (attention, "query_norm|norm", _MIXER_POINTS if mixes else ATTENTION_POINTS),
        (mlp, "mlp_norm", MLP_POINTS),
    ):
        if outer:  # what norms its inputs is itself inside a gate or a residual
            rows.append((_dotted(module, outer), points[0][1]))
        rows.append((_dotted(module, outer, "norm"), norm))
        rows += [(_dotted(module, inside, name), ours) for name, ours in points]
    return [*rows, (_dotted(attention, outer, "norm_context"), "key_value_norm")]


def exactly(prefix: str, ours: str, rows: Iterable[tuple[str, str]], use: str = "") -> Rows:
    """Rows by names as they are, below a module and a point; `use` says which call of the module is meant."""
    return [
        (re.escape(_dotted(prefix, name) + use), "|".join(_dotted(ours, end) for end in ends.split("|")))
        for name, ends in rows
    ]


def _dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


@dataclass(frozen=True)
class BlockNames:
    """Where the modules of an encoder's blocks are, below `layers.<n>`.

    `cross` are cross-attention and its MLP; `own` self-attention and its MLP, below `block`, whose {i} is the number of
    the layer. `first` is where the cross-attention is that is not in a block. `cross_gives` and `own_gives` are our
    names, below the layer's, for what these modules give.
    """

    cross: tuple[str, str] = ("cross_attn", "cross_ff")
    block: str = "self_attns.{i}"
    own: tuple[str, str] = ("0", "1")
    first: str | None = None
    inside: str = "fn"
    gate: str = ""
    cross_gives: tuple[str, str] = ("attention", "mlp")
    own_gives: tuple[str, str] = ("attention", "mlp")

    def table(self, own: int) -> Table:
        """Names of an encoder's parameters, `own` of whose blocks have weights of their own."""
        cross, block = (layer(*names, self.inside, self.gate) for names in (self.cross, self.own))
        layers: dict[str, Any] = {"cross_attention": (self.first or "layers.0", cross)}
        for i in range(own):
            layers["block" if i == 0 else f"later_blocks/{i - 1}"] = (f"layers.{i}", {"{i}": (self.block, block)})
            layers[f"later_cross_attentions/{i - 1}"] = (f"layers.{i}", cross)
        return {
            "latents": ("latents", same),
            "attention_residuals/{i}": ("attn_residuals.{i}.to_attn_logits", RESIDUAL),
            **layers,
        }

    def rows(self, encoder: Encoder) -> Rows:
        """The trace points of an encoder's modules."""
        rows: Rows = []
        crosses, own = self._layer(self.cross, self.cross_gives), self._layer(self.own, self.own_gives)
        if self.first is not None:
            rows += exactly(self.first, "encoder.cross_attention", [("", ""), *crosses])
        for b, number, use in uses(encoder, encoder.blocks):
            module, block = f"layers.{number}", f"encoder.blocks.{b}"
            rows += exactly(module, block, [("", "")], use)
            residual = [("", ""), *RESIDUAL_POINTS]
            rows += exactly(f"attn_residuals.{number}", f"encoder.attention_residuals.{b}", residual, use)
            if self.first is None:
                name = "encoder.cross_attention" + (f".{b}" if encoder.cross_attends > 1 else "")
                rows += exactly(module, name, crosses, use)
            for i in range(encoder.layers):
                rows += exactly(_dotted(module, self.block.replace("{i}", str(i))), f"{block}.{i}", own, use)
        return rows

    def _layer(self, theirs: tuple[str, str], gives: tuple[str, str]) -> Rows:
        """The points of a layer's modules; what the two of them give themselves comes first."""
        gates = [(f"{theirs[0]}.{self.gate}", "attention_residual.flat")] if self.gate else []
        return [*zip(theirs, gives), *gates, *layer_points(*theirs, self.inside, gives[0] == "mixing")]


def uses(encoder: Encoder, repetitions: int) -> list[tuple[int, int, str]]:
    """For each of so many repetitions its number, that of its weights, and what a trace adds to its modules' names."""
    which = [weights_of(b, encoder.shared_blocks) for b in range(repetitions)]
    return [(b, i, f"@{which[:b].count(i)}" if which.count(i) > 1 else "") for b, i in enumerate(which)]


PERCEIVER = BlockNames()
PERCEIVER_IO = BlockNames(first="cross_attend_block")
OLD_PERCEIVER = BlockNames(("0", "1"), "2.{i}")
OLD_PERCEIVER_IO = BlockNames(("0", "1"), "", first="cross_attend_blocks")
"""Until 0.9 a block was a list of modules."""
GATED = BlockNames(
    *(("0", "1"), "", ("2", "3")),
    inside="fn.fn",
    gate="gru",
    cross_gives=("attention_residual", ""),
    own_gives=("attention_residual", ""),
)
MIXED = BlockNames(("0", "1"), "", ("2", "3"), own_gives=("mixing", "mlp"))
TWO_WAY = BlockNames(("0", "1"), "", ("5", "6"))
_INPUTS: Table = {
    "norm": ("4.norm", NORM),
    "attention/query/weight": ("4.fn.to_qkv.weight", fused(0, 3)),
    "attention/key/weight": ("4.fn.to_qkv.weight", fused(1, 3)),
    "attention/value/weight": ("4.fn.to_qkv.weight", fused(2, 3)),
    "attention/output": ("4.fn.to_out.0", LINEAR),
    "cross_attention": ("", layer("2", "3")),
}
TWO_WAY_INPUTS: Table = {"projection": ("data_proj", LINEAR), "inputs/{i}": ("layers.{i}", _INPUTS)}


_LINEAR_ATTENTION_POINTS: Rows = [
    ("", "attention"),
    ("norm", "norm"),
    ("fn", "attention"),
    ("fn.to_qkv", "attention.projections"),
    ("fn.to_out", "attention"),
    ("fn.to_out.0", "attention"),
    ("fn.to_out.1", "attention"),
]


def input_rows(encoder: Encoder) -> Rows:
    """The trace points of the modules that change the inputs of `experimental.Perceiver`, after every block but one."""
    rows = [("data_proj", "encoder.projection")]
    for b, number, use in uses(encoder, encoder.blocks - 1):
        module, ours = f"layers.{number}", f"encoder.inputs.{b}"
        rows += exactly(f"{module}.4", ours, _LINEAR_ATTENTION_POINTS, use)
        crosses = [("2", "attention"), ("3", "mlp"), *layer_points("2", "3")]
        rows += exactly(module, f"{ours}.cross_attention", crosses, use)
    return rows


def is_old(names: Iterable[str]) -> bool:
    """Whether parameters have the names of releases until 0.9."""
    return any(re.match(r"(perceiver_io\.)?(cross_attend_blocks\.|layers\.0\.0\.)", name) for name in names)


def sharing(tied: bool, also_first: bool) -> Sharing:
    """Whose weights are one when layers are tied."""
    return ("all" if also_first else "later") if tied else "none"
