"""Choices improved one at a time by how far the outputs are off, where there are too many to go through.

A layer adds to what goes through it, so an array in the wrong place mostly makes outputs worse by itself: changing a
choice, or letting two parameters change places, leads down to the right ones more often than not. What it ends in is
verified like any guess.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence

from .clock import clock
from .guesses import Choice, Unit
from .narrow import clash

_TOGETHER = 4
_PARTS = re.compile(r"/(?:mlp|attention|[a-z_]*norm)[a-z_]*/")
_KICKED = 3
"""Moves at random where nothing is better."""


def climb(
    units: Sequence[Unit],
    fixed: Choice,
    error: Callable[[Choice], float],
    limit: float,
    deadline: float,
    seed: int = 0,
) -> list[Choice] | None:
    """One choice for each unit with an error of at most `limit`; None where none is found before the deadline.

    `error` takes all choices merged.
    """
    rng = random.Random(seed)
    signs = [{_sign(choice): i for i, choice in enumerate(unit.choices)} for unit in units]
    current = _start(units, fixed)
    if current is None:
        return None

    def merged(index: Sequence[int]) -> Choice:
        return {path: s for unit, i in zip(units, index) for path, s in unit.choices[i].items()}

    best, kept = error(merged(current)), (float("inf"), list(current))
    while best > limit:
        moves = _moves(units, signs, current)
        rng.shuffle(moves)
        improved = False
        for move in moves:
            if clock() > deadline:
                return None
            index = list(current)
            for i, choice in move:
                index[i] = choice
            if not _free(units, index, [i for i, _ in move], fixed):
                continue
            made = error(merged(index))
            if made < best * (1 - 1e-9):
                best, current, improved = made, index, True
                if best <= limit:
                    break
        if improved:
            continue
        if best < kept[0]:
            kept = (best, list(current))
        current = list(kept[1])
        for move in rng.sample(moves, min(_KICKED, len(moves))):
            index = list(current)
            for i, choice in move:
                index[i] = choice
            if _free(units, index, [i for i, _ in move], fixed):
                current = index
        best = error(merged(current))
        if not moves:
            return None
    return [unit.choices[i] for unit, i in zip(units, current)]


def _sign(choice: Choice) -> tuple[object, ...]:
    return tuple(source.identity for source in choice.values())


def _start(units: Sequence[Unit], fixed: Choice) -> list[int] | None:
    """A first choice for each that no other has; units of few choices come first."""
    made: dict[int, int] = {}
    taken: list[Choice] = [fixed]
    for i in sorted(range(len(units)), key=lambda i: len(units[i].choices)):
        found = next(
            (j for j, choice in enumerate(units[i].choices) if not any(clash(choice, other) for other in taken)), 0
        )
        made[i] = found
        taken.append(units[i].choices[found])
    return [made[i] for i in range(len(units))] if units else None


def _moves(
    units: Sequence[Unit], signs: Sequence[dict[tuple[object, ...], int]], current: Sequence[int]
) -> list[list[tuple[int, int]]]:
    """Other choices of one unit, exchanges between two, and of several between two layers."""
    exchanges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    moves = [[(i, j)] for i, unit in enumerate(units) for j in range(len(unit.choices)) if j != current[i]]
    for a in range(len(units)):
        for b in range(a + 1, len(units)):
            x = signs[a].get(_sign(units[b].choices[current[b]]))
            y = signs[b].get(_sign(units[a].choices[current[a]]))
            if x is not None and y is not None and x != current[a]:
                exchanges[a, b] = [(a, x), (b, y)]
    moves += exchanges.values()
    together: dict[tuple[str, str], list[list[tuple[int, int]]]] = {}
    for (a, b), exchange in exchanges.items():
        (first, x_name), (second, y_name) = (_place(units[i]) for i in (a, b))
        if first != second and x_name == y_name:
            together.setdefault((first, second), []).append(exchange)
    for rows in together.values():
        for number in range(2, min(len(rows), _TOGETHER) + 1):
            moves += [[step for row in some for step in row] for some in itertools.combinations(rows, number)]
    return moves


def _place(unit: Unit) -> tuple[str, str]:
    """The layer of a unit's first parameter, and its path in it."""
    found = _PARTS.search(unit.paths[0])
    return (unit.paths[0], "") if found is None else (unit.paths[0][: found.start()], unit.paths[0][found.start() :])


def _free(units: Sequence[Unit], index: Sequence[int], changed: Sequence[int], fixed: Choice) -> bool:
    for i in changed:
        own = units[i].choices[index[i]]
        if clash(own, fixed):
            return False
        for j, unit in enumerate(units):
            if j != i and clash(own, unit.choices[index[j]]):
                return False
    return True
