"""Whether one array is another moved along an axis: shifted, reversed, its rows or columns in another order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

FAR = 3
"""The most positions of a shift that is looked for."""
NEAR = 0.02
"""What is moved is where it was, but for this part of the largest difference."""
_SHOWN = 6


def shifted(a: np.ndarray, b: np.ndarray) -> tuple[int, int, bool] | None:
    """(axis, places, whether around the end) that make a of b: a[i + places] = b[i]; None where none does.

    a, b: float64 of one shape. What overlaps must fit, differ as it is, and be long enough not to fit by chance.
    """
    largest = float(np.abs(a - b).max(initial=0.0))
    if not 0 < largest < np.inf:
        return None
    for axis in range(a.ndim):
        for places in (sign * n for n in range(1, FAR + 1) for sign in (1, -1)):
            if a.shape[axis] < abs(places) + 2:
                continue
            x, y = _overlap(a, places, axis), _overlap(b, -places, axis)
            moved = np.abs(x - _overlap(b, places, axis)).max()  # as it is, without being moved
            if x.size >= 4 and np.abs(x - y).max() <= NEAR * moved and moved >= largest / 10:
                around = bool(np.abs(a - np.roll(b, places, axis)).max() <= NEAR * largest)
                return axis, places, around
    return None


def _overlap(x: np.ndarray, places: int, axis: int) -> np.ndarray:
    """Without the first `places`, or without the last where that is negative."""
    return x[(slice(None),) * axis + (slice(places, None) if places > 0 else slice(None, places),)]


def order_along(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray | None:
    """The order p of b's indices along an axis that makes a of b, a[i] = b[p[i]]; None where none does, or all stay.

    Rows are found by their products with one vector. Single numbers must be nearer than to their neighbours.
    """
    n = a.shape[axis]
    x, y = (np.moveaxis(side, axis, 0).reshape(n, -1) for side in (a, b))
    largest = float(np.abs(x - y).max(initial=0.0))
    if n < 2 or not 0 < largest < np.inf or x.size < 4:
        return None
    limit = NEAR * largest
    if x.shape[1] == 1:
        limit = min(limit, 0.05 * float(np.ptp(y)) / n)
    weights = np.random.default_rng(0).standard_normal(x.shape[1])
    mine, theirs = (np.argsort(side @ weights, kind="stable") for side in (x, y))
    made = np.empty(n, int)
    made[mine] = theirs
    if (made == np.arange(n)).all() or not (np.abs(x - y[made]) <= limit).all():
        return None
    return made


def described(order: np.ndarray, word: str) -> str:
    """Such an order in words; `word` is what an index is called."""
    n, places = len(order), np.arange(len(order))
    if (order == places[::-1]).all():
        return f"{word}s reversed"
    wrong = np.flatnonzero(order != places)
    if len(wrong) == 2:
        return f"{word}s {wrong[0]} and {wrong[1]} swapped"
    if (order == np.roll(places, n // 2)).all() and n % 2 == 0:
        return f"{word}s with both halves swapped"
    if (order == (places + order[0]) % n).all():
        return f"{word}s moved by {min(n - int(order[0]), int(order[0]), key=abs)} around the end"
    for parts in _divisors(n):
        if (order == places.reshape(parts, -1).T.reshape(-1)).all():
            return f"{word}s interleaved: ({n // parts}, {parts}) instead of ({parts}, {n // parts})"
    for width in sorted(_divisors(n), reverse=True):
        blocks = order.reshape(-1, width)
        if (blocks[:, 0] % width == 0).all() and (blocks == blocks[:, :1] + np.arange(width)).all():
            return f"blocks of {width} {word}s in another order: {_first(blocks[:, 0] // width)}"
    return f"{word}s in another order: {_first(order)}"


def _divisors(n: int) -> Iterator[int]:
    return (d for d in range(2, n // 2 + 1) if n % d == 0)


def _first(order: np.ndarray) -> str:
    return ", ".join(map(str, order[:_SHOWN])) + (", ..." if len(order) > _SHOWN else "")
