"""Deviations of how maps that are stored as one are cut, and of what heads are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...autograd.backend import xp
from ...autograd.tree import Tree
from ...models.attention import Attention, KeysValues
from ...models.flamingo.gated_xattn import GatedCrossAttention
from ...models.tracing import where
from ...peers.chatterbox import AttentionBlock, ChannelAttention
from ...peers.transformers.edgetam import PlacedAttention
from .base import Candidate, Change, Exchange, Match, Survey, class_of, exchanged, groups

_TRIPLE = ("query", "key", "value")
_PAIR = ("key", "value")
Parameters = Callable[[Any, Tree], Tree]
"""(the attention, its parameters) -> others of the same shapes"""


def attention_params(match: Match, change: Parameters) -> Callable[[], Exchange]:
    """Attention with changed parameters; where they would not fit, unchanged."""

    def made() -> Exchange:
        def attend(original: Any, layer: Any, p: Tree, x: Any, z: Any, **options: Any) -> Any:
            changed = match(where()) and not isinstance(z, KeysValues)
            return original(layer, _fitting(layer, p, change) if changed else p, x, z, **options)

        def gated(original: Any, layer: Any, p: Tree, *arguments: Any, **options: Any) -> Any:
            p = {**p, "attention": _fitting(layer.attention, p["attention"], change)}
            return original(layer, p, *arguments, **options)

        return {Attention.apply: attend, GatedCrossAttention.apply: gated}

    return made


def _fitting(layer: Any, p: Tree, change: Parameters) -> Tree:
    made = change(layer, p)
    same = all(made[n]["weight"].shape == p[n]["weight"].shape for n in ("query", "key", "value", "output"))
    return made if same else p


def key_value_swapped(found: Survey) -> Iterator[Candidate]:
    """Queries', keys' and values' weights in another order than keys before values alone."""
    orders = {
        "queries and keys swapped": ("key", "query", "value"),
        "queries and values swapped": ("value", "key", "query"),
        "keys, values and queries read as queries, keys and values": ("key", "value", "query"),
        "values, queries and keys read as queries, keys and values": ("value", "query", "key"),
    }
    for name, order in orders.items():
        yield from _everywhere(found, "key-value-swapped", name, _reordered(order), rare=True)


def _everywhere(found: Survey, cause: str, name: str, change: Parameters, *, rare: bool = False) -> Iterator[Candidate]:
    places = found.ops.get("attention", [])
    for label, match, single in groups(places) if places and _alike(found) else []:
        yield Candidate(cause, f"{name}, {label}", Change(parts=attention_params(match, change)), rare or single)


def _alike(found: Survey) -> bool:
    """Whether some attention has queries, keys and values of the same shape."""
    return any(
        layer.q_inputs == layer.kv_inputs and layer.qk_channels == layer.v_channels and layer.shared == layer.heads
        for layer in found.of_class(Attention)
    )


def _reordered(order: Sequence[str]) -> Parameters:
    def change(layer: Any, p: Tree) -> Tree:
        made = {**p, **{name: p[other] for name, other in zip(_TRIPLE, order)}}
        if layer.q_inputs != layer.kv_inputs or "weight" not in p["query"]:
            return p
        return made

    return change


