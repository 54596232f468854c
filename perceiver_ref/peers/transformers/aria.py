"""transformers' Aria (`models.aria`, version 5.23): AriaProjector, from patches of an image to tokens.

How many of the learned queries are used is looked up by the number of patches. Its quirk: what is mapped to queries,
keys and values, and back, is mapped twice in a row, by layers of its own and by those of PyTorch's attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError, shortened
from ...models.activations import activations
from ...models.attention import Attention
from ...models.call import Call
from ...models.conventions import POOLER_DIALECTS, Conventions
from ...models.layers import Linear
from ...models.module import Module, part
from ...models.resamplers import AttentionPool
from ...models.tracing import point
from ..base import Arguments, Given, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from ..inherited import INHERITED, PRETRAINED
from ..masks import masked_out
from ..names import LINEAR, NORM, Rows, Table, bind, fused, inside, same, transposed
from .kosmos2 import part_option

_WHAT = "AriaProjector"
_CONFIG: dict[str, Any] = {"vision_config": {}, "text_config": {}, "projector_patch_to_query_dict": None}
_QUERIES = {1225: 128, 4900: 256}
_IGNORED = PRETRAINED | {
    "ignore_index",
    "image_token_id",
    "image_token_index",
    "max_value_projector_patch_to_query_dict",
    "vision_feature_layer",
}
"""Of the whole model; the largest number of queries follows from the table."""
_TRIPLE = ("query", "key", "value")


@dataclass(frozen=True)
class Twice(Module):
    """Two linear maps in a row, in the place of one; the first gives the traced point `name`."""

    channels: int
    name: str
    biases: tuple[bool, bool]

    @part
    def first(self) -> Linear:
        """The first map."""
        return Linear(self.channels, self.channels, self.biases[0])

    @part
    def second(self) -> Linear:
        """The second map."""
        return Linear(self.channels, self.channels, self.biases[1])

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., D) -> the same shape."""
        return self.second.apply(p["second"], point(self.name, self.first.apply(p["first"], x)))


@dataclass(frozen=True)
class Widened(Module):
    """activation(x W1) W2, to another width: what comes after the attention."""

    inputs: int
    outputs: int
    conventions: Conventions

    @part
    def hidden(self) -> Linear:
        """The first map."""
        return Linear(self.inputs, self.outputs, self.conventions.mlp_bias)

    @part
    def output(self) -> Linear:
        """The second map."""
        return Linear(self.outputs, self.outputs, self.conventions.mlp_bias)

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., inputs) -> (..., outputs)."""
        h = point("output.hidden", self.hidden.apply(p["hidden"], x))
        return self.output.apply(p["output"], point("output.activation", activations[self.conventions.activation](h)))


_OWN = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
_ATTENTION: Table = {
    **{f"{name}/first/weight": (f"{own}.weight", transposed) for name, own in _OWN.items()},
    **{
        f"{name}/second/{kind}": (f"multihead_attn.in_proj_{kind}", fused(i, 3))
        for i, name in enumerate(_TRIPLE)
        for kind in ("weight", "bias")
    },
    "output/first": ("multihead_attn.out_proj", LINEAR),
    "output/second": ("linear", LINEAR),
}
_NAMES: Table = {
    "latents": ("query", same),
    "latents_norm": ("cross_attn.layer_norm", NORM),
    "features_norm": ("cross_attn.layer_norm_kv", NORM),
    "attention": ("cross_attn", _ATTENTION),
    "norm": ("layer_norm", NORM),
    "output/hidden/weight": ("feed_forward.linear_in.weight", transposed),
    "output/output/weight": ("feed_forward.linear_out.weight", transposed),
}
_POINTS: Rows = inside(
    "",
    "pool",
    [
        *inside("cross_attn", "attention", [(own, f"{name}_in") for name, own in _OWN.items()]),
        (r"cross_attn\.layer_norm", "latents_norm.batch"),
        (r"cross_attn\.layer_norm_kv", "features_norm"),
        (r"cross_attn\.multihead_attn(?:\.out_proj)?", "attention.output_in"),
        (r"cross_attn(?:\.linear|\.dropout)?", "attention"),
        ("layer_norm", "norm"),
        (r"feed_forward\.linear_in", "output.hidden"),
        (r"feed_forward\.act", "output.activation"),
        (r"feed_forward(?:\.linear_out)?", "output"),
    ],
)


def _queries(given: Any) -> dict[int, int]:
    """Number of patches -> number of queries; keys may be texts, as JSON has them."""
    if given is None:
        return _QUERIES
    try:
        return {int(patches): positive("a number of queries", queries) for patches, queries in given.items()}
    except (AttributeError, TypeError, ValueError):
        said = shortened(given)
        raise InputError(f"projector_patch_to_query_dict must map numbers of patches to numbers, got {said}") from None


def _projector(given: Given) -> Rebuilt:
    chosen = options(_WHAT, given.config, _CONFIG, _IGNORED, INHERITED)
    text, vision = chosen["text_config"] or {}, chosen["vision_config"] or {}
    width = part_option(vision, f"vision_config of {_WHAT}", ("hidden_size",), 1152)
    heads = part_option(vision, f"vision_config of {_WHAT}", ("num_attention_heads",), 16)
    outputs = part_option(text, f"text_config of {_WHAT}", ("hidden_size",), 4096)
    queries = _queries(chosen["projector_patch_to_query_dict"])
    if not queries:
        raise InputError("projector_patch_to_query_dict is empty: no number of patches has queries")
    conventions = POOLER_DIALECTS["aria"]
    model = AttentionPool(
        features=width,
        channels=width,
        latents=max(queries.values()),
        heads=heads,
        norms="before",
        end="norm",
        last=outputs,
        conventions=conventions,
    )
    for name in _TRIPLE:
        model = model.replace(f"attention.{name}", Twice(width, f"{name}_in", (False, True)))
    model = model.replace("attention.output", Twice(width, "output_in", (True, True)))
    model = model.replace("output", Widened(width, outputs, conventions))
    assert isinstance(model.attention, Attention)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = ["key_value_states", "attn_mask"]
        values, _ = read_call(_WHAT, arguments, called, set(names), {}, names[:1])
        x, mask = values["key_value_states"], values.get("attn_mask")
        check_axes("key_value_states", x, "batch, patches, dim")
        if x.shape[1] not in queries:
            raise InputError(f"there are no queries for {x.shape[1]} patches, only for {', '.join(map(str, queries))}")
        masks: dict[str, Any] = {}
        if mask is not None:
            if tuple(mask.shape) != tuple(x.shape[:2]):
                raise InputError(f"attn_mask must be {tuple(x.shape[:2])}, got {tuple(mask.shape)}")
            masks = masked_out("attn_mask", mask[:, None, None, :], array_of(x).dtype)
        used = {**params, "latents": params["latents"][: queries[x.shape[1]]]}
        return {"out": model.apply(used, x, **masks)}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


PEER = Peer("aria", {_WHAT: _projector})
