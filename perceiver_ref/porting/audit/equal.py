"""What cannot be told apart, because it is equal in exact arithmetic: a table of such deviations with the reasons.

A row alone excuses nothing: a deviation must leave all cases as they are but for rounding, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...autograd.observing import Event, observe
from ...models.tracing import trace, where
from ..deviations.base import groups
from ..subject import Subject
from .trial import Key

_ROUNDING = 1.0
"""Tolerances that equal values may be apart, which are 1e5 units of rounding."""


class Attended(NamedTuple):
    """An attention as a run of the reference has it: what makes deviations of it equal to it."""

    heads: int
    masked: bool
    empty: bool
    """Whether a query of some case has no key"""
    added: bool
    """Whether what it gives is added to its input"""
    normed: bool
    """Whether a norm is applied in its layer"""
    queries: int
    even: bool
    """Whether its heads of values are as wide as those of queries"""


Facts = Mapping[str, Attended]
"""By the place of an attention."""


def attended(subject: Subject) -> dict[str, Attended]:
    """The attentions of a case's run."""
    found: dict[str, Attended] = {}
    added: set[str] = set()

    def watch(event: Event) -> None:
        place = where()
        if event.op.name in ("layer_norm", "rms_norm"):
            norms.add(place.rpartition(".")[0])
        if event.op.name == "add" and not place.endswith(("attention", "mlp")) and (place not in mlps):
            added.add(place)
        if event.op.name == "linear" and place.rpartition(".")[2] == "mlp":
            mlps.add(place.rpartition(".")[0])
        if event.op.name not in ("attention", "attention_weights"):
            return
        mask, q = event.options.get("mask"), event.arguments[0]
        empty = mask is not None and not bool(np.asarray(mask).any(-1).all())
        heads = q.shape[-3] if len(q.shape) > 2 else 1
        queries = max(q.shape[-2], found[place].queries if place in found else 0)
        even = event.op.name != "attention" or event.arguments[2].shape[-1] == q.shape[-1]
        found[place] = Attended(heads, mask is not None, empty, False, False, queries, even)

    mlps: set[str] = set()
    norms: set[str] = set()
    with trace(lambda name: False), observe(watch), np.errstate(all="ignore"):
        subject.run(subject.params, subject.inputs)
    layers = {place: place.rpartition(".")[0] for place in found}
    return {p: a._replace(added=layers[p] in added, normed=layers[p] in norms) for p, a in found.items()}


def merged(a: Facts, b: Facts) -> dict[str, Attended]:
    """Both, of two cases of one model: what is so in any of them."""
    made = {**a, **b}
    for place in a.keys() & b.keys():
        one, other = a[place], b[place]
        most = max(one.queries, other.queries)
        made[place] = other._replace(masked=one.masked or other.masked, empty=one.empty or other.empty, queries=most)
    return made


@dataclass(frozen=True)
class Equal:
    """Deviations of a cause, those whose variants match, are equal to the model itself where `when` says so."""

    cause: str
    variant: str
    why: str
    when: Callable[[list[Attended]], bool] = lambda attentions: True
    exactly: bool = False
    """Whether rounding makes no difference either"""


def _one_head(attentions: list[Attended]) -> bool:
    return all(a.heads == 1 for a in attentions)


