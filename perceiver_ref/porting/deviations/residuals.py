"""Deviations of residuals and branches of layers: of what is added to what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...models.attention import CrossAttention, Layer, SelfAttention
from ...models.flamingo.resampler import LatentsAttend, ResamplerLayer
from ...models.resamplers import AttentionPool, LatentAttention
from ...models.tracing import point, where
from ...peers.nemo import PerceiverEncoder
from .base import Candidate, Change, Exchange, Match, Survey, exchanged, groups

_LAYERS = (CrossAttention, SelfAttention, ResamplerLayer, AttentionPool)


def layers(found: Survey) -> list[Any]:
    """The kinds of layers whose course is `Layer`'s."""
    return [layer for cls in _LAYERS for layer in found.of_class(cls)]


def query_residual(found: Survey) -> Iterator[Candidate]:
    """Queries added where nothing is; the residual around attention, or around a block of layers, left out."""
    pools = [*found.of_class(AttentionPool), *found.of_class(LatentAttention)]
    if pools:
        for name, key in (("latents", "latents"), ("normed latents", "normed")):
            if key == "latents" or any(pool.norms == "before" for pool in pools):
                change = Change(parts=lambda key=key: _added_to_pool(key))  # type: ignore[misc]
                yield Candidate("query-residual", f"{name} added to what attention gives", change)
    if found.of_class(PerceiverEncoder):
        yield Candidate("query-residual", "no residual around a pair of blocks", Change(parts=_pairs_alone))
    kinds: list[Any] = [*found.of_class(CrossAttention), *found.of_class(SelfAttention)]
    for residual in (True, False):
        if not any(layer.query_residual is residual for layer in kinds):
            continue
        for label, match, rare in groups(found.ops.get("attention", [])):

            def joined(
                original: Any,
                layer: Any,
                p: Tree,
                x: Any,
                attended: Any,
                match: Match = match,
                residual: bool = residual,
            ) -> Any:
                here = getattr(layer, "query_residual", None) is residual and match(f"{where()}.attention")
                layer = layer.with_fields(query_residual=not residual) if here else layer
                return original(layer, p, x, attended)

            said = "missing" if residual else "extra"
            change = exchanged({Layer._joined: joined})
            yield Candidate("query-residual", f"around attention {said}, {label}", change, rare)


def _added_to_pool(key: str) -> Exchange:
    newest: dict[str, Any] = {}

    def normed(original: Any, layer: Any, p: Tree, name: str, x: Any) -> Any:
        out = original(layer, p, name, x)
        if name == "latents_norm":
            newest.update(latents=x, normed=out)
        return out

    def attended(original: Any, layer: Any, *arguments: Any, **options: Any) -> Any:
        out = original(layer, *arguments, **options)
        return ops.add(out, newest[key]) if isinstance(layer, (AttentionPool, LatentAttention)) else out

    return {Layer.normed: normed, LatentsAttend.attended: attended}


def _pairs_alone() -> Exchange:
    """A pair of blocks gives what its second block gives."""
    newest: dict[str, Any] = {}

    def named(original: Any, name: str, value: Any) -> Any:
        place = where()
        if not name and place.endswith(".own") and place.count(".") == 2:
            newest[place.rpartition(".")[0]] = value
        elif not name and place in newest:
            value = newest.pop(place)
        return original(name, value)

    return {"point": named}


Joined = Callable[[Any, Any, Any, Any], Any]
"""(x, the layer's input, the MLP's normed input, what it gives) -> the sum"""
_JOINED: dict[str, Joined] = {
    "missing": lambda x, first, normed, made: made,
    "the normed input is added to the MLP's output,": lambda x, first, normed, made: ops.add(normed, made),
    "the layer's input is added to the MLP's output,": lambda x, first, normed, made: ops.add(first, made),
    "added twice": lambda x, first, normed, made: ops.add(ops.add(x, x), made),
}


def mlp_residual(found: Survey) -> Iterator[Candidate]:
    """What is added to the MLP's output: nothing, the normed input, the layer's input."""
    if not any(layer.mlp is not None for layer in layers(found)):
        return
    for name, join in _JOINED.items():
        for label, match, rare in groups(found.ops.get("attention", [])):
            change = Change(parts=lambda join=join, match=match: _finished(join, match))  # type: ignore[misc]
            yield Candidate("mlp-residual", f"{name} {label}", change, rare)


def _finished(join: Joined, match: Match) -> Exchange:
    firsts: dict[str, Any] = {}

    def joined(original: Any, layer: Any, p: Tree, x: Any, attended: Any) -> Any:
        firsts[where()] = x
        return original(layer, p, x, attended)

    def finished(original: Any, layer: Any, p: Tree, x: Any) -> Any:
        if layer.mlp is None or not match(f"{where()}.attention"):
            return original(layer, p, x)
        normed = x if layer.norms in ("after", "around") else layer.normed(p, "mlp_norm", x)
        made = layer.mlp.apply(p["mlp"], normed)
        if layer.norms == "after":
            made = layer.normed(p, "mlp_norm", made)
        x = join(x, firsts.get(where(), x), normed, made)
        return point("", layer.normed(p, "mlp_norm", x) if layer.norms == "around" else x)

    return {Layer._joined: joined, Layer._finished: finished}


def branch_missing(found: Survey) -> Iterator[Candidate]:
    """A layer without its MLP, or without its attention."""
    kinds = layers(found)
    if not kinds:
        return
    for label, match, rare in groups(found.ops.get("attention", [])):
        if any(layer.mlp is not None for layer in kinds):

            def unfed(original: Any, layer: Any, p: Tree, x: Any, match: Match = match) -> Any:
                here = layer.mlp is not None and match(f"{where()}.attention")
                return point("", x) if here else original(layer, p, x)

            yield Candidate("branch-missing", f"no MLP, {label}", exchanged({Layer._finished: unfed}), rare)

        def blind(original: Any, layer: Any, p: Tree, x: Any, attended: Any, match: Match = match) -> Any:
            if not match(f"{where()}.attention") or x.shape != attended.shape:
                return original(layer, p, x, attended)
            return layer.normed(p, "norm", x) if layer.norms == "around" else x

        yield Candidate("branch-missing", f"no attention, {label}", exchanged({Layer._joined: blind}), rare)
