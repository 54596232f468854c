"""Deviations of the order of layers and of whose weights they use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...models.attention import CrossAttention, SelfAttention
from ...models.encoder import Encoder, weights_of
from ...models.flamingo.gated_xattn import GatedCrossAttention
from ...models.flamingo.resampler import ResamplerLayer
from ...models.tracing import point, scope, where
from ..exchange import Replacement
from .base import Candidate, Change, Exchange, Match, Survey, exchanged, groups

Order = Callable[[int, list[list[Tree]]], list[Tree]]
"""The layers of block b, from all blocks' layers."""

_SHARING: dict[str, Order] = {
    "later blocks use the layers in rotated order": lambda b, w: w[b][b % len(w[b]) :] + w[b][: b % len(w[b])],
    "later blocks use the layers in rotated order, the other way": lambda b, w: (
        w[b][-b % len(w[b]) :] + w[b][: -b % len(w[b])]
    ),
    "later blocks use the layers in reverse": lambda b, w: w[b][::-1] if b else w[b],
    "every second block uses the layers in reverse": lambda b, w: w[b][::-1] if b % 2 else w[b],
    "every block uses the first block's layers": lambda b, w: w[0],
    "every block uses the last block's layers": lambda b, w: w[-1],
    "every block but the first uses the second's layers": lambda b, w: w[min(b, 1)],
    "blocks use the layers of the block before": lambda b, w: w[max(b - 1, 0)],
    "every layer of a block uses its first layer": lambda b, w: [w[b][0]] * len(w[b]),
    "every layer of a block uses its last layer": lambda b, w: [w[b][-1]] * len(w[b]),
    "every layer of later blocks uses the first layer": lambda b, w: [w[b][0]] * len(w[b]) if b else w[b],
    "the second block uses the first block's layers": lambda b, w: w[0] if b == 1 else w[b],
    "the last block uses the first block's layers": lambda b, w: w[0] if b == len(w) - 1 else w[b],
    "blocks but the first are left out": lambda b, w: [] if b else w[b],
    "blocks but the last are left out": lambda b, w: [] if b < len(w) - 1 else w[b],
    "every block uses the first layer of the first": lambda b, w: [w[0][0]] * len(w[b]),
    "every layer of the last block uses its last layer": lambda b, w: (
        [w[b][-1]] * len(w[b]) if b == len(w) - 1 else w[b]
    ),
    "every layer of the last block uses its first layer": lambda b, w: (
        [w[b][0]] * len(w[b]) if b == len(w) - 1 else w[b]
    ),
    "every layer of later blocks uses the last layer": lambda b, w: [w[b][-1]] * len(w[b]) if b else w[b],
    "later blocks use one layer each": lambda b, w: [w[b][b % len(w[b])]] * len(w[b]),
}
_BLOCK_ORDER: dict[str, Order] = {
    "the layers of every block in reverse": lambda b, w: w[b][::-1],
    "blocks in reverse": lambda b, w: w[len(w) - 1 - b],
    "blocks and their layers in reverse": lambda b, w: w[len(w) - 1 - b][::-1],
    "layers of every block rotated by one": lambda b, w: w[b][1:] + w[b][:1],
    "layers of every block rotated by one, the other way": lambda b, w: w[b][-1:] + w[b][:-1],
    "the first two layers of every block swapped": lambda b, w: [*w[b][1:2], *w[b][:1], *w[b][2:]],
    "layers of later blocks rotated by one": lambda b, w: w[b][1:] + w[b][:1] if b else w[b],
    "the last two layers of every block swapped": lambda b, w: [*w[b][:-2], *w[b][-1:], *w[b][-2:-1]],
}


def _weights(encoder: Any, p: Tree) -> list[list[Tree]]:
    own = [p["block"], *p["later_blocks"]]
    return [list(own[weights_of(b, encoder.shared_blocks)]) for b in range(encoder.blocks)]


