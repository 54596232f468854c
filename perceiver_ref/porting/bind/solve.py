"""Which of a port's arrays is which parameter of the reference's, op by op.

The reference is run up to an op with what its parameters may be read from; when the result is among the values that the
port recorded, they are bound, and what comes after is computed with them. Names and order say what is tried first;
only values bind.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from .bundles import bundles
from .clock import clock
from .hints import Hints
from .records import Found, Records
from .sources import Pool, Source
from .tape import Tape, argument_paths, is_made
from .views import View

_FEW = 2
_TRIES = ((1, 1), (40_000, 10), (40_000, 200))
"""How often an op of a few free parameters is tried, and one of many, in one pass after the other."""
MOVES = frozenset({"reshape", "transpose", "swapaxes", "broadcast_to", "getitem", "concatenate", "expand_dims", "cast"})
"""Ops of which the result is recorded where their argument is: they tell nothing more."""
_REUSED = 3.0
_CONSIDERED = 80
_BUNDLES = 600
_TOO_MANY = 18
"""So many free parameters are only tried together at the last op."""
ABSENT = {"bias": 0.0, "offset": 0.0, "scale": 1.0}
"""What a parameter that a port does without is worth, by the last part of its path."""


@dataclass
class Bound:
    """Parameters with their sources, and where that was seen."""

    sources: dict[str, Source] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    """By parameter, the port's value that bound it; "" for what was only guessed."""
    tried: int = 0


