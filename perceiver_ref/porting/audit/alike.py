"""Which deviations do the same to a case: numbered sets of them, 0 for those that do nothing that the case tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .trial import PLAINLY, Trial

_DIRECTIONS = 3
"""By so many sums of their elements deviations are sorted before any two are compared"""


def alike(trials: Sequence[Trial]) -> list[int]:
    """For each trial the number of its set: two of one set are within `PLAINLY` tolerances, or joined by such.

    So sets err on the side of being too large: two deviations of different sets are told from each other.
    """
    numbers = [0] * len(trials)
    by_size: dict[int, list[int]] = {}
    for i, trial in enumerate(trials):
        if trial.told:
            by_size.setdefault(trial.marks.size, []).append(i)
    number = 0
    for members in by_size.values():
        marks = np.stack([trials[i].marks for i in members])
        for some in _sets(marks):
            number += 1
            for i in some:
                numbers[members[i]] = number
    return numbers


def _sets(marks: np.ndarray) -> Iterator[list[int]]:
    """Sets of rows that are alike: first by sums of their elements, then by all elements."""
    waiting = [(np.arange(len(marks)), 0)]
    stream = np.random.default_rng(0)
    directions = stream.standard_normal((_DIRECTIONS, marks.shape[1]))
    while waiting:
        rows, depth = waiting.pop()
        if len(rows) == 1:
            yield [int(rows[0])]
        elif depth == _DIRECTIONS:
            yield from _joined(rows, marks)
        else:
            direction = directions[depth]
            with np.errstate(all="ignore"):
                sums = marks[rows] @ direction
            order = np.argsort(sums)
            room = PLAINLY * float(np.abs(direction).sum())
            with np.errstate(all="ignore"):
                rounding = 1e-12 * np.abs(marks[rows[order][1:]]) @ np.abs(direction)
                cuts = np.flatnonzero(np.diff(sums[order]) > room + rounding) + 1
            waiting += [(rows[part], depth + 1) for part in np.split(order, cuts)]


def _joined(rows: np.ndarray, marks: np.ndarray) -> Iterator[list[int]]:
    """Rows joined with those that they are within `PLAINLY` of."""
    left = [int(row) for row in rows]
    while left:
        found, new = [], [left.pop(0)]
        while new:
            row = new.pop()
            found.append(row)
            others = np.array(left, int)
            if not len(others):
                continue
            size = np.abs(marks[row]).max(initial=0.0)
            with np.errstate(invalid="ignore"):  # infinity less infinity: those come alone
                near = np.abs(marks[others] - marks[row]).max(axis=1) <= max(PLAINLY, 1e-12 * size)
            new += [int(other) for other in others[near]]
            left = [int(other) for other in others[~near]]
        yield found