def _blocks(order: Order) -> Exchange:
    def block(original: Any, encoder: Any, p: Tree, b: int, x: Any) -> Any:
        for i, weights in enumerate(order(b, _weights(encoder, p))):
            with scope(f"blocks.{b}.{i}"):
                x = encoder.self_attention.apply(weights, x)
        return x

    return {Encoder.block: block}


def _crosses(order: Callable[[int, list[Tree]], Tree]) -> Exchange:
    def attended(original: Any, encoder: Any, p: Tree, b: int, *rest: Any) -> Any:
        own = [p["cross_attention"], *p["later_cross_attentions"]]
        chosen = order(b, [own[weights_of(i, encoder.shared_cross)] for i in range(encoder.cross_attends)])
        n = len(p["later_cross_attentions"])
        return original(encoder, {**p, "cross_attention": chosen, "later_cross_attentions": [chosen] * n}, b, *rest)

    return {Encoder.cross_attended: attended}


_PARTS = {
    "attention with its norms": ("attention", "query_norm", "key_value_norm", "norm"),
    "attention": ("attention",),
    "MLP with its norm": ("mlp", "mlp_norm"),
}


def _crosses_in_part(order: Callable[[int, list[Tree]], Tree], names: tuple[str, ...]) -> Exchange:
    """The same of some parts of cross-attentions; the rest is each one's own."""

    def chosen(b: int, w: list[Tree]) -> Tree:
        return {**w[b], **{name: part for name, part in order(b, w).items() if name in names}}

    return _crosses(chosen)


def _has_encoder(found: Survey) -> bool:
    return any(place.startswith("encoder.blocks.") for place in found.scopes)


def _crossing(found: Survey) -> bool:
    return any(place.startswith("encoder.cross_attention.1.") for place in found.scopes)


def _stack(found: Survey) -> bool:
    """Whether the parameters are a stack of layers outside an encoder, as the resampler's are."""
    return isinstance(found.params, dict) and len(found.params.get("layers") or []) > 1


def weight_sharing(found: Survey) -> Iterator[Candidate]:
    """Layers that use other layers' weights: shared where they are not, their own where they are."""
    if _has_encoder(found):
        for name, order in _SHARING.items():
            yield Candidate("weight-sharing", name, exchanged(_blocks(order)))
    crosses: dict[str, Callable[[int, list[Tree]], Tree]] = {
        "every cross-attention uses the first's weights": lambda b, w: w[0],
        "every cross-attention uses the last's weights": lambda b, w: w[-1],
        "every cross-attention but the first uses the second's weights": lambda b, w: w[min(b, 1)],
        "every cross-attention uses the next one's weights": lambda b, w: w[(b + 1) % len(w)],
        "every cross-attention uses the weights of the one before": lambda b, w: w[max(b - 1, 0)],
        "the second cross-attention uses the first's weights": lambda b, w: w[0] if b == 1 else w[b],
        "the last cross-attention uses the first's weights": lambda b, w: w[0] if b == len(w) - 1 else w[b],
    }
    if _crossing(found):
        for name, choose in crosses.items():
            yield Candidate("weight-sharing", name, exchanged(_crosses(choose)))
        for name, choose in crosses.items():
            for label, parts in _PARTS.items():
                variant = f"{name}, the {label} alone"
                yield Candidate("weight-sharing", variant, exchanged(_crosses_in_part(choose, parts)), rare=True)
        for name, order in _SHARING.items():
            for other, choose in list(crosses.items())[:4]:
                both = {**_blocks(order), **_crosses(choose)}
                yield Candidate("weight-sharing", f"{name}; {other}", exchanged(both), rare=True)
    if _stack(found):
        stacks: dict[str, Callable[[list[Tree]], list[Tree]]] = {
            "every layer uses the first's weights": lambda w: [w[0]] * len(w),
            "every layer uses the last's weights": lambda w: [w[-1]] * len(w),
            "the second layer uses the first's weights": lambda w: [w[0], w[0], *w[2:]],
            "every layer but the first uses the second's weights": lambda w: [w[0], *[w[1]] * (len(w) - 1)],
        }
        for name, change in stacks.items():
            yield Candidate("weight-sharing", name, _restacked(change))
        for label, parts in (
            ("attention", ("attention",)),
            ("attention with its norms", ("attention", "features_norm", "latents_norm")),
            ("the MLP", ("mlp",)),
            ("the MLP with its norm", ("mlp", "mlp_norm")),
        ):
            yield Candidate("weight-sharing", f"{label} of the first layer in every layer", _first_part(parts))
            yield Candidate("weight-sharing", f"{label} of the first layer in the second", _first_part(parts, 2))


