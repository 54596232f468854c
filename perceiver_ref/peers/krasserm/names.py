"""How krasserm's modules name their parameters: positions in `nn.Sequential`s, `module` inside a residual."""

from __future__ import annotations

from ...encoder import Encoder
from ..names import LINEAR, NORM, Rows, Table, below, inside, renamed, same

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


ATTENTION_POINTS: Rows = [
    ("q_proj", "attention.query"),
    ("k_proj", "attention.keys|attention.key"),
    ("v_proj", "attention.values|attention.value"),
    ("o_proj", "attention"),
    ("dropout", "attention.weights"),
]
_ATTENDING_POINTS: Rows = [
    ("", "attention"),
    ("q_norm", "query_norm"),
    ("kv_norm", "key_value_norm"),
    ("norm", "norm"),
    ("attention", "attention"),
    *below("attention", "", ATTENTION_POINTS),
]
_MLP_POINTS: Rows = [
    ("", ""),
    ("dropout", "mlp"),
    ("module", "mlp"),
    (r"module\.0", "mlp_norm"),
    (r"module\.1", "mlp.hidden"),
    (r"module\.2", "mlp.activation"),
    (r"module\.3", "mlp"),
]
ADAPTER_POINTS: Rows = [
    ("", ""),
    ("txt_embedding", "embedding"),
    ("pos_embedding", "positions"),
    ("position_encoding", "positions"),
    ("linear", "linear"),
]
"""Of an input adapter: tokens, images or frames."""
LAYER_POINTS: Rows = [
    ("", ""),
    ("0", "attention_residual"),
    (r"0\.dropout", "attention"),
    *below("0.module", "", _ATTENDING_POINTS),
    *below("1", "", _MLP_POINTS),
]
"""Of a cross- or self-attention layer."""
_LAYER_POINTS_WITHOUT_RESIDUAL: Rows = [("", ""), *below("0", "", _ATTENDING_POINTS), *below("1", "", _MLP_POINTS)]


def decoder_points(residual: bool) -> Rows:
    """Trace points of a decoder; what its output adapter gives may go through a reshape or a division."""
    layer = LAYER_POINTS if residual else _LAYER_POINTS_WITHOUT_RESIDUAL
    return [
        ("output_query_provider", "queries"),
        *below("cross_attn", "cross_attention", layer),
        ("output_adapter", ""),
        (r"output_adapter\.linear", "output"),
    ]


def encoder_points(encoder: Encoder) -> Rows:
    """Trace points: a module that is called several times has "@0", "@1", ... after its name."""
    rows: Rows = [("latent_provider", "latents")]
    last = encoder.layers - 1
    for kind, count, shared in (
        ("cross", encoder.cross_attends, encoder.shared_cross == "all"),
        ("self", encoder.blocks, encoder.shared_blocks == "all"),
    ):
        modules = [f"{kind}_attn_1" if shared or b == 0 else f"{kind}_attn_n" for b in range(count)]
        for b, module in enumerate(modules):
            time = "" if modules.count(module) == 1 else f"@{modules[:b].count(module)}"
            if kind == "cross":
                ours = "cross_attention" if count == 1 else f"cross_attention.{b}"
                rows += inside(module, ours, LAYER_POINTS, time)
            else:
                for i in range(encoder.layers):
                    rows += inside(rf"{module}\.{i}", f"blocks.{b}.{i}", LAYER_POINTS, time)
                rows.append((module + time, f"blocks.{b}.{last}"))
    return rows