def head_layout(found: Survey) -> Iterator[Candidate]:
    """One map of queries, keys and values cut another way; other numbers of heads; the peer's own ways undone."""
    layouts: dict[str, tuple[tuple[str, ...], Callable[[Any, int, int, int], Any]]] = {
        "queries, keys and values fused within heads": (_TRIPLE, _within_heads),
        "queries, keys and values fused channel by channel": (_TRIPLE, _in_turn),
        "a map fused within heads read as queries, keys, values": (_TRIPLE, _out_of_heads),
        "a map fused channel by channel read as queries, keys, values": (_TRIPLE, _out_of_turn),
    }
    for name, (names, cut) in layouts.items():
        yield from _everywhere(found, "head-layout", name, _cut(names, cut), rare=True)
    pairs = {
        "a map fused within heads read as keys, values": _out_of_heads,
        "a map fused channel by channel read as keys, values": _out_of_turn,
    }
    places = found.ops.get("attention", [])
    for name, cut in pairs.items():
        for label, match, _ in groups(places) if places else []:
            change = Change(parts=attention_params(match, _cut(_PAIR, cut)))
            yield Candidate("head-layout", f"{name}, {label}", change, rare=True)
    for name, heads in (
        ("the number of heads and their width exchanged", lambda layer: layer.qk_channels // layer.heads),
        ("one head", lambda layer: 1),
    ):
        if places and any(type(layer) is Attention and layer.heads > 1 for layer in found.of_class(Attention)):
            yield Candidate("head-layout", name, exchanged({Attention.apply: _of_heads(heads)}), rare=True)
    if any(layer.heads > 1 for layer in found.of_class(PlacedAttention)):

        def merged(original: Any, layer: Any, *arguments: Any) -> Any:
            return Attention._mixed(layer, *arguments)

        variant = "heads joined after a transpose, not as they lie"
        yield Candidate("head-layout", variant, exchanged({PlacedAttention._mixed: merged}))


def _cut(names: Sequence[str], cut: Callable[[Any, int, int, int], Any]) -> Parameters:
    """The maps of these names side by side, their channels put in the order of another layout, and cut again."""

    def change(layer: Any, p: Tree) -> Tree:
        shapes = {p[name]["weight"].shape for name in names if "weight" in p[name]}
        if len(shapes) != 1 or len({frozenset(p[name]) for name in names}) != 1:
            return p
        made: dict[str, Tree] = {name: {} for name in names}
        for kind in p[names[0]]:
            if any(isinstance(p[name][kind], dict) for name in names):
                return p
            both = xp(p[names[0]][kind]).concatenate([p[name][kind] for name in names], axis=-1)
            heads = layer.shared if "query" not in names else layer.heads
            width = both.shape[-1] // (len(names) * heads)
            parts = xp(both).split(cut(both, len(names), heads, width), len(names), axis=-1)
            made.update({name: {**made[name], kind: part} for name, part in zip(names, parts)})
        return {**p, **made}

    return change


def _moved(x: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """The channels seen as these axes, and the axes in another order."""
    lead = x.shape[:-1]
    seen = x.reshape(*lead, *shape)
    n = len(lead)
    return seen.transpose(*range(n), *(n + a for a in axes)).reshape(*lead, -1)


def _within_heads(x: Any, parts: int, heads: int, width: int) -> Any:
    return _moved(x, (heads, parts, width), (1, 0, 2))


def _in_turn(x: Any, parts: int, heads: int, width: int) -> Any:
    return _moved(x, (heads, width, parts), (2, 0, 1))


def _out_of_heads(x: Any, parts: int, heads: int, width: int) -> Any:
    return _moved(x, (parts, heads, width), (1, 0, 2))


def _out_of_turn(x: Any, parts: int, heads: int, width: int) -> Any:
    return _moved(x, (parts, heads, width), (1, 2, 0))


def _of_heads(heads: Callable[[Any], int]) -> Callable[..., Any]:
    def attend(original: Any, layer: Any, *arguments: Any, **options: Any) -> Any:
        if class_of(layer) is Attention and layer.shared == layer.heads:
            layer = layer.with_fields(heads=heads(layer))
        return original(layer, *arguments, **options)

    return attend


def attention_scale(found: Survey) -> Iterator[Candidate]:
    """A scale that is given and ignored, used."""
    if any(layer.scale is not None and not layer.by_channels for layer in found.of_class(AttentionBlock)):

        def block(original: Any, layer: Any, *arguments: Any, **masks: Any) -> Any:
            attention = layer.attention.with_fields(scale=layer.scale)
            return original(layer.replace("attention", attention), *arguments, **masks)

        yield Candidate("attention-scale", "the scale that is given", exchanged({AttentionBlock.apply: block}))


def softmax_axis(found: Survey) -> Iterator[Candidate]:
    """Attention over positions where it is over channels."""
    if found.of_class(ChannelAttention):
        for name, default in (("scale 1 / sqrt(d)", True), ("the scale as it is", False)):

            def mixed(
                original: Any, layer: Any, q: Any, k: Any, v: Any, mask: Any, bias: Any, default: bool = default
            ) -> Any:
                return Attention._mixed(layer.with_fields(scale=None) if default else layer, q, k, v, None, None)

            variant = f"positions attend to positions, not channels to channels; {name}"
            yield Candidate("softmax-axis", variant, exchanged({ChannelAttention._mixed: mixed}))
