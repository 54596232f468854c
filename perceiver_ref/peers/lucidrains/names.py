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

from ...encoder import Encoder, Sharing, weights_of
from ..names import LINEAR, NORM, Rows, Table, fused, same, transposed

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


@dataclass(frozen=True)
class Layout:
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
        if self.first is not None:
            ours = _joined(self.cross, self.cross_gives, f"{self.first}.", "encoder.cross_attention")
            rows += [(re.escape(name), point) for name, point in (*ours, (self.first, "encoder.cross_attention"))]
        for b, number, use in uses(encoder, encoder.blocks):
            rows += [(re.escape(name + use), point) for name, point in self._modules(encoder, b, number)]
        return rows

    def _modules(self, encoder: Encoder, b: int, number: int) -> Rows:
        """Those of the repetition b, whose weights are those of this number."""
        below = f"layers.{number}."
        rows = [
            (f"layers.{number}", f"encoder.blocks.{b}"),
            (f"attn_residuals.{number}", f"encoder.attention_residuals.{b}"),
        ]
        if self.first is None:
            name = "encoder.cross_attention" + (f".{b}" if encoder.cross_attends > 1 else "")
            rows += _joined(self.cross, self.cross_gives, below, name)
        for i in range(encoder.layers):
            block = self.block.replace("{i}", str(i))
            prefix = below + (f"{block}." if block else "")
            rows += _joined(self.own, self.own_gives, prefix, f"encoder.blocks.{b}.{i}")
        return rows


def uses(encoder: Encoder, repetitions: int) -> list[tuple[int, int, str]]:
    """For each of so many repetitions its number, that of its weights, and what a trace adds to its modules' names."""
    which = [weights_of(b, encoder.shared_blocks) for b in range(repetitions)]
    return [(b, i, f"@{which[:b].count(i)}" if which.count(i) > 1 else "") for b, i in enumerate(which)]


def _joined(theirs: tuple[str, str], gives: tuple[str, str], prefix: str, ours: str) -> Rows:
    return [(prefix + name, f"{ours}.{end}".strip(".")) for name, end in zip(theirs, gives)]


PERCEIVER = Layout()
PERCEIVER_IO = Layout(first="cross_attend_block")
OLD_PERCEIVER = Layout(("0", "1"), "2.{i}")
OLD_PERCEIVER_IO = Layout(("0", "1"), "", first="cross_attend_blocks")
"""Until 0.9 a block was a list of modules."""
GATED = Layout(
    *(("0", "1"), "", ("2", "3")),
    inside="fn.fn",
    gate="gru",
    cross_gives=("attention_residual", ""),
    own_gives=("attention_residual", ""),
)
MIXED = Layout(("0", "1"), "", ("2", "3"), own_gives=("mixing", "mlp"))
TWO_WAY = Layout(("0", "1"), "", ("5", "6"))
_INPUTS: Table = {
    "norm": ("4.norm", NORM),
    "attention/query/weight": ("4.fn.to_qkv.weight", fused(0, 3)),
    "attention/key/weight": ("4.fn.to_qkv.weight", fused(1, 3)),
    "attention/value/weight": ("4.fn.to_qkv.weight", fused(2, 3)),
    "attention/output": ("4.fn.to_out.0", LINEAR),
    "cross_attention": ("", layer("2", "3")),
}
TWO_WAY_INPUTS: Table = {"projection": ("data_proj", LINEAR), "inputs/{i}": ("layers.{i}", _INPUTS)}


def input_rows(encoder: Encoder) -> Rows:
    """The trace points of the modules that change the inputs of `experimental.Perceiver`, after every block but one."""
    rows = [("data_proj", "encoder.projection")]
    for b, number, use in uses(encoder, encoder.blocks - 1):
        ours = f"encoder.inputs.{b}"
        rows += [
            (re.escape(f"layers.{number}.4{use}"), f"{ours}.attention"),
            (re.escape(f"layers.{number}.2{use}"), f"{ours}.cross_attention.attention"),
            (re.escape(f"layers.{number}.3{use}"), f"{ours}.cross_attention.mlp"),
        ]
    return rows


def is_old(names: Iterable[str]) -> bool:
    """Whether parameters have the names of releases until 0.9."""
    return any(re.match(r"(perceiver_io\.)?(cross_attend_blocks\.|layers\.0\.0\.)", name) for name in names)


def sharing(tied: bool, also_first: bool) -> Sharing:
    """Whose weights are one when layers are tied."""
    return ("all" if also_first else "later") if tied else "none"
