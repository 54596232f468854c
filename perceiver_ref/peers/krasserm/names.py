"""How krasserm's modules name their parameters: positions in `nn.Sequential`s, `module` inside a residual."""

from __future__ import annotations

from ...encoder import Encoder
from ..names import LINEAR, NORM, Rows, Table, renamed, same

ATTENTION: Table = {
    "query": ("q_proj", LINEAR),
    "key": ("k_proj", LINEAR),
    "value": ("v_proj", LINEAR),
    "output": ("o_proj", LINEAR),
}
_ATTENDING: Table = {
    "query_norm": ("q_norm", NORM),
    "key_value_norm": ("kv_norm", NORM),
    "norm": ("norm", NORM),
    "attention": ("attention", ATTENTION),
}
_MLP: Table = {
    "mlp_norm": ("1.module.0", NORM),
    "mlp": ("1.module", {"hidden": ("1", LINEAR), "output": ("3", LINEAR)}),
}
LAYER: Table = {**renamed("0.module", _ATTENDING), **_MLP}
"""A cross- or self-attention layer."""
LAYER_WITHOUT_RESIDUAL: Table = {**renamed("0", _ATTENDING), **_MLP}
ENCODER: Table = {
    "latents": ("latent_provider._query", same),
    "cross_attention": ("cross_attn_1", LAYER),
    "block/{i}": ("self_attn_1.{i}", LAYER),
    "later_cross_attentions/0": ("cross_attn_n", LAYER),
    "later_blocks/0/{i}": ("self_attn_n.{i}", LAYER),
}
TEXT: Table = {"embedding": ("txt_embedding.weight", same), "positions/table": ("pos_embedding.weight", same)}
GRID: Table = {"features/linear": ("linear", LINEAR)}
BUFFER: Table = {"positions": ("position_encoding.position_encoding", same)}


def decoder(residual: bool) -> Table:
    """A decoder, whose cross-attention's names tell whether it is added to the queries."""
    return {
        "queries/table": ("output_query_provider._query", same),
        "cross_attention": ("cross_attn", LAYER if residual else LAYER_WITHOUT_RESIDUAL),
        "output": ("output_adapter.linear", LINEAR),
    }


DECODER_POINTS: Rows = [("cross_attn", "cross_attention"), ("output_adapter", "")]


def encoder_points(encoder: Encoder) -> Rows:
    """Trace points: a module that is called several times has "@0", "@1", ... after its name."""
    rows: Rows = []
    last = encoder.layers - 1
    for kind, count, shared in (
        ("cross", encoder.cross_attends, encoder.shared_cross == "all"),
        ("self", encoder.blocks, encoder.shared_blocks == "all"),
    ):
        modules = [f"{kind}_attn_1" if shared or b == 0 else f"{kind}_attn_n" for b in range(count)]
        for b, module in enumerate(modules):
            time = "" if modules.count(module) == 1 else f"@{modules[:b].count(module)}"
            if kind == "cross":
                rows.append((module + time, "cross_attention" if count == 1 else f"cross_attention.{b}"))
            else:
                rows += [(rf"{module}\.{i}{time}", f"blocks.{b}.{i}") for i in range(encoder.layers)]
                rows.append((module + time, f"blocks.{b}.{last}"))
    return rows
