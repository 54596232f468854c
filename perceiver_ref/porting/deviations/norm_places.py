"""Deviations of where layers have norms: elsewhere, one more, one for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...models.attention import Attention, CrossAttention, Layer, SelfAttention
from ...models.flamingo.resampler import LatentsAttend
from ...models.layers import L2Norm
from ...models.perceiver_ar import PerceiverAR
from ...models.resamplers import AttentionPool, Resampler
from ...models.tracing import point, where
from ...peers.aurora import GivenLatents, NormedCrossAttention
from ...peers.chatterbox import AttentionBlock
from .base import Candidate, Change, Match, Survey, exchanged, groups
from .residuals import layers

_ROLES = {
    "queries": ("query_norm", "latents_norm"),
    "keys and values": ("key_value_norm", "features_norm"),
    "the MLP's input": ("mlp_norm",),
}


def plain_norm(x: Any, eps: float = 1e-5) -> Any:
    """Layer norm without scale and offset."""
    data = array_of(x)
    one, none = (xp(data).full(data.shape[-1], value, data.dtype) for value in (1, 0))
    return ops.layer_norm(x, one, none, eps=eps)


def norm_extra(found: Survey) -> Iterator[Candidate]:
    """A norm, without scale and offset, where there is none; norms of queries and keys in more layers."""
    kinds = layers(found)
    for what, names in _ROLES.items():
        absent = [layer for layer in kinds for name in names if getattr(layer, name, layer) is None]
        if what == "the MLP's input":
            absent = [layer for layer in absent if layer.mlp is not None]
        for label, match, rare in groups(found.ops.get("attention", [])) if absent else []:

            def normed(
                original: Any,
                layer: Any,
                p: Tree,
                name: str,
                x: Any,
                names: tuple[str, ...] = names,
                match: Match = match,
            ) -> Any:
                here = name in names and getattr(layer, name) is None and match(f"{where()}.attention")
                return plain_norm(x) if here else original(layer, p, name, x)

            yield Candidate("norm-extra", f"of {what}, {label}", exchanged({Layer.normed: normed}), rare)
    if any(
        isinstance(model.first, NormedCrossAttention) and model.layers > 1 for model in found.of_class(GivenLatents)
    ):
        variant = "of keys and queries in every layer, with the first layer's weights"
        yield Candidate("norm-extra", variant, exchanged({GivenLatents.apply: _normed_in_all}))


def _normed_in_all(original: Any, model: Any, p: Tree, *arguments: Any) -> Any:
    first = p["layers"][0]["attention"]

    def with_norms(layer: Tree) -> Tree:
        own = layer["attention"]
        shared = {name: {**own[name], "norm": first[name]["norm"]} for name in ("query", "key")}
        return {**layer, "attention": {**own, **shared}}

    changed = {**p, "layers": [with_norms(layer) for layer in p["layers"]]}
    return original(model.with_fields(layer=model.first), changed, *arguments)


def final_norm(found: Survey) -> Iterator[Candidate]:
    """One more norm at the end, or the last one before the last map."""
    if any(model.norm is None for model in found.of_class(PerceiverAR)):
        extra = exchanged({PerceiverAR.normed: lambda original, model, p, z: point("final", plain_norm(z))})
        yield Candidate("final-norm", "an extra norm before the logits, without scale and offset", extra)
    if any(pool.norm is None for pool in found.of_class(AttentionPool)):
        yield Candidate("final-norm", "an extra norm at the end", exchanged({AttentionPool._ended: _ended}))
    if any(model.output is not None for model in found.of_class(Resampler)):
        yield Candidate("final-norm", "before the last map", exchanged({Resampler.ended: _before_map}))
        plain = exchanged({Resampler.ended: lambda original, model, p, z: _plainly_before_map(model, p, z)})
        yield Candidate("final-norm", "before the last map, without scale and offset", plain)


def _ended(original: Any, pool: Any, p: Tree, y: Any) -> Any:
    out = original(pool, p, y)
    return plain_norm(out) if pool.norm is None else out


def _before_map(original: Any, model: Any, p: Tree, z: Any) -> Any:
    if model.output is None or model.channels != model.outputs:
        return original(model, p, z)
    return point("", model.output.apply(p["output"], model.norm.apply(p["norm"], z)))


def _plainly_before_map(model: Any, p: Tree, z: Any) -> Any:
    return point("", model.output.apply(p["output"], plain_norm(z)))


_PAIRS = (("query_norm", "key_value_norm"), ("latents_norm", "features_norm"), ("norm", "mlp_norm"))


def norm_shared(found: Survey) -> Iterator[Candidate]:
    """One norm where there are two: that of queries serves keys and values, or the reverse."""
    paths = set(found.paths)
    for one, two in _PAIRS:
        if not any(f"/{one}/" in f"/{path}" for path in paths) or not any(f"/{two}/" in f"/{path}" for path in paths):
            continue
        for kept, other in ((one, two), (two, one)):
            change = Change(params=lambda p, kept=kept, other=other: _shared(p, kept, other))  # type: ignore[misc]
            yield Candidate("norm-shared", f"{kept} in the place of {other}", change)


def _shared(p: Tree, kept: str, other: str) -> Tree:
    if isinstance(p, dict):
        made = {name: _shared(part, kept, other) for name, part in p.items()}
        shapes = [{n: a.shape for n, a in p[name].items()} for name in (kept, other) if isinstance(p.get(name), dict)]
        return {**made, other: made[kept]} if len(shapes) == 2 and shapes[0] == shapes[1] else made
    return [_shared(part, kept, other) for part in p] if isinstance(p, list) else p


def keys_or_values_unnormed(found: Survey) -> Iterator[Candidate]:
    """Keys made of normed inputs and values of those before their norm, or the reverse."""
    kinds = layers(found)
    if any(getattr(layer, name, None) is not None for layer in kinds for name in _ROLES["keys and values"]):
        for name, raw_keys in (("values", False), ("keys", True)):
            change = Change(parts=lambda raw_keys=raw_keys: _unnormed(raw_keys), keeps=True)  # type: ignore[misc]
            yield Candidate("norm-missing", f"{name} made of inputs that are not normed", change)


def _unnormed(raw_keys: bool) -> Any:
    raws: list[tuple[Any, Any]] = []
    """What came out of norms, and what went into them"""

    def raw(x: Any) -> Any:
        return next((before for after, before in reversed(raws) if after is x), x)

    def normed(original: Any, layer: Any, p: Tree, name: str, x: Any) -> Any:
        out = original(layer, p, name, x)
        raws.append((out, x))
        return out

    def beside(original: Any, layer: Any, q: Any, features: Any) -> Any:
        out = original(layer, q, features)
        before = raw(q)
        same = before if before.shape == q.shape else ops.broadcast_to(before, shape=q.shape)
        raws.append((out, original(layer, same, raw(features))))
        return out

    def keys_values(original: Any, layer: Any, p: Tree, z: Any, *, values: Any = None, **options: Any) -> Any:
        v = z if values is None else values
        if raw_keys:
            return original(layer, p, raw(z), values=v, **options)
        return original(layer, p, z, values=raw(v), **options)

    return {Layer.normed: normed, LatentsAttend._beside: beside, Attention.keys_values: keys_values}


def norm_missing(found: Survey) -> Iterator[Candidate]:
    """A norm that serves queries and context left out for one of them."""
    if found.of_class(AttentionBlock):
        for what, of_queries in (("the context", False), ("queries", True)):
            yield Candidate("norm-missing", f"{what} not normed", exchanged({AttentionBlock.apply: _one(of_queries)}))


def _one(of_queries: bool) -> Callable[..., Any]:
    def block(original: Any, layer: Any, p: Tree, x: Any, z: Any, **masks: Any) -> Any:
        normed = point("norm", layer.norm.apply(p["norm"], z if of_queries else x))
        q, kv = (x, normed) if of_queries else (normed, z)
        return point("", ops.add(x, layer.attention.apply(p["attention"], q, kv, **masks)))

    return block


def _with_norms(layer: Any, p: Tree, norms: str) -> tuple[Any, Tree]:
    """The layer with its norms there, and its parameters; cross-attention has two names for that of queries."""
    changed: dict[str, Any] = {"norms": norms}
    if isinstance(layer, CrossAttention):
        old, new = ("norm", "query_norm") if norms == "before" else ("query_norm", "norm")
        if old in p:
            changed |= {new: getattr(layer, old), old: None}
            p = {**p, new: p[old]}
    return layer.with_fields(**changed), p


_SAID = {
    "before": "norms before attention and MLP",
    "after": "norms of what is added",
    "around": "norms after the sums",
}


def norm_after(found: Survey) -> Iterator[Candidate]:
    """Layers with their norms elsewhere, also where they have no residual."""
    kinds: list[Any] = [*found.of_class(CrossAttention), *found.of_class(SelfAttention)]
    for norms, said in _SAID.items():
        if not any(layer.norms != norms for layer in kinds):
            continue
        for label, match, rare in groups(found.ops.get("attention", [])):

            def moved(
                original: Any, layer: Any, p: Tree, *rest: Any, norms: str = norms, match: Match = match, **options: Any
            ) -> Any:
                if layer.norms != norms and match(f"{where()}.attention"):
                    layer, p = _with_norms(layer, p, norms)
                return original(layer, p, *rest, **options)

            change = exchanged({CrossAttention.apply: moved, SelfAttention.apply: moved})
            yield Candidate("norm-after", f"{said} in every sub-layer, {label}", change, rare)


def layer_norm_eps(found: Survey) -> Iterator[Candidate]:
    """Of a norm by the length: epsilon added to the mean square, in place of the shortest length."""
    if not found.of_class(L2Norm):
        return
    for eps in (1e-12, 1e-8, 1e-6, 1e-5, 1e-3):

        def of_squares(original: Any, layer: Any, p: Tree, x: Any, eps: float = eps) -> Any:
            return ops.rms_norm(x, p["scale"], eps=eps)

        variant = f"epsilon {eps:g} added to the mean square, in place of a shortest length"
        yield Candidate("layer-norm-eps", variant, exchanged({L2Norm.apply: of_squares}))