_NARROW = "it is in float32 already, or its rounding is within the tolerance"
_AVERAGE = "rows without any key give the average of all values anyway"
_ZERO = "the gradient of a key's bias is zero"
EQUAL: tuple[Equal, ...] = (
    Equal(
        "bias-missing",
        r"bias of attention/key,|.*attention/key/bias alone$",
        "a key's bias adds as much to all logits of a query",
    ),
    Equal("token-order", r".*", "a softmax over all keys does not depend on their order"),
    Equal("head-layout", r".*", "there is one head, and its channels are all", _one_head),
    Equal(
        "head-layout",
        r"joined by a reshape without a transpose",
        "there is one query",
        lambda them: all(a.queries == 1 for a in them),
    ),
    Equal("attention-scale", r"scale 1 / sqrt\(width of all heads\)", "there is one head, as wide as all", _one_head),
    Equal(
        "attention-scale",
        r"scale 1 / sqrt\(width of the values of one head",
        "a head of values is as wide as one of queries",
        lambda them: all(a.even for a in them),
    ),
    Equal("attention-scale", r"scale 1 / sqrt\(width of the ", "the head is as wide as that", _one_head),
    Equal("fully-masked-row", r".*", "no query is without a key there", lambda them: not any(a.empty for a in them)),
    Equal("fully-masked-row", r"-1e\+30 added", _AVERAGE, exactly=True),
    Equal(
        "fully-masked-row",
        r"texts without a medium: zero after neither",
        "attention gives zero there by itself, where there is no medium",
        lambda them: any(a.empty for a in them),
        exactly=True,
    ),
    Equal(
        "fully-masked-row",
        r"zero after the output map",
        "the output map has no bias, so that zeros stay zeros",
        lambda them: any(a.empty for a in them),
        exactly=True,
    ),
    Equal("fourier-order", r"positions before the features, in ", "no positions are put beside them", exactly=True),
    Equal("mask-backward", r"rows without any key give gradient to values", _AVERAGE, exactly=True),
    Equal("mask-inverted", r".*", "there is no mask", lambda them: not any(a.masked for a in them)),
    Equal("mask-ignored", r".*", "there is no mask", lambda them: not any(a.masked for a in them)),
    Equal(
        "query-residual",
        r"the normed queries are added",
        "attention is not added to its queries there",
        lambda them: not any(a.added for a in them),
    ),
    Equal(
        "query-residual",
        r"the normed queries are added",
        "no norm comes before attention there",
        lambda them: not any(a.normed for a in them),
    ),
    Equal(
        "mlp-residual",
        r"the normed input is added",
        "no norm comes before the MLP there",
        lambda them: not any(a.normed for a in them),
    ),
    Equal(
        "mlp-residual",
        r"the layer's input is added",
        "attention is not added to its queries there, so that the MLP's input is all there is",
        lambda them: not any(a.added for a in them),
    ),
    Equal("gradient-averaged", r".*argument 3\), linear attention/key", _ZERO),
    Equal("gradient-stopped", r"(through bias .*attention[./]key|to .*attention/key/bias)", _ZERO),
    Equal("gradient-not-accumulated", r".*attention/key/bias", _ZERO),
    Equal(
        "gradient-averaged",
        r".*\(argument [234]\), (attention |everywhere)",
        "nothing is broadcast there",
        exactly=True,
    ),
    Equal("activation-backward", r"derivative of relu at y", "relu has the same slope at y as at x", exactly=True),
    Equal("dtype", r".* in float32", _NARROW),
    Equal("gradient-dtype", r".*float32", _NARROW),
    Equal("fourier-order", r"\[position, sines, cosines\]$", "that is the order"),
    Equal("embedding-backward", r"token \d+ gets none", "the token is not looked up there", exactly=True),
)


def reason(key: Key, facts: Facts, tolerances: float) -> str:
    """Why a deviation that makes so large a difference cannot be told apart; "" where it should be."""
    cause, variant = key
    if tolerances > _ROUNDING:
        return ""
    for row in EQUAL:
        meant = row.cause == cause and re.match(row.variant, variant) and (tolerances == 0.0 or not row.exactly)
        if meant and row.when(_meant(variant, facts)):
            return row.why
    return ""


def _meant(variant: str, facts: Facts) -> list[Attended]:
    """The attentions that a variant is of, by the words at its end."""
    found = groups(list(facts)) if facts else []
    chosen = next((g for g in reversed(found) if variant.endswith(g.label) or f", {g.label}," in variant), None)
    return [a for place, a in facts.items() if chosen is None or chosen.match(place)]


@dataclass(frozen=True)
class Same:
    """Deviations of different causes that are one and the same: by cause, what variants match; `when` as in `Equal`."""

    variants: Mapping[str, str]
    why: str
    when: Callable[[list[Attended]], bool] = lambda attentions: True


_NO_SUM = "attention is not added to its queries there: no sum comes before the norm"
SAME: tuple[Same, ...] = (
    Same(
        {"mask-ignored": r".*", "media-mask": r".*", "mask-inverted": r".*", "fully-masked-row": r".*"},
        "the mask is that of the media, and says it of them",
    ),
    Same(
        {"gradient-not-accumulated": r".*", "gradient-stopped": r".*"},
        "of a value that is used several times, some uses alone count",
    ),
    Same(
        {"weight-sharing": r"later blocks use the layers in ", "block-order": r"layers of later blocks rotated"},
        "layers in another order are layers with other weights",
    ),
    Same(
        {"weight-sharing": r".*every cross-attention uses the next", "block-order": r"blocks in reverse, with their"},
        "blocks that share their layers differ by their cross-attentions alone",
    ),
    Same(
        {"final-norm": r".* without offset", "bias-missing": r"offset of"},
        "the offset of the last norm is a bias",
    ),
    Same(
        {"gradient-averaged": r"of the first element .*attention/query", "gradient-stopped": r".*attention[./]query"},
        "the first token attends to itself alone, and its query gets no gradient",
    ),
    Same(
        {"position-grid": r"from 1 to -1", "position-use": r"the positions that are used in reverse"},
        "positions from -1 to 1 in reverse are those from 1 to -1",
    ),
    Same(
        {"norm-missing": r".*", "norm-after": r"norms (after the sums|of what is added): (attention|all)"},
        _NO_SUM,
        lambda them: not all(a.added for a in them),
    ),
)


def same_reason(keys: list[Key], facts: Facts) -> str:
    """Why deviations of different causes do the same; "" where they should not."""
    for row in SAME:
        meant = all(re.match(row.variants.get(cause, "$."), variant) for cause, variant in keys)
        if meant and all(row.when(_meant(variant, facts)) for _, variant in keys):
            return row.why
    return ""
