"""transformers' Kosmos-2 and Kosmos-2.5 (`models.kosmos2`, `models.kosmos2_5`, version 5.23): image to text tokens.

Learned latents attend once to the mapped features and to themselves, features first; nothing is normed, nothing added.
The maps of attention are an output of eager attention alone. What the whole models do with features before (a norm in
Kosmos-2, division by their length in both) is not part of the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ...autograd.tree import Tree
from ...models.call import Call
from ...models.conventions import POOLER_DIALECTS
from ...models.resamplers import AttentionPool
from ...models.tracing import trace
from ..base import Arguments, Given, Outputs, Peer, Rebuilt, check_axes, options, read_call
from ..inherited import INHERITED, PRETRAINED
from ..names import LINEAR, Rows, Table, bind, inside, same

_CONFIG: dict[str, Any] = {"vision_config": {}, "text_config": {}}
_SIZES = {
    "Kosmos2ImageToTextProjection": (64, 1024, 2048, 32),
    "Kosmos2_5ImageToTextProjection": (2048, 1536, 1536, 16),
}
"""By class, unless the configuration has them: latents, width of features and of latents, heads."""
_NAMES: Table = {
    "latents": ("latent_query", same),
    "input": ("dense", LINEAR),
    "attention": (
        "x_attn",
        {
            "query": ("q_proj", LINEAR),
            "key": ("k_proj", LINEAR),
            "value": ("v_proj", LINEAR),
            "output": ("out_proj", LINEAR),
        },
    ),
}
_POINTS: Rows = [
    ("dense", "pool.projected"),
    *inside(
        "x_attn",
        "pool.attention",
        [("", ""), ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "")],
    ),
]
_MAPS = "pool.attention.weights"


def part_option(part: Mapping[str, Any], what: str, names: tuple[str, ...], default: int) -> Any:
    """A field of a nested configuration, of which nothing else is read; it may have several names."""
    given = {name: value for name, value in part.items() if name in names}
    chosen = options(what, given, dict.fromkeys(names, default))
    return next((chosen[name] for name in names if name in given), default)


def _projection(given: Given, what: str) -> Rebuilt:
    latents, features, width, heads = _SIZES[what]
    chosen = options(what, given.config, {**_CONFIG, "latent_query_num": latents}, PRETRAINED, INHERITED)
    text, vision = chosen["text_config"] or {}, chosen["vision_config"] or {}
    width = part_option(text, f"text_config of {what}", ("embed_dim", "hidden_size"), width)
    heads = part_option(text, f"text_config of {what}", ("attention_heads", "num_attention_heads"), heads)
    model = AttentionPool(
        features=part_option(vision, f"vision_config of {what}", ("hidden_size",), features),
        channels=width,
        latents=chosen["latent_query_num"],
        heads=heads,
        projection="affine",
        latents_in_keys=True,
        conventions=POOLER_DIALECTS["kosmos2"],
    )
    attention = given.config.get("attn_implementation", given.config.get("_attn_implementation"))

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(what, arguments, called, {"features"}, {}, ["features"])
        check_axes("features", values["features"], "batch, tokens, dim")
        with trace(_MAPS.__eq__, tensors=True) as traced:
            out = model.apply(params, values["features"])
        return {"out0": out, **({"out1": traced[_MAPS]} if attention == "eager" else {})}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


PEER = Peer("kosmos2", {what: partial(_projection, what=what) for what in _SIZES})
