"""open_clip 3.3.0 (`transformer.py`): AttentionalPooler, of CoCa and of vision towers with attentional pooling.

PyTorch's MultiheadAttention keeps its weights in two layouts: one array where features are as wide as queries, three
where they are not; the biases are one array in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..autograd.tree import Tree
from ..models.call import Call
from ..models.conventions import POOLER_DIALECTS
from ..models.resamplers import AttentionPool
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, read_call
from .names import LINEAR, NORM, Rows, Table, bind, fused, same, transposed

_WHAT = "AttentionalPooler"
_SIZE = Option(int, required=True)
_OPTIONS = {"d_model": _SIZE, "context_dim": _SIZE, "n_head": 8, "n_queries": 256, "norm_eps": 1e-5}
_TRIPLE = tuple(zip(("query", "key", "value"), "qkv"))
MULTIHEAD: Table = {
    **{
        f"{name}/{kind}": (f"in_proj_{kind}", fused(i, 3))
        for i, (name, _) in enumerate(_TRIPLE)
        for kind in ("weight", "bias")
    },
    "output": ("out_proj", LINEAR),
}
"""A `torch.nn.MultiheadAttention` with one array of weights."""
_APART: Table = {
    **{f"{name}/weight": (f"{letter}_proj_weight", transposed) for name, letter in _TRIPLE},
    **{f"{name}/bias": ("in_proj_bias", fused(i, 3)) for i, (name, _) in enumerate(_TRIPLE)},
    "output": ("out_proj", LINEAR),
}
_POINTS: Rows = [
    ("ln_q", "pool.latents_norm"),
    ("ln_k", "pool.features_norm"),
    (r"attn(\.out_proj)?", "pool.attention"),
]


def _pooler(given: Given) -> Rebuilt:
    """`norm_eps` stands for `norm_layer=partial(LayerNorm, eps=norm_eps)`."""
    chosen = options(_WHAT, given.config, _OPTIONS)
    width, context = chosen["d_model"], chosen["context_dim"]
    model = AttentionPool(
        features=context,
        channels=width,
        latents=chosen["n_queries"],
        heads=chosen["n_head"],
        norms="before",
        conventions=replace(POOLER_DIALECTS["open-clip"], norm_eps=chosen["norm_eps"]),
    )
    names: Table = {
        "latents": ("query", same),
        "latents_norm": ("ln_q", NORM),
        "features_norm": ("ln_k", NORM),
        "attention": ("attn", MULTIHEAD if width == context else _APART),
    }

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(_WHAT, arguments, called, {"x"}, {}, ["x"])
        check_axes("x", values["x"], "batch, tokens, dim")
        return {"out": model.apply(params, values["x"])}

    return Rebuilt(model, bind(model.parameters(), names), run, _POINTS)


PEER = Peer("open-clip", {_WHAT: _pooler})