class Solver:
    """Binds `shapes` (our parameters by path, in the order of the graph) to the pool's arrays by the records."""

    def __init__(
        self,
        tape: Tape,
        shapes: Mapping[str, tuple[int, ...]],
        pool: Pool,
        records: Records,
        deadline: float,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.tape, self.pool, self.records = tape, pool, records
        first = {path: i for i, entry in reversed(list(enumerate(tape.entries))) for path in argument_paths(entry)}
        self.paths = sorted(shapes, key=lambda p: first.get(p, len(tape.entries)))
        self.shapes, self.progress = shapes, progress
        self.hints = Hints(pool.order, self.paths, not self._transposed())
        self.bound = Bound()
        self.options: dict[tuple[str, ...], list[dict[str, Source]]] = {}
        """For several maps of one input: what each may be."""
        inputs: dict[object, list[int]] = {}
        for place, entry in enumerate(tape.entries):
            if entry.op.name == "linear" and is_made(entry.arguments[0]):
                inputs.setdefault(entry.arguments[0], []).append(place)
        self.siblings = {place for places in inputs.values() if len(places) > 1 for place in places}
        self.deadline = deadline

    def sources(self, path: str) -> list[Source]:
        """What a parameter may be read from."""
        return self.pool.sources(self.shapes[path], absent_value(path))

    def _transposed(self) -> bool:
        """Whether the maps that are not square are kept as (outputs, inputs)."""
        votes = 0
        for path, shape in self.shapes.items():
            if path.endswith("weight") and len(shape) == 2 and shape[0] != shape[1]:
                moved = {s.parts[0].view.moved for s in self.sources(path) if len(s.parts) == 1}
                votes += 1 if moved == {True} else -1 if moved == {False} else 0
        return votes >= 0

    def run(self) -> Bound:
        """Go through the ops, with more and more tries; at the end hints guess what no recorded value decides."""
        self._alone()
        for few, many in (_TRIES[0], *_TRIES):
            if len(self.bound.sources) < len(self.paths):
                self.hints.turn()  # maps kept the other way round are tried as early
            before = -1
            while before != len(self.bound.sources) < len(self.paths):
                before = len(self.bound.sources)
                self._pass(few, many)
        left = [path for path in self.paths if path not in self.bound.sources]
        if left:
            self.bind(self._likeliest(left), "")
        return self.bound

    def _likeliest(self, left: list[str]) -> dict[str, Source]:
        """For one parameter after the other what hints have for it, nothing twice where that can be."""
        made: dict[str, Source] = {}
        used: dict[str, list[Source]] = {}
        for source in self.bound.sources.values():
            for name in source.names:
                used.setdefault(name, []).append(source)
        for path in left:
            sources = self.sources(path)
            costs = self.hints.costs(path, sources, {**self.bound.sources, **made})
            rows = [
                cost + _REUSED * any(overlap(source, other) for name in source.names for other in used.get(name, ()))
                for cost, source in zip(costs, sources)
            ]
            made[path] = sources[int(np.argmin(rows))]
            for name in made[path].names:
                used.setdefault(name, []).append(made[path])
        return made

    def _pass(self, few: int, many: int) -> None:
        for place, entry in enumerate(self.tape.entries):
            free = self.tape.free(place)
            if free and self.records.has(_size(entry.shape)) and clock() < self.deadline:
                final = place == len(self.tape.entries) - 1
                if len(free) > _TOO_MANY and not (final and (few, many) == _TRIES[-1]):
                    continue
                if len(free) > 1 and entry.op.name in MOVES:
                    continue
                tries = few if len(free) <= _FEW else many
                self._at(place, sorted(free, key=self.hints.place.__getitem__), tries)
                self.progress(len(self.bound.sources), len(self.paths))

    def _alone(self) -> None:
        """Parameters that only one array can be: of a shape that nothing else has."""
        for path in self.paths:
            sources = [s for s in self.sources(path) if s.parts]
            same = [other for other in self.paths if self.shapes[other] == self.shapes[path]]
            if len(sources) == 1 and len(same) == 1 and absent_value(path) is None:
                self.bind({path: sources[0]}, "its shape")

    def bind(self, chosen: Mapping[str, Source], seen: str) -> None:
        """Take these as known; `seen` is the port's value that shows it."""
        self.bound.sources.update(chosen)
        self.bound.seen.update(dict.fromkeys(chosen, seen))
        self.tape.fix({path: source.value for path, source in chosen.items()})

    def _at(self, place: int, free: list[str], tries: int) -> None:
        """Try what the free parameters of an op may be until its result is a recorded value."""
        own = argument_paths(self.tape.entries[place])
        if place in self.siblings and set(free) == set(own):
            if (key := tuple(free)) not in self.options:
                self.options[key] = list(self._matching(place, free))
            return
        for given in self._optional(free):
            rest = [path for path in free if path not in given]
            if self._try(place, rest, given, tries if not given else max(tries // 4, 2)):
                return
            if clock() > self.deadline:
                return
        if own and own[0].endswith("/attention/output/weight"):
            used = {name for source in self.bound.sources.values() for name in source.names}
            module = own[0].removesuffix("/output/weight")
            for given in itertools.islice(bundles(module, free, self.sources, self.pool.order, used), _BUNDLES):
                rest = [path for path in free if path not in given]
                if set(rest) <= set(own) and self._try(place, rest, given, 1):
                    return
                if clock() > self.deadline:
                    return

    def _try(self, place: int, rest: list[str], given: dict[str, Source], tries: int) -> bool:
        if not rest:
            return self._bound_by(place, given)
        for allowed in self._narrowed(place, rest, given):
            many = _TRIES[-1][0] if allowed else tries
            for assignment in itertools.islice(self._assignments(rest, allowed, given), many):
                if self._bound_by(place, {**given, **assignment}):
                    return True
                if clock() > self.deadline:
                    return False
        return False

    def _bound_by(self, place: int, assignment: dict[str, Source]) -> bool:
        self.bound.tried += 1
        if (found := self._found(place, assignment)) is None:
            return False
        self.bind(assignment, found.name)
        return True

    def _matching(self, place: int, free: list[str]) -> Iterator[dict[str, Source]]:
        """All that make a recorded value of one of several maps of one input: which of them it is, later ops say."""
        for allowed in self._narrowed(place, free, {}):
            for assignment in itertools.islice(self._assignments(free, allowed), _TRIES[-1][0]):
                self.bound.tried += 1
                if self._found(place, assignment) is not None:
                    yield assignment
                if clock() > self.deadline:
                    return

    def _optional(self, free: list[str]) -> Iterator[dict[str, Source]]:
        """The likeliest first, what several maps of one input may be together; at last nothing of them."""
        groups = [rows for paths, rows in self.options.items() if rows and set(paths) <= set(free)]
        made: list[tuple[float, dict[str, Source]]] = []
        for rows in itertools.islice(itertools.product(*groups), 4096) if groups else ():
            sources = [source for row in rows for source in row.values() if source.parts]
            if any(overlap(x, y) for x, y in itertools.combinations(sources, 2)):
                continue
            merged = {path: source for row in rows for path, source in row.items()}
            bound = {**self.bound.sources, **merged}
            made.append((sum(self.hints.costs(p, [s], bound)[0] for p, s in merged.items()), merged))
        made.sort(key=lambda row: row[0])
        yield from (row for _, row in made[:128])
        yield {}

    def _found(self, place: int, assignment: Mapping[str, Source]) -> Found | None:
        value = self.tape.value(place, {path: (s.key, s.value) for path, s in assignment.items()})
        value = value[0] if isinstance(value, tuple) else value
        return self.records.find(value) if value.dtype.kind == "f" else None

    def _narrowed(self, place: int, free: list[str], given: Mapping[str, Source]) -> Iterator[dict[str, set[bytes]]]:
        """For y = f(x, W) + b, first those W alone for which some record is y but for numbers of channels."""
        entry = self.tape.entries[place]
        own = argument_paths(entry)
        if len(own) == _FEW and set(free) == set(own) and entry.op.name in ("linear", "layer_norm"):
            weight, shift = own
            width = self.shapes[shift][0]
            zero = np.zeros(self.shapes[shift])
            known = {path: (s.key, s.value) for path, s in given.items()}
            shifts = _different(self.sources(shift))
            values = np.stack([source.value for source in shifts])
            for source in _different(self.sources(weight)):
                chosen = {**known, weight: (source.key, source.value), shift: (b"zero", zero)}
                value = np.asarray(self.tape.value(place, chosen))
                kept: set[bytes] = set()
                for wanted in self.records.shifts(value, width):
                    limit = 20 * self.records.tolerance * max(float(np.abs(value).max()), 1.0)
                    kept |= {shifts[int(i)].key for i in np.flatnonzero(np.abs(values - wanted).max(axis=1) <= limit)}
                if kept:
                    yield {weight: {source.key}, shift: kept}
            if _size(entry.shape) // width > 2:  # the rows say enough
                return
        yield {}

    def _assignments(
        self,
        free: list[str],
        allowed: Mapping[str, set[bytes]] | None = None,
        given: Mapping[str, Source] | None = None,
    ) -> Iterator[dict[str, Source]]:
        """Sources for all these parameters, the likeliest together first."""
        ticket = count()
        heap: list[tuple[float, int, tuple[Source, ...], list[tuple[float, Source]], int]] = []

        def rows(chosen: tuple[Source, ...]) -> list[tuple[float, Source]]:
            path = free[len(chosen)]
            bound = {**self.bound.sources, **(given or {}), **dict(zip(free, chosen))}
            used: dict[str, list[Source]] = {}
            for source in bound.values():
                for name in source.names:
                    used.setdefault(name, []).append(source)
            sources = self.sources(path)
            if not allowed and len(free) > _FEW and len(sources) > _CONSIDERED:
                sources = self.hints.best(path, sources, _CONSIDERED, {s.names[0] for s in bound.values() if s.parts})
            if allowed and path in allowed:
                sources = [source for source in sources if source.key in allowed[path]]
            made = [
                (
                    cost
                    + _REUSED * any(overlap(source, other) for name in source.names for other in used.get(name, ())),
                    source,
                )
                for cost, source in zip(self.hints.costs(path, sources, bound), sources)
            ]
            made.sort(key=lambda row: row[0])
            return _distinct(made)

        def push(regret: float, chosen: tuple[Source, ...], row: list[tuple[float, Source]], index: int) -> None:
            if index < len(row):
                heapq.heappush(heap, (regret + row[index][0] - row[0][0], next(ticket), chosen, row, index))

        push(0.0, (), rows(()), 0)
        while heap and clock() < self.deadline:
            total, _, chosen, row, index = heapq.heappop(heap)
            base = total - (row[index][0] - row[0][0])
            push(base, chosen, row, index + 1)
            chosen = (*chosen, row[index][1])
            if len(chosen) == len(free):
                yield dict(zip(free, chosen))
            else:
                push(total, chosen, rows(chosen), 0)


def absent_value(path: str) -> float | None:
    """What a parameter is worth that a port does without; None where it cannot."""
    return ABSENT.get(path.rpartition("/")[2])


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def overlap(a: Source, b: Source) -> bool:
    """Whether two sources read the same elements, as far as their views tell."""
    return any(x.name == y.name and not _apart(x.view, y.view) for x in a.parts for y in b.parts)


def _apart(x: View, y: View) -> bool:
    """Whether two views of one array are seen to share nothing."""
    if x.plain or y.plain:
        return False
    cuts = (x.cut, y.cut) if x.cut is not None and y.cut is not None and x.cut[0] == y.cut[0] else None
    if cuts is not None and (cuts[0][2] <= cuts[1][1] or cuts[1][2] <= cuts[0][1]):
        return True
    if x.cut == y.cut and x.fused == y.fused:
        return x.take != y.take
    # two layers of a stack, each perhaps split in its own way
    (m, i), (n, j) = x.take[0] if x.take else (-1, 0), y.take[0] if y.take else (-1, 0)
    same = m == n == 0 and x.shape is not None and y.shape is not None and x.shape[0] == y.shape[0]
    return same and i != j


def _different(sources: list[Source]) -> list[Source]:
    """One source of each value."""
    return list({source.key: source for source in reversed(sources)}.values())


def _distinct(rows: list[tuple[float, Source]]) -> list[tuple[float, Source]]:
    """The first of each value."""
    seen: set[bytes] = set()
    made = []
    for cost, source in rows:
        if source.key not in seen:
            seen.add(source.key)
            made.append((cost, source))
    return made
