"""A tape run again and again with other sources, where only what has changed is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .sources import Source
from .tape import Tape, filled, places_of


class Replay:
    """The values of a tape for the sources that were given last."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        count = len(tape.entries)
        self.values: list[Any] = [None] * count
        self.old = np.ones(count, bool)
        self.given: dict[str, Source] = {}
        self.affected: dict[str, np.ndarray] = {}
        for place, entry in enumerate(tape.entries):
            for path in entry.needs:
                self.affected.setdefault(path, np.zeros(count, bool))[place] = True
        self.before: dict[int, list[int]] = {}

    def value(self, place: int, chosen: Mapping[str, Source], output: int = 0) -> np.ndarray:
        """The result of the op at `place` with these sources, or one of its results."""
        for path, source in chosen.items():
            if self.given.get(path) is not source:
                self.given[path] = source
                if path in self.affected:
                    self.old |= self.affected[path]
        params = _Values(chosen)
        with np.errstate(all="ignore"):
            for at in self._needed(place):
                if self.old[at]:
                    entry = self.tape.entries[at]
                    arguments = filled(entry.arguments, self.values, params, {})
                    self.values[at] = entry.op(*arguments, **entry.options)
                    self.old[at] = False
        made = self.values[place]
        return np.asarray(made[output] if isinstance(made, tuple) else made)

    def _needed(self, place: int) -> list[int]:
        """The ops before one and itself, in order."""
        if place not in self.before:
            found, todo = set(), [place]
            while todo:
                at = todo.pop()
                if at not in found:
                    found.add(at)
                    todo += places_of(self.tape.entries[at].arguments)
            self.before[place] = sorted(found)
        return self.before[place]


class _Values(dict[str, np.ndarray]):
    """Values of sources by path."""

    def __init__(self, chosen: Mapping[str, Source]) -> None:
        self.chosen = chosen

    def __missing__(self, path: str) -> np.ndarray:
        return self.chosen[path].value
