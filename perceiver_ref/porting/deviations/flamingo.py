"""Deviations of Flamingo's resampler and gated cross-attention."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import Op
from ...autograd.tree import Tree
from ...models.flamingo.gated_xattn import GatedCrossAttention
from ...models.flamingo.resampler import PerceiverResampler
from ..exchange import Replacement
from .base import Candidate, Change, Exchange, Survey, edits, exchanged

_TABLES = {"time_embedding": "of frames", "media_embedding": "of media"}


def time_embedding(found: Survey) -> Iterator[Candidate]:
    """The embeddings of frames or media left out, in another order, the same for all, or added twice."""
    changes: dict[str, Callable[[Any], Any]] = {
        "left out": lambda table: xp(table).zeros_like(table),
        "in reverse": lambda table: table[::-1],
        "one place later": lambda table: xp(table).roll(table, 1, axis=0),
        "one place earlier": lambda table: xp(table).roll(table, -1, axis=0),
        "the first for all": lambda table: xp(table).broadcast_to(table[:1], table.shape),
        "the last for all": lambda table: xp(table).broadcast_to(table[-1:], table.shape),
        "added twice": lambda table: 2 * table,
        "subtracted": lambda table: -table,
        "the mean for all": lambda table: xp(table).broadcast_to(table.mean(0, keepdims=True), table.shape),
    }
    here = [path for path in found.paths if path.split("/")[-1] in _TABLES]
    for name, change in changes.items():
        chosen = [[path] for path in here] + ([here] if len(here) > 1 else [])
        for paths in chosen:
            label = " and ".join(_TABLES[path.split("/")[-1]] for path in paths)
            yield Candidate("time-embedding", f"embeddings {label} {name}", edits(set(paths), change))
    for path in here:
        yield Candidate(
            "time-embedding",
            f"embeddings {_TABLES[path.split('/')[-1]]}: those of the last places",
            exchanged(_last_places(path.split("/")[-1])),
        )
    if len(here) == 2:
        yield Candidate("time-embedding", "embeddings of frames and media exchanged", Change(params=_exchanged))


def _last_places(name: str) -> Exchange:
    def resampler(original: Any, layer: Any, p: Tree, features: Any, **options: Any) -> Any:
        shape = features.shape
        used = shape[1] if name == "media_embedding" else shape[-3]
        return original(layer, {**p, name: xp(p[name]).roll(p[name], used, axis=0)}, features, **options)

    return {PerceiverResampler.apply: resampler}


def _exchanged(p: Tree) -> Tree:
    if p["time_embedding"].shape != p["media_embedding"].shape:
        return p
    return {**p, "time_embedding": p["media_embedding"], "media_embedding": p["time_embedding"]}


_GATES = {"both gates": ("attention_gate", "mlp_gate"), "attention": ("attention_gate",), "the MLP": ("mlp_gate",)}


def _gates(found: Survey, cause: str, variant: str, function: Callable[[Any], Any]) -> Iterator[Candidate]:
    if not any(path.endswith("attention_gate") for path in found.paths):
        return
    for label, names in _GATES.items():

        def table(path: Callable[[Any], str], names: tuple[str, ...] = names) -> Mapping[str, Any]:
            def tanh(op: Op, arguments: Any, static: Any) -> Any:
                meant = path(arguments[0]).split("/")[-1] in names
                return function(arguments[0]) if meant else op(*arguments, **static)

            return {"tanh": tanh}

        yield Candidate(cause, f"{variant}: {label}", Change(ops=table))


def gate_not_tanh(found: Survey) -> Iterator[Candidate]:
    """Another function than tanh on the gates."""
    functions: dict[str, Callable[[Any], Any]] = {
        "the gate itself": lambda a: a,
        "sigmoid": ops.sigmoid,
        "exp": ops.exp,
        "relu": ops.relu,
        "2 sigmoid - 1": lambda a: ops.subtract(ops.multiply(ops.sigmoid(a), 2.0), 1.0),
        "tanh of its absolute value": lambda a: ops.tanh(ops.absolute(a)),
        "1 + tanh": lambda a: ops.add(ops.tanh(a), 1.0),
        "erf": ops.erf,
        "sin": ops.sin,
        "a / (1 + |a|)": lambda a: ops.divide(a, ops.add(ops.absolute(a), 1.0)),
        "a / sqrt(1 + a^2)": lambda a: ops.divide(a, ops.sqrt(ops.add(ops.multiply(a, a), 1.0))),
        "sigmoid of 2 a": lambda a: ops.sigmoid(ops.multiply(a, 2.0)),
        "tanh of 2 a": lambda a: ops.tanh(ops.multiply(a, 2.0)),
        "tanh of a / 2": lambda a: ops.tanh(ops.multiply(a, 0.5)),
        "tanh of tanh": lambda a: ops.tanh(ops.tanh(a)),
        "tanh squared": lambda a: ops.multiply(ops.tanh(a), ops.tanh(a)),
        "1 - tanh": lambda a: ops.subtract(1.0, ops.tanh(a)),
        "softplus": lambda a: ops.log(ops.add(ops.exp(a), 1.0)),
        "gelu": ops.gelu_erf,
        "silu": ops.silu,
        "clipped to [0, 1]": lambda a: ops.minimum(ops.maximum(a, 0.0), 1.0),
        "clipped to [-1, 1]": lambda a: ops.minimum(ops.maximum(a, -1.0), 1.0),
    }
    for name, function in functions.items():
        yield from _gates(found, "gate-not-tanh", name, function)


def gate_missing(found: Survey) -> Iterator[Candidate]:
    """Branches added without their gates; gates exchanged."""

    def one(a: Any) -> Any:
        return xp(a).ones_like(a)

    yield from _gates(found, "gate-missing", "no gate", one)
    yield from _gates(found, "gate-missing", "branch left out", lambda a: xp(a).zeros_like(a))
    if any(path.endswith("attention_gate") for path in found.paths):
        yield Candidate(
            "gate-missing",
            "gates exchanged",
            Change(params=lambda p: {**p, "attention_gate": p["mlp_gate"], "mlp_gate": p["attention_gate"]}),
        )


def media_mask(found: Survey) -> Iterator[Candidate]:
    """All earlier media in place of the last one, or the reverse; counted from another token; or no mask."""
    if not any(path.endswith("attention_gate") for path in found.paths):
        return

    def other(original: Any, phi: Any, *, media: int, tokens: int, which: str = "immediate") -> Any:
        return original(phi, media=media, tokens=tokens, which={"immediate": "all", "all": "immediate"}[which])

    def other_zeroed(original: Any, phi: Any, *, media: int, tokens: int, which: str = "immediate") -> Any:
        kept = original(phi, media=media, tokens=tokens, which=which)
        return other(original, phi, media=media, tokens=tokens, which=which)._replace(seen=kept.seen)

    def everything(original: Any, phi: Any, **options: Any) -> Any:
        made = original(phi, **options)
        return made._replace(attend=xp(phi).ones_like(made.attend))

    def nothing_zeroed(original: Any, phi: Any, **options: Any) -> Any:
        made = original(phi, **options)
        return made._replace(attend=xp(phi).ones_like(made.attend), seen=None)

    def shifted(by: int) -> Replacement:
        return lambda original, phi, **options: original(phi + by, **options)

    def shifted_but_seen(original: Any, phi: Any, **options: Any) -> Any:
        return original(phi + 1, **options)._replace(seen=original(phi, **options).seen)

    def compared(which: Callable[[Any, Any], Any]) -> Replacement:
        """Media whose number, from 1, compares so with that of the last medium before the text."""

        def mask(original: Any, phi: Any, *, media: int, tokens: int, **options: Any) -> Any:
            made = original(phi, media=media, tokens=tokens, **options)
            return made._replace(attend=which(xp(phi).arange(1, media + 1).repeat(tokens), phi[..., None]))

        return mask

    def tokens_in_turn(original: Any, phi: Any, *, media: int, tokens: int, which: str = "immediate") -> Any:
        made = original(phi, media=media, tokens=tokens, which=which)
        shape = made.attend.shape
        turned = made.attend.reshape(*shape[:-1], media, tokens).swapaxes(-1, -2)
        return made._replace(attend=turned.reshape(shape))

    def own_tag_excluded(original: Any, locations: Any, before: Any = None) -> Any:
        return original(locations, before) - locations

    def clipped(original: Any, phi: Any, *, media: int, **options: Any) -> Any:
        return original(xp(phi).minimum(phi, media), media=media, **options)

    def reversed_text(original: Any, locations: Any, before: Any = None) -> Any:
        total = original(locations, before)
        return total[..., -1:] - total + locations

    tables: dict[str, Exchange] = {
        "all earlier media in place of the last, or the last in place of all": {"media_mask": other},
        "the same, with text before the first medium zeroed as before": {"media_mask": other_zeroed},
        "all media for all text but what is before the first": {"media_mask": everything},
        "all media for all text": {"media_mask": nothing_zeroed},
        "a tag does not see its own medium": {"preceding": own_tag_excluded},
        "media counted from 0": {"media_mask": shifted(1)},
        "the same, with text before the first medium zeroed": {"media_mask": shifted_but_seen},
        "the medium before the last": {"media_mask": shifted(-1)},
        "the last medium and later ones": {"media_mask": compared(operator.ge)},
        "later media": {"media_mask": compared(operator.gt)},
        "media before the last": {"media_mask": compared(operator.lt)},
        "tokens of media in turn": {"media_mask": tokens_in_turn},
        "text after more tags than media sees the last medium": {"media_mask": clipped},
        "media that come later in the text": {"preceding": reversed_text},
    }
    for name, table in tables.items():
        yield Candidate("media-mask", name, exchanged(table))
    yield Candidate("media-mask", "no mask", Change(parts=_no_media_mask))
    yield Candidate("media-mask", "a mask given by position: one token earlier", Change(parts=lambda: _rolled(-1)))
    yield Candidate("media-mask", "a mask given by position: one token later", Change(parts=lambda: _rolled(1)))


def _no_media_mask() -> Exchange:
    def gated(original: Any, self: Any, p: Tree, x: Any, media: Any, *, mask: Any = None, **rest: Any) -> Any:
        return original(self, p, x, media, mask=None, **rest)

    return {GatedCrossAttention.apply: gated}


def _rolled(by: int) -> Exchange:
    def gated(original: Any, self: Any, p: Tree, x: Any, media: Any, *, mask: Any = None, **rest: Any) -> Any:
        if mask is not None:
            mask = mask._replace(attend=xp(mask.attend).roll(mask.attend, by, axis=1))
        return original(self, p, x, media, mask=mask, **rest)

    return {GatedCrossAttention.apply: gated}
