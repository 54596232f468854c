"""The smallest set of cases that tells apart all that any of them tells, as far as a greedy choice finds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

C = TypeVar("C")
K = TypeVar("K")


def cover(told: Mapping[C, Iterable[K]]) -> list[tuple[C, int]]:
    """(case, how many more it tells apart), the one that adds most first; of several the first.

    Each step takes the case that adds most, which is at most ln(n) + 1 times as many cases as the fewest.

    >>> cover({"a": "pq", "b": "qrs", "c": "r"})
    [('b', 3), ('a', 1)]
    """
    left = {case: set(keys) for case, keys in told.items()}
    chosen: list[tuple[C, int]] = []
    while left:
        case = max(left, key=lambda c: len(left[c]))
        found = left.pop(case)
        if not found:
            break
        chosen.append((case, len(found)))
        for keys in left.values():
            keys -= found
    return chosen