def _restacked(change: Callable[[list[Tree]], list[Tree]]) -> Change:
    return Change(params=lambda p: {**p, "layers": change(list(p["layers"]))})


def _first_part(parts: tuple[str, ...], upto: int | None = None) -> Change:
    """These parts of the first layer used by all layers before `upto`."""

    def change(layers: list[Tree]) -> list[Tree]:
        shared = {name: part for name, part in layers[0].items() if name in parts}
        return [{**layer, **shared} if upto is None or i < upto else layer for i, layer in enumerate(layers)]

    return _restacked(change)


def block_order(found: Survey) -> Iterator[Candidate]:
    """Layers, blocks, or the halves of a layer in another order."""
    if _has_encoder(found):
        for name, order in _BLOCK_ORDER.items():
            yield Candidate("block-order", name, exchanged(_blocks(order)))
        if _crossing(found):
            both = {**_blocks(_BLOCK_ORDER["blocks in reverse"]), **_crosses(lambda b, w: w[len(w) - 1 - b])}
            yield Candidate("block-order", "blocks in reverse, with their cross-attentions", exchanged(both))
        yield Candidate("block-order", "each layer of all blocks before the next layer", Change(parts=_layer_major))
        yield Candidate("block-order", "cross-attention after its block", Change(parts=_cross_after))
        yield Candidate("block-order", "cross-attention before every block", Change(parts=_cross_again))
        yield Candidate("block-order", "cross-attention after all blocks", Change(parts=_cross_last))
        yield Candidate(
            "block-order", "cross-attention between the first layer and the rest", Change(parts=_cross_after_first)
        )
    if _stack(found):
        yield Candidate("block-order", "layers in reverse", _restacked(lambda w: w[::-1]))
        yield Candidate("block-order", "layers rotated by one", _restacked(lambda w: w[1:] + w[:1]))
    layers = [cls.apply for cls in (SelfAttention, CrossAttention, ResamplerLayer, GatedCrossAttention)]
    for how, join in (("the MLP before attention", _first_the_mlp), ("attention and MLP side by side", _side_by_side)):
        for label, match, rare in groups(found.ops.get("attention", [])):
            exchange = exchanged(dict.fromkeys(layers, _rebuilt(join, match)))
            yield Candidate("block-order", f"{how}, {label}", exchange, rare)


def _layer_major() -> Exchange:
    def block(original: Any, encoder: Any, p: Tree, b: int, x: Any) -> Any:
        if b:
            return x
        weights = _weights(encoder, p)
        for i in range(encoder.layers):
            for number in range(encoder.blocks):
                with scope(f"blocks.{number}.{i}"):
                    x = encoder.self_attention.apply(weights[number][i], x)
        return x

    return {Encoder.block: block}


def _postponed(due: Callable[[Any, int], bool], split: int | None = None) -> Exchange:
    """Cross-attentions wait until after the block for which `due` says so, or until after its first layers."""
    waiting: list[Callable[[Any], Any]] = []

    def attended(original: Any, encoder: Any, p: Tree, b: int, x: Any, *rest: Any) -> Any:
        waiting.append(lambda y: original(encoder, p, b, y, *rest))
        return x

    def block(original: Any, encoder: Any, p: Tree, b: int, x: Any) -> Any:
        weights = _weights(encoder, p)[b]
        for i, layer in enumerate(weights):
            if split == i and due(encoder, b):
                x = _run_all(waiting, x)
            with scope(f"blocks.{b}.{i}"):
                x = encoder.self_attention.apply(layer, x)
        return _run_all(waiting, x) if due(encoder, b) else x

    return {Encoder.cross_attended: attended, Encoder.block: block}


