"""The order in which pairs of deviations are run: as if what each does to an array added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..deviations import Candidate

_ELEMENTS = 4096
"""Ranking looks at no more of an array's elements"""
_FIRST = 32
"""The product of places that the first round goes to"""
_FEW = 4
"""A round looks at no leader for fewer"""
_LOCAL, _RARE = 2, 6
"""So many times as far down are deviations in but a part of the model, and rare ones"""
Chosen = tuple[Candidate, ...]


class Effect(NamedTuple):
    """What a deviation alone does to the outputs and to the first point that differs, and what it leaves of both."""

    candidate: Candidate
    change: np.ndarray
    first: float
    remaining: float
    at_first: np.ndarray | None = None


def some(array: np.ndarray, most: int = _ELEMENTS) -> np.ndarray:
    """All elements in a row, or evenly so many of them as are looked at."""
    flat = np.asarray(array, np.float64).reshape(-1)
    return flat[:: -(-flat.size // most) or 1]


def ranked_pairs(
    candidates: Sequence[Candidate], changes: Sequence[np.ndarray], target: np.ndarray, most: int
) -> Iterator[tuple[Candidate, Candidate]]:
    """Two of different causes whose changes, added, are nearest to the target, the nearest first."""
    if not candidates:
        return
    matrix = np.stack(changes)
    products, against = matrix @ matrix.T, matrix @ target
    alone = np.diag(products) - 2 * against
    left = alone[:, None] + alone[None, :] + 2 * products
    kinds = np.array([candidate.cause for candidate in candidates])
    left[kinds[:, None] == kinds[None, :]] = np.inf
    left[np.tril_indices(len(candidates))] = np.inf
    for flat in np.argsort(left, axis=None)[:most]:
        i, j = divmod(int(flat), len(candidates))
        if np.isfinite(left[i, j]):
            yield (candidates[i], candidates[j])


def placed(order: Sequence[Candidate]) -> list[tuple[int, Candidate]]:
    """In this order, those of each sort counted for themselves, with their place."""
    counts: dict[int, int] = {}
    found = []
    for candidate in order:
        factor = _RARE if candidate.rare else _LOCAL if ", in " in candidate.variant else 1
        counts[factor] = counts.get(factor, 0) + 1
        found.append((factor * counts[factor], candidate))
    return sorted(found, key=lambda row: row[0])


def in_rounds(
    groups: Sequence[Callable[[], Sequence[tuple[int, Chosen]]]],
    beside: Callable[[Chosen], Sequence[tuple[int, Candidate]]],
    most: int,
) -> Iterator[Chosen]:
    """Of each group in turn the leaders with one more each, to a product of both places that doubles with every round.

    `most` is where rounds end.

    One may come again: what leaders there are, and which place they have, may change from round to round.
    """
    reach = _FIRST
    while reach <= most:
        for place, chosen in chain.from_iterable(group() for group in groups):
            if _FEW * place > reach:
                continue
            for other, candidate in beside(chosen):
                if place * other > reach:
                    break
                yield (*chosen, candidate)
        reach *= 2
