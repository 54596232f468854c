"""The order in which pairs of deviations are run: as if what each does to an array added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..deviations import Candidate

_ELEMENTS = 4096
"""Ranking looks at no more of an array's elements"""


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