def _run_all(waiting: list[Callable[[Any], Any]], x: Any) -> Any:
    while waiting:
        x = waiting.pop(0)(x)
    return x


def _cross_after() -> Exchange:
    return _postponed(lambda encoder, b: True)


def _cross_last() -> Exchange:
    return _postponed(lambda encoder, b: b == encoder.blocks - 1)


def _cross_after_first() -> Exchange:
    return _postponed(lambda encoder, b: True, split=1)


def _cross_again() -> Exchange:
    """The only cross-attention again before every block."""
    seen: list[tuple[Any, ...]] = []

    def attended(original: Any, encoder: Any, p: Tree, b: int, x: Any, *rest: Any) -> Any:
        seen[:] = [rest]
        return original(encoder, p, b, x, *rest)

    def block(original: Any, encoder: Any, p: Tree, b: int, x: Any) -> Any:
        if b and seen and encoder.cross_attends == 1:
            x = encoder.cross_attention.apply(p["cross_attention"], x, seen[0][0], mask=seen[0][1], bias=seen[0][2])
        return original(encoder, p, b, x)

    return {Encoder.cross_attended: attended, Encoder.block: block}


def _halves(layer: Any, p: Tree, options: dict[str, Any], others: tuple[Any, ...]) -> tuple[Any, Any]:
    """(what attention adds to x, what the MLP adds to x) of any kind of layer, as functions of x."""

    def attended(x: Any) -> Any:
        if isinstance(layer, ResamplerLayer):
            features = layer.normed(p, "features_norm", others[0])
            return layer.attended(p, layer.normed(p, "latents_norm", x), features, **options)
        if "key_value_norm" in p:
            q = point("query_norm", layer.query_norm.apply(p["query_norm"], x))
            kv = layer.key_value_norm.apply(p["key_value_norm"], others[0])
            return layer.attention.apply(p["attention"], q, kv, **options)
        normed = point("norm", layer.norm.apply(p["norm"], x))
        if others:  # gated: media
            mask = options.get("mask")
            kept = layer.keys_values(p, others[0])
            attend = None if mask is None else mask.attend
            out = layer.attention.apply(p["attention"], normed, kept, mask=attend, bias=options.get("bias"))
            if mask is not None and mask.seen is not None:
                out = ops.multiply(out, mask.seen[..., None].astype(out.dtype))
            return layer._gated(p, "attention_gate", out)
        return layer.attention.apply(p["attention"], normed, normed, **options)

    def fed(x: Any) -> Any:
        normed = x if layer.mlp_norm is None else point("mlp_norm", layer.mlp_norm.apply(p["mlp_norm"], x))
        out = layer.mlp.apply(p["mlp"], normed)
        if options.get("rows") is not None:
            out = ops.multiply(options["rows"], out)
        return layer._gated(p, "mlp_gate", out) if hasattr(layer, "_gated") else out

    return attended, fed


def _rebuilt(join: Callable[[Any, Any, Any, bool], Any], match: Match) -> Replacement:
    def run(original: Any, layer: Any, p: Tree, x: Any, *others: Any, **options: Any) -> Any:
        if "mlp" not in p or not match(f"{where()}.attention"):
            return original(layer, p, x, *others, **options)
        attended, fed = _halves(layer, p, options, others)
        return point("", join(x, attended, fed, getattr(layer, "query_residual", True)))

    return run


def _first_the_mlp(x: Any, attended: Any, fed: Any, residual: bool) -> Any:
    x = ops.add(x, fed(x))
    return ops.add(x, attended(x)) if residual else attended(x)


def _side_by_side(x: Any, attended: Any, fed: Any, residual: bool) -> Any:
    both = ops.add(attended(x), fed(x))
    return ops.add(x, both) if residual else both
