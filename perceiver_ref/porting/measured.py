"""A comparison with every measure of its pairs, what wrong ones look like, and thresholds that they are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..host.progress import steps
from ..peers.base import Rebuilt
from .compare.dumps import Compared, Comparison
from .heads import heads_of
from .measures import Threshold, is_logits, measures, missed
from .patterns import patterns

_DESCRIBED = 40
"""Pairs that are described: what comes after the first that differ follows from them, mostly."""


def measured(found: Comparison, limits: Sequence[Threshold] = ()) -> Comparison:
    """The comparison with `measures`, `found` and `missed` of each pair; with `limits` these decide, not tolerances."""
    model = found.reference.peer or found.candidate.peer
    pairs: list[Compared] = []
    for pair in steps(found.pairs, "measuring pair"):
        pairs.append(_measured(pair, limits))
        if not pairs[-1].passed and sum(not each.passed for each in pairs) <= _DESCRIBED:
            pairs[-1] = _described(pairs[-1], model)
    return replace(found, pairs=pairs)


def _measured(pair: Compared, limits: Sequence[Threshold]) -> Compared:
    if pair.candidate is None:
        return pair
    logits = is_logits(pair.name, pair.reference) or is_logits(pair.other, pair.reference)
    made = measures(pair.candidate, pair.reference, tolerance=pair.tolerance, error=pair.error, logits=logits)
    return replace(pair, measures=made, missed=missed(limits, made, pair.reference))


def _described(pair: Compared, model: Rebuilt | None) -> Compared:
    if pair.candidate is None:
        return pair
    heads = heads_of(model.model, pair.name, pair.reference.shape) if model is not None else None
    heads = heads or _by_name(pair)
    least = min(pair.tolerance, 1e-3 * pair.error)  # where thresholds are missed, that may be beyond none
    return replace(pair, heads=heads, found=tuple(patterns(pair.candidate, pair.reference, least, heads=heads)))


def _by_name(pair: Compared) -> int | None:
    """Of weights (B, H, N, M) of an attention."""
    shape: tuple[int, ...] = np.shape(pair.reference)
    named = any(word in name.lower() for name in (pair.name, pair.other) for word in ("attention", "attn"))
    return shape[1] if named and len(shape) == 4 and shape[1] > 1 else None
