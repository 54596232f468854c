"""For which parameters another of the port's arrays would do as well, and what gradients decide of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..cases.compare import gradient_tolerance
from .clock import clock
from .records import Records
from .solve import Bound, Solver, overlap
from .sources import Source
from .tape import Chosen

_LISTED = 32


@dataclass(frozen=True)
class Doubt:
    """A parameter that other sources would do for, and whether they hold the same values."""

    others: tuple[Source, ...]
    equal: bool


class Doubts:
    """Alternatives to what a solver bound, found by putting them in its place one at a time."""

    def __init__(
        self,
        solver: Solver,
        records: Records,
        gradients: Mapping[str, np.ndarray],
        ours: Mapping[str, np.ndarray],
        felt: Mapping[str, np.ndarray],
    ) -> None:
        self.solver, self.tape, self.records = solver, solver.tape, records
        self.gradients = {n: np.asarray(a, np.float64) for n, a in gradients.items()}
        self.ours = ours
        """The reference's gradients by our paths; empty where the port has none."""
        self.felt = {path: np.abs(a) for path, a in felt.items()}
        """How much each element of a parameter is felt by what was recorded, of any sum of it."""
        self.most = max((float(a.max(initial=0.0)) for a in self.felt.values()), default=0.0)
        self.largest = max((float(np.abs(a).max(initial=0.0)) for a in ours.values()), default=0.0)
        self.watched = [
            place
            for place, entry in enumerate(self.tape.entries)
            if records.has(int(np.prod(entry.shape))) and self._is_recorded(place)
        ]

    def settle(self) -> dict[str, Doubt]:
        """Bind anew what gradients or elimination decide, and give the rest."""
        bound = self.solver.bound
        open_: dict[str, list[Source]] = {}
        late = []
        for path, source in bound.sources.items():
            if clock() > self.solver.deadline:
                late.append(path)
                continue
            others = self._alternatives(path, source)
            if others:
                open_[path] = [source, *others]
        for path in list(open_):
            kept = self._by_gradient(path, open_[path])
            if len(kept) == 1:
                self._choose(path, kept[0], "its gradient")
                del open_[path]
            elif kept:
                open_[path] = kept
        self._eliminate(open_)
        self._assign(open_)
        made = {path: Doubt((), False) for path in late}
        made |= self._exchanged(set(open_) | set(late))
        for path, sources in open_.items():
            chosen = bound.sources[path]
            others = [
                s
                for s in sources
                if s.identity != chosen.identity and not _same_place(s, chosen, self.solver.pool.arrays)
            ]
            if others:
                made[path] = Doubt(tuple(others[:_LISTED]), all(s.key == chosen.key for s in others))
        return made

    def _exchanged(self, known: set[str]) -> dict[str, Doubt]:
        """Parameters of a layer that could change places, as scales of queries' and keys' norms, which multiply."""
        bound = self.solver.bound.sources
        rows: dict[tuple[object, ...], list[str]] = {}
        for path, source in bound.items():
            if path not in known and source.parts:
                outer = path.rpartition("/")[0].rpartition("/")[0]
                rows.setdefault((outer, source.shape), []).append(path)
        made: dict[str, Doubt] = {}
        for a, b in (pair for paths in rows.values() for pair in itertools.combinations(paths, 2)):
            x, y = bound[a], bound[b]
            if clock() > self.solver.deadline:
                made |= {path: Doubt((), False) for path in (a, b) if path not in made}
                continue
            places = [p for p in self.watched if self.tape.entries[p].needs & {a, b}]
            if x.key != y.key and self._as_good_with({a: (y.key, y.value), b: (x.key, x.value)}, places):
                made |= {a: Doubt((y,), False), b: Doubt((x,), False)}
        return made

    def _is_recorded(self, place: int) -> bool:
        value = self.tape.value(place, {})
        value = value[0] if isinstance(value, tuple) else value
        return value.dtype.kind == "f" and self.records.find(value) is not None

    def _alternatives(self, path: str, chosen: Source) -> list[Source]:
        watched = [place for place in self.watched if path in self.tape.entries[place].needs]
        equal: dict[bytes, bool] = {chosen.key: True}
        made = []
        unfelt = path in self.felt and float(self.felt[path].max(initial=0.0)) <= 1e-11 * self.most
        for source in self.solver.sources(path):
            if not source.parts or source.identity == chosen.identity:
                continue
            if source.key not in equal:
                equal[source.key] = unfelt or (
                    not self._is_felt(path, source, chosen) and self._as_good(path, source, watched)
                )
            if equal[source.key] and not _same_place(source, chosen, self.solver.pool.arrays):
                made.append(source)
        return made

    def _is_felt(self, path: str, source: Source, chosen: Source) -> bool:
        """Whether a source differs in elements that matter a good deal: no run is needed then."""
        if path not in self.felt:
            return False
        apart = np.abs(source.value - chosen.value)
        matter = self.felt[path] > max(1e-9, 1e3 * self.records.tolerance) * self.most
        return bool((apart * matter).max(initial=0.0) > 1e-3)

    def _as_good(self, path: str, source: Source, watched: list[int]) -> bool:
        return self._as_good_with({path: (source.key, source.value)}, watched)

    def _as_good_with(self, chosen: Chosen, watched: list[int]) -> bool:
        """Whether all that was recorded stays as it is with other values of some parameters."""
        for place in watched:
            a = self.tape.value(place, chosen)
            b = self.tape.value(place, {})
            a, b = (v[0] if isinstance(v, tuple) else v for v in (a, b))
            scale = max(float(np.abs(b).max(initial=0.0)), 1.0)
            if not float(np.abs(a - b).max(initial=0.0)) <= 2 * self.records.tolerance * scale:
                return False
        return True

    def _by_gradient(self, path: str, sources: list[Source]) -> list[Source]:
        """Those whose gradient in the port is the reference's of this parameter; all where it says nothing."""
        ours = self.ours.get(path)
        if ours is None or not float(np.abs(ours).max(initial=0.0)) > 1e-9 * self.largest:
            return sources
        dtype = "float64" if self.records.tolerance < 1e-8 else "float32"
        usual = 10 * self.records.tolerance if dtype == "float32" else 1e-8
        kept = []
        for source in sources:
            if not source.parts:  # what the port does without has no gradient to compare
                kept.append(source)
                continue
            if not set(source.names) <= set(self.gradients):
                return sources
            parts = [part.read(self.gradients) for part in source.parts]
            theirs = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=source.axis)
            limit = gradient_tolerance(usual, dtype, ours, theirs, self.largest)
            scale = max(float(np.abs(ours).max()), 1.0)
            if float(np.abs(theirs - ours).max()) <= limit * scale:
                kept.append(source)
        return kept or sources

    def _choose(self, path: str, source: Source, why: str) -> None:
        bound: Bound = self.solver.bound
        if bound.sources[path].identity != source.identity:
            bound.sources[path] = source
            bound.seen[path] = why
            self.tape.fix({path: source.value})
        elif not bound.seen[path]:
            bound.seen[path] = why

    def _eliminate(self, open_: dict[str, list[Source]]) -> None:
        """What certain parameters are read from is no alternative; of a fused array the last part is its sibling's."""
        changed = True
        while changed and open_:
            changed = False
            certain = [s for p, s in self.solver.bound.sources.items() if p not in open_ and s.parts]
            taken: dict[str, list[Source]] = {}
            for source in certain:
                for name in source.names:
                    taken.setdefault(name, []).append(source)
            for path in list(open_):
                free = [s for s in open_[path] if not any(overlap(s, t) for n in s.names for t in taken.get(n, ()))]
                if (beside := self._beside(path, open_, free)) is not None:
                    free = beside
                if len(free) == 1:
                    self._choose(path, free[0], "what is left")
                    del open_[path]
                    changed = True
                elif free and len(free) < len(open_[path]):
                    open_[path] = free
                    changed = True

    def _beside(self, path: str, open_: dict[str, list[Source]], free: list[Source]) -> list[Source] | None:
        """Where all siblings are certain and read from one fused array, the parts of that array alone."""
        last = path.rpartition("/")[2]
        names = ("query", "key", "value")
        module = path.rpartition("/")[0]
        outer, _, own = module.rpartition("/")
        if own not in names:
            return None
        found = [self.solver.bound.sources.get(f"{outer}/{n}/{last}") for n in names if n != own]
        paths = [f"{outer}/{n}/{last}" for n in names if n != own]
        first = next((s for p, s in zip(paths, found) if s is not None and s.parts and p not in open_), None)
        if first is None or first.parts[0].view.fused is None:
            return None
        fused = first.parts[0].view.fused
        if len(first.names) != 1 or any(p in open_ for p, s in zip(paths, found) if s is not None):
            return None
        return [s for s in free if s.names == first.names and s.parts[0].view.fused == fused] or None

    def _assign(self, open_: dict[str, list[Source]]) -> None:
        """What stays open, as hints have it, nothing used twice where that can be."""
        bound = self.solver.bound
        done = {p: s for p, s in bound.sources.items() if p not in open_}
        for path in sorted(open_, key=self.solver.hints.place.__getitem__):
            used = [s for s in done.values() if s.parts]
            costs = [
                cost + 5.0 * any(overlap(source, other) for other in used)
                for cost, source in zip(self.solver.hints.costs(path, open_[path], done), open_[path])
            ]
            best = open_[path][int(np.argmin(costs))]
            self._choose(path, best, bound.seen[path])
            done[path] = best


def _same_place(a: Source, b: Source, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether two sources of equal values read the same elements: an array whole, or one part of it said otherwise."""
    if a.key != b.key or a.names != b.names:
        return False
    if all(x.view.plain and y.view.plain for x, y in zip(a.parts, b.parts)):
        return True
    if len(a.parts) > 1 or len(b.parts) > 1:
        return False
    places = np.arange(arrays[a.names[0]].size).reshape(arrays[a.names[0]].shape)
    x, y = (np.sort(source.parts[0].view.read(places, source.shape), axis=None) for source in (a, b))
    return np.array_equal(x, y)
