"""The order in which pairs of deviations are run: as if what each does to an array added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..deviations import Candidate

_ELEMENTS = 4096
"""Ranking looks at no more of an array's elements"""
_FIRST, _FIRST_AT_ONCE = 32, 8
"""The product of places that the first round goes to, and so many times as far where many are run at once"""
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
    at_once: int = 1,
) -> Iterator[tuple[Chosen, list[Candidate]]]:
    """Of each group in turn the leaders, with those to be run beside each of them: to a product of both places that
    doubles with every round, to `most`. Where many are run `at_once` for less, so many come, or times so many.

    One may come again: what leaders there are, and which place they have, may change from round to round.
    """
    reach, few = _FIRST, _FEW
    if at_once > 1:
        reach, few = _FIRST_AT_ONCE * reach, max(_FEW, at_once // _FEW)
    while reach <= most:
        for place, chosen in chain.from_iterable(group() for group in groups):
            if few * place <= reach:
                order = beside(chosen)
                within = sum(place * other <= reach for other, _ in order)
                yield chosen, [candidate for _, candidate in order[: -(-within // at_once) * at_once]]
        reach *= 2
