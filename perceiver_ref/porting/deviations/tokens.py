"""Deviations of which tokens attention looks at, and in which order tokens stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.tree import Tree
from ...models.attention import Attention, Layer
from ...models.flamingo.resampler import LatentsAttend
from ...models.resamplers import Resampler
from ...models.tracing import point, where
from ...peers.chatterbox import AttentionBlock, TwicePerceiver
from ...peers.pulid import IDFormer
from ...peers.shape2vecset.model import SetAutoEncoder
from .base import Candidate, Change, Exchange, Match, Survey, exchanged, groups


def _groups(found: Survey) -> Any:
    places = found.ops.get("attention", [])
    return groups(places) if places and found.of_class(LatentsAttend) else []


def latents_not_in_keys(found: Survey) -> Iterator[Candidate]:
    """Keys and values from the features alone, or from both where they are alone; latents that are normed otherwise."""
    for label, match, rare in _groups(found):
        variant = f"features alone, {label}"
        if not any(layer.latents_in_keys for layer in found.of_class(LatentsAttend)):
            variant = f"latents among the keys, {label}"
        yield Candidate("latents-not-in-keys", variant, exchanged({LatentsAttend.attended: _flipped(match)}), rare)
    if not any(layer.latents_in_keys and layer.norms == "before" for layer in found.of_class(LatentsAttend)):
        return
    for name, choose in (
        ("before their norm", lambda layer, p, x: x),
        ("normed by the norm of features", lambda layer, p, x: layer.features_norm.apply(p["features_norm"], x)),
    ):
        change = Change(parts=lambda choose=choose: _latents(choose))  # type: ignore[misc]
        yield Candidate("latents-not-in-keys", f"latents in the keys {name}", change)


def latents_weightless(found: Survey) -> Iterator[Candidate]:
    """Weights of latents among the keys set to zero after the softmax, as where values of theirs are zero."""
    if any(layer.latents_in_keys for layer in found.of_class(LatentsAttend)):
        variant = "weights of latents zero after the softmax"
        yield Candidate("latents-not-in-keys", variant, Change(parts=_weightless, keeps=True))


def _weightless() -> Exchange:
    made: list[tuple[Any, Any]] = []

    def beside(original: Any, layer: Any, q: Any, features: Any) -> Any:
        out = original(layer, q, features)
        made.append((out, original(layer, ops.multiply(q, 0.0), features)))
        return out

    def keys_values(original: Any, layer: Any, p: Tree, z: Any, *, values: Any = None, **options: Any) -> Any:
        v = z if values is None else values
        values = next((without for joined, without in reversed(made) if joined is v), v)
        return original(layer, p, z, values=values, **options)

    return {LatentsAttend._beside: beside, Attention.keys_values: keys_values}


def _flipped(match: Match) -> Callable[..., Any]:
    """Latents are no keys, or are where they are none; the mask of keys goes along."""

    def attended(original: Any, layer: Any, p: Tree, q: Any, normed: Any, **options: Any) -> Any:
        if match(f"{where()}.attention"):
            if layer.latents_in_keys and options.get("key_mask") is not None:
                n, mask = q.shape[-2], options["key_mask"]
                options["key_mask"] = mask[..., n:] if layer.latents_first else mask[..., :-n]
            layer = layer.with_fields(latents_in_keys=not layer.latents_in_keys)
        return original(layer, p, q, normed, **options)

    return attended


def _latents(choose: Callable[[Any, Tree, Any], Any]) -> Exchange:
    """Other latents among the keys: those of `choose(layer, its parameters, latents)`."""
    newest: dict[str, Any] = {}

    def normed(original: Any, layer: Any, p: Tree, name: str, x: Any) -> Any:
        if name == "latents_norm":
            newest["latents"] = choose(layer, p, x)
        return original(layer, p, name, x)

    def beside(original: Any, layer: Any, q: Any, features: Any) -> Any:
        latents = newest.get("latents")
        return original(layer, q if latents is None else ops.broadcast_to(latents, shape=q.shape), features)

    return {Layer.normed: normed, LatentsAttend._beside: beside}


def token_order(found: Survey) -> Iterator[Candidate]:
    """Tokens that are joined, or masks of them, in another order; other rows of them kept."""
    if any(layer.latents_in_keys for layer in found.of_class(LatentsAttend)):
        masked = bool(found.masked)

        def reordered(original: Any, layer: Any, *arguments: Any, **options: Any) -> Any:
            return original(layer.with_fields(latents_first=not layer.latents_first), *arguments, **options)

        keys = "latents and features among the keys in the other order"
        keys += ", the mask as before" if masked else ""
        yield Candidate("token-order", keys, exchanged({LatentsAttend.attended: reordered}))
        if masked:
            moved = exchanged({LatentsAttend.attended: _mask_moved})
            yield Candidate("token-order", "the mask of keys laid out in the other order", moved)
    if any(model.pooled for model in found.of_class(Resampler)):
        yield Candidate("token-order", "pooled latents after the learned ones", exchanged({Resampler._latents: _last}))
    if found.of_class(IDFormer):
        last = exchanged({IDFormer.kept: lambda original, model, z: z[:, -model.latents :]})
        yield Candidate("token-order", "the last rows are kept, not the first", last)


def _mask_moved(original: Any, layer: Any, p: Tree, q: Any, normed: Any, **options: Any) -> Any:
    if options.get("key_mask") is not None:
        mask, n = options["key_mask"], q.shape[-2] if layer.latents_first else normed.shape[-2]
        options["key_mask"] = xp(mask).roll(mask, -n, axis=-1)
    return original(layer, p, q, normed, **options)


def _last(original: Any, model: Any, p: Tree, x: Any, given: Any) -> Any:
    latents = original(model, p, x, given)
    return (
        ops.concatenate([latents[:, model.pooled :], latents[:, : model.pooled]], axis=1) if model.pooled else latents
    )


def context(found: Survey) -> Iterator[Candidate]:
    """What a layer is given lacks a part, has it from another step, or gets it once only."""
    if found.of_class(IDFormer):
        rows: dict[str, Callable[..., Any]] = {
            "identities left out of the features": lambda original, model, ids, features, z: features,
            "identities as the layers have changed them among the features": (
                lambda original, model, ids, features, z: ops.concatenate([z[:, model.latents :], features], axis=1)
            ),
        }
        for name, made in rows.items():
            yield Candidate("context", name, exchanged({IDFormer.context: made}))
    if found.of_class(TwicePerceiver):
        yield Candidate("context", "the second pass attends to the input again", Change(parts=_input_again))
        yield Candidate("context", "the second pass starts from the queries again", Change(parts=_queries_again))
    if any(model.learned for model in found.of_class(SetAutoEncoder)):

        def once(original: Any, model: Any, *arguments: Any) -> Any:
            return original(model.with_fields(learned=False), *arguments)

        yield Candidate("context", "learned queries not added again", exchanged({SetAutoEncoder.learn: once}))
    elif any(not model.learned for model in found.of_class(SetAutoEncoder)):
        yield Candidate("context", "queries added again before the layers", Change(parts=_added_again))


def _input_again() -> Exchange:
    kept: list[Any] = []

    def block(original: Any, layer: Any, p: Tree, x: Any, z: Any, **masks: Any) -> Any:
        if x is not z:
            kept[:] = [z]
        return original(layer, p, x, kept[0] if x is z and kept else z, **masks)

    return {AttentionBlock.apply: block}


def _queries_again() -> Exchange:
    kept: list[Any] = []

    def block(original: Any, layer: Any, p: Tree, x: Any, z: Any, **masks: Any) -> Any:
        if x is not z:
            kept[:] = [x]
        return original(layer, p, kept[0] if x is z and kept else x, z, **masks)

    return {AttentionBlock.apply: block}


def _added_again() -> Exchange:
    kept: list[Any] = []

    def starting(original: Any, model: Any, *arguments: Any) -> Any:
        kept[:] = [original(model, *arguments)]
        return kept[0]

    def learn(original: Any, model: Any, p: Tree, z: Any) -> Any:
        return original(model, p, ops.add(z, kept[0]) if kept and kept[0].shape == z.shape else z)

    return {SetAutoEncoder._starting: starting, SetAutoEncoder.learn: learn}


def second_pass(found: Survey) -> Iterator[Candidate]:
    """The second call of a block that is called twice left out."""

    def once(original: Any, layer: Any, p: Tree, x: Any, z: Any, **masks: Any) -> Any:
        return point("", x) if x is z else original(layer, p, x, z, **masks)

    if found.of_class(TwicePerceiver):
        yield Candidate("block-order", "the second pass left out", exchanged({AttentionBlock.apply: once}))
