"""The fast stage: whole guesses run through the reference and compared, before any search op by op.

First the port's arrays as they lie, with one convention for all layers; where values were recorded, layer by layer, so
that a layer may have its own. Then, where gradients were recorded, arrays in any order, tied by identities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .climb import climb
from .clock import clock
from .guesses import Choice, Unit, guesses
from .identities import Gradients, identities, sound
from .narrow import Narrowing, clash
from .records import Records, tells
from .replay import Replay
from .solve import MOVES, absent_value
from .sources import Pool, Source
from .tape import Tape, argument_paths, is_made, made_by
from .views import layouts

_WAYS = 400
"""Of giving each kind of array one convention."""
_LAID = 0.25
"""The share of the time for arrays as they lie, where gradients can do without their order."""
_SOME = 0.15
"""The share of the time that is left for one of many steps."""
_STEP = 3000
"""Combinations that are tried at one recorded value."""
_GROUPS, _PLACES = 13, 24
"""Sets of parameters between recorded values that are gone through, and the ops that are looked at for one set."""
_ENUMERATED = 3000
"""Combinations that are gone through rather than climbed to."""
_CLIMB = 1.5
"""Seconds to climb for, of one guess of the order."""
_SHUFFLED = 4000
"""Alternatives of one parameter, arrays in any order."""
_ALIKE, _EACH = 80, 0.5
"""Conventions of one kind that are compared in a guess that does not give the outputs, and the seconds for a guess."""
_REFUSED, _AFTER = 8, 0.05
"""Guesses by order that identities refused, for when nothing else is found, and the share of the time for them."""
_NEARER = 2.0
"""So many times nearer to the outputs is a guess to be taken in place of one that is likelier by its order."""


@dataclass(frozen=True)
class Whole:
    """A whole guess that does not give the outputs: one array for each parameter, by order, names and shapes."""

    sources: Choice
    values: int
    """Of the port's values, how many the reference gives with it."""
    left: int
    """Arrays that it leaves over."""
    off: float
    """How far outputs are off, as a share of their size."""

    def better(self, other: Whole | None) -> bool:
        """Whether it is to be taken in place of a guess that came before."""
        if other is None or (self.values, -self.left) != (other.values, -other.left):
            return other is None or (self.values, -self.left) > (other.values, -other.left)
        return self.off * _NEARER < other.off


class Quick:
    """Finds sources for all parameters with which the reference gives the port's outputs, or nothing."""

    def __init__(
        self,
        tape: Tape,
        shapes: Mapping[str, tuple[int, ...]],
        pool: Pool,
        records: Records,
        gradients: Mapping[str, np.ndarray],
        seconds: float,
        progress: Callable[[int, int], None],
        sample: Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]] | None = None,
    ) -> None:
        """`sample` gives parameters of the reference and their gradients, which show what identities hold."""
        self.tape, self.shapes, self.pool, self.records = tape, dict(shapes), pool, records
        self.seconds, self.deadline, self.progress = seconds, clock() + seconds, progress
        self.replay = Replay(tape)
        sums, products = identities(tape)
        if gradients and sample is not None:
            sums, products = sound(sums, products, *sample())
        self.unfelt = self._unfelt(sums)
        self.gradients = Gradients(gradients)
        self.narrowing: Narrowing | None = None
        if gradients:
            self.narrowing = Narrowing(sums, products, self.gradients, self.unfelt, self.deadline)
        self.outputs = [ref for ref in tape.outputs.values() if is_made(ref)]
        self.uses: dict[str, int] = {}
        for entry in tape.entries:
            for path in argument_paths(entry):
                self.uses[path] = self.uses.get(path, 0) + 1
        self.watched = self._watched()
        self.told = {place for place in self.watched if self._tells(place)}
        self.first = {p: i for i, e in reversed(list(enumerate(tape.entries))) for p in e.needs}
        outputs = {name: array for name, array in records.arrays.items() if name.startswith("output/")}
        self.wanted = [name for name, array in outputs.items() if tells(array, records.tolerance)]
        """Outputs with which agreement is no accident: not a loss, say."""
        self.tried = 0
        self.climbing: float | None = None
        """Seconds to climb for."""
        self.nearest: Whole | None = None
        """Where nothing is found, the best of the guesses by order."""
        self.refused: list[list[Unit]] = []
        """The likeliest of the guesses by order that identities refused."""

    def find(self) -> dict[str, tuple[Source, str]] | None:
        """For each parameter a source and the recorded value that shows it; None where nothing is found in time."""
        found = self._found()
        if found is None and self.nearest is None:
            # a mistake of the port's, or a field such as heads, may have made identities refuse every guess
            self.deadline, self.climbing = clock() + _AFTER * self.seconds, 0.0
            for units in self.refused:
                if (found := self._search(units, by_order=True)) is not None or clock() > self.deadline:
                    return found
        return found

    def _found(self) -> dict[str, tuple[Source, str]] | None:
        for strict in (True, False) if self.narrowing else (False,):
            for units in self._laid(strict, _LAID if strict else 1.0):
                self.climbing = _CLIMB
                if (found := self._search(units, by_order=True)) is not None:
                    return found
                if clock() > self.deadline:
                    return None
            if strict and (found := self._shuffled()) is not None:
                return found
        return None

    def _laid(self, strict: bool, share: float) -> Iterator[list[Unit]]:
        """Guesses, for this share of the time that is left."""
        until = self._until(share)
        for units in guesses(list(self.shapes), self.shapes, self.pool, absent_value):
            narrowed = self.narrowing.narrow(units, True) if self.narrowing and strict and units else units
            if narrowed is not None:
                yield narrowed
            elif units and len(self.refused) < _REFUSED:
                self.refused.append(units)
            if clock() > until:
                return

    def _shuffled(self) -> dict[str, tuple[Source, str]] | None:
        units = []
        for path in self.shapes:
            units.append(Unit((path,), _different([{path: s} for s in self._likely(path)[:_SHUFFLED]])))
        assert self.narrowing is not None
        narrowed = self.narrowing.narrow(units, False)
        self.climbing = 0.6 * (self.deadline - clock())
        return self._search(narrowed) if narrowed else None

    def _likely(self, path: str) -> list[Source]:
        """Whole arrays where there are enough of them; else parts of two to four, and then all."""
        shape = self.shapes[path]
        count = sum(other == shape for other in self.shapes.values())
        sources = self.pool.sources(shape, absent_value(path))
        whole = [s for s in sources if s.parts and s.parts[0].view.plain]
        fused = [s for s in sources if s.parts and _fused(s)]
        if len({s.names for s in whole}) >= count:
            return whole
        some = [*whole, *fused, *(s for s in sources if not s.parts)]
        places = {(s.names, s.parts[0].view.index) for s in (*whole, *fused)}
        return some if len(places) >= count or absent_value(path) is not None else sources

    def _watched(self) -> list[int]:
        """Ops of which the results may be recorded, without those that several maps of one input make."""
        traced = any(name.startswith("trace/") for name in self.records.arrays)
        inputs: dict[object, list[int]] = {}
        for place, entry in enumerate(self.tape.entries):
            if entry.op.name == "linear":
                source = entry.arguments[0]
                inputs.setdefault(source if is_made(source) else id(source), []).append(place)
        beside = {place for places in inputs.values() if len(places) > 1 for place in places}
        return [
            place
            for place, entry in enumerate(self.tape.entries)
            if place not in beside
            and entry.op.name not in MOVES
            and ((traced and self.records.has(int(np.prod(entry.shape, dtype=np.int64)))) or self._tells(place))
        ]

    def _tells(self, place: int) -> bool:
        """Whether the gradient of a linear map says something of its input: fewer rows than channels."""
        entry = self.tape.entries[place]
        if self.narrowing is None or entry.op.name != "linear" or not is_made(entry.arguments[0]):
            return False
        paths = argument_paths(entry)
        if not paths or len(self.shapes[paths[0]]) != 2 or self.uses[paths[0]] != 1:
            return False
        rows = int(np.prod(entry.shape[:-1], dtype=np.int64))
        return rows + 1 < self.shapes[paths[0]][0]

    def _spanned(self, place: int, chosen: Choice) -> str | None:
        """G = x^T (gradient of the result): whether the gradient of a map is spanned by the rows x of its input."""
        entry = self.tape.entries[place]
        paths = argument_paths(entry)
        gradient = self.gradients.of(chosen[paths[0]])
        if gradient is None or not np.any(gradient):
            return None
        x = self.replay.value(*made_by(entry.arguments[0])[:1], chosen, made_by(entry.arguments[0])[1])
        x = x.reshape(-1, x.shape[-1])
        shift = self.gradients.of(chosen[paths[1]]) if len(paths) > 1 and chosen[paths[1]].parts else None
        if shift is not None:
            x, gradient = np.hstack([x, np.ones((len(x), 1))]), np.vstack([gradient, shift])
        if not np.isfinite(x).all():
            return None
        basis = np.linalg.qr(x.T)[0]
        left = gradient - basis @ (basis.T @ gradient)
        small = float(np.abs(left).max()) <= self.gradients.tolerance * float(np.abs(gradient).max())
        return f"gradient of {chosen[paths[0]].names[0]}" if small else None

    def _unfelt(self, sums: Sequence[object]) -> set[str]:
        """Biases of keys, which change nothing."""
        keys = {
            path.removesuffix("weight") + "bias"
            for row in sums
            for path in getattr(row, "terms", {})
            if getattr(row, "kind", "") == "queries"
        }
        named = {path for row in sums for path in getattr(row, "terms", {})}
        return {path for path in keys if path in self.shapes and path not in named}

    def _search(self, units: list[Unit], by_order: bool = False) -> dict[str, tuple[Source, str]] | None:
        """Fix units from one recorded value to the next; the last is the output. What is `by_order` is kept if best."""
        units = sorted(units, key=lambda unit: min(self.first.get(path, len(self.first)) for path in unit.paths))
        loose = [u for u in units if len(u.choices) > 1 and set(u.paths) <= self.unfelt]
        units = [u for u in units if u not in loose]
        guess: Choice = {path: s for u in (*units, *loose) for path, s in u.choices[0].items()}
        fixed: Choice = {}
        seen: dict[str, str] = {}
        decided: dict[object, int] = {}
        for unit in [u for u in units if len(u.choices) == 1]:
            fixed.update(unit.choices[0])
        open_ = [unit for unit in units if len(unit.choices) > 1]
        while open_:
            step = self._step(open_, fixed, guess, seen)
            if step is None:
                if by_order:
                    self._keep(open_, {**guess, **fixed, **self._loose(loose, fixed)}, decided)
                return None
            for unit, choice in step:
                decided[_kind(unit)] = next(i for i, own in enumerate(unit.choices) if own is choice)
                fixed.update(choice)
                open_ = [other for other in open_ if other is not unit]
            guess |= fixed
        fixed |= self._loose(loose, fixed)
        found = self._agrees({**guess, **fixed})
        if found is None:
            if by_order:
                self._keep([], {**guess, **fixed}, decided)
            return None
        self.progress(len(self.shapes), len(self.shapes))
        return {path: (source, seen.get(path) or found) for path, source in {**guess, **fixed}.items()}

    def _keep(self, open_: list[Unit], chosen: Choice, decided: Mapping[object, int]) -> None:
        """A guess that does not give the outputs, with the conventions for the units that are open that do best.

        Kinds of which recorded values have `decided` some units stay so; others are changed one after the other, the
        first conventions being the likeliest.
        """
        until = clock() + _EACH
        first = [unit.choices[decided.get(_kind(unit), 0)] for unit in open_]
        best = self._whole({**chosen, **{path: s for choice in first for path, s in choice.items()}})
        kinds: dict[object, list[Unit]] = {}
        for unit in open_:
            if _kind(unit) not in decided:
                kinds.setdefault(_kind(unit), []).append(unit)
        for units in kinds.values():
            for number in range(1, min(len(units[0].choices), _ALIKE)):
                if clock() > until:
                    break
                changed = {path: s for unit in units for path, s in unit.choices[number].items()}
                made = self._whole({**best.sources, **changed})
                best = made if made.better(best) else best
        if best.better(self.nearest):
            self.nearest = best

    def _whole(self, chosen: Choice) -> Whole:
        values = (self.replay.value(place, chosen) for place in range(len(self.tape.entries)))
        left = self.pool.arrays.keys() - {name for source in chosen.values() for name in source.names}
        return Whole(chosen, len(self.records.given(values)), len(left), self._off(chosen))

    def _loose(self, loose: list[Unit], fixed: Choice) -> Choice:
        """Parameters that change nothing, of what is left, with no gradient where that is known."""
        made: Choice = {}
        for unit in loose:
            fits = [c for c in unit.choices if not clash(c, fixed) and not clash(c, made)] or unit.choices
            made.update(min(fits, key=lambda choice: self._felt(dict(choice))))
        return made

    def _felt(self, choice: Choice) -> float:
        if self.narrowing is None:
            return 0.0
        gradients = [self.narrowing.gradients.of(source) for source in choice.values()]
        return round(sum(float(np.abs(g).max(initial=0.0)) for g in gradients if g is not None), 9)

    def _step(
        self, open_: list[Unit], fixed: Choice, guess: Choice, seen: dict[str, str]
    ) -> list[tuple[Unit, Choice]] | None:
        """Choices for the units that the next recorded value depends on; at last for all."""
        groups: dict[tuple[int, ...], tuple[list[Unit], list[int]]] = {}
        for place in self.watched:
            needs = self.tape.entries[place].needs
            own = [unit for unit in open_ if needs & set(unit.paths)]
            if own:
                groups.setdefault(tuple(map(id, own)), (own, []))[1].append(place)
        for own, places in itertools.islice(groups.values(), _GROUPS):
            for choices in itertools.islice(_combinations(own, fixed, self._until(_SOME)), _STEP):
                merged = {**guess, **fixed, **{path: s for choice in choices for path, s in choice.items()}}
                self.tried += 1
                name = next((n for place in places[:_PLACES] if (n := self._seen(place, merged)) is not None), None)
                if name is not None:
                    return self._taken(own, choices, seen, name)
                if clock() > self.deadline:
                    return None
        if math.prod(len(unit.choices) for unit in open_) > _ENUMERATED:
            return self._climbed(open_, fixed, guess, seen)
        for choices in _combinations(open_, fixed, self.deadline):
            self.tried += 1
            name = self._agrees({**guess, **fixed, **{path: s for choice in choices for path, s in choice.items()}})
            if name is not None:
                return self._taken(open_, choices, seen, name)
        return None

    def _taken(
        self, own: list[Unit], choices: list[Choice], seen: dict[str, str], name: str
    ) -> list[tuple[Unit, Choice]]:
        """These choices, which a recorded value has shown."""
        seen.update({path: name for unit in own for path in unit.paths})
        self.progress(len(seen), len(self.shapes))
        return list(zip(own, choices))

    def _seen(self, place: int, chosen: Choice) -> str | None:
        """The recorded value, or the gradient, that shows the result of an op."""
        name = self._recorded(place, chosen)
        return self._spanned(place, chosen) if name is None and place in self.told else name

    def _until(self, share: float) -> float:
        """When this share of the time that is left will be over."""
        now = clock()
        return now + share * (self.deadline - now)

    def _climbed(
        self, own: list[Unit], fixed: Choice, guess: Choice, seen: dict[str, str]
    ) -> list[tuple[Unit, Choice]] | None:
        """Choices found by how far the outputs are off."""
        given = {**guess, **fixed}
        for choices in itertools.islice(_combinations(own, fixed, self._until(_SOME)), _WAYS):
            merged = {**given, **{path: s for choice in choices for path, s in choice.items()}}
            if self._agrees(merged) is not None:
                return list(zip(own, choices))
            if clock() > self.deadline:
                return None
        until = self.deadline if self.climbing is None else min(self.deadline, clock() + self.climbing)
        found = climb(own, fixed, lambda c: self._off({**given, **c}), self.records.tolerance, until)
        return None if found is None else list(zip(own, found))

    def _off(self, chosen: Choice) -> float:
        """How far outputs are off, as a share of their size: the mean square, its root."""
        total, count = 0.0, 0
        for ref in self.outputs:
            value = self.replay.value(*made_by(ref)[:1], chosen, made_by(ref)[1])
            if value.dtype.kind != "f" or not value.size:
                continue
            near = [
                float(np.mean((view.read(record, value.shape) - value) ** 2)) / max(float(np.var(record)), 1e-30)
                for name, record in self.records.arrays.items()
                if name.startswith("output/") and record.size == value.size
                for view in layouts(record.shape, value.shape, ())[:4]
            ]
            if near:
                total, count = total + min(near), count + 1
        made = math.sqrt(total / count) if count else math.inf
        return made if math.isfinite(made) else 1e30

    def _recorded(self, place: int, chosen: Choice) -> str | None:
        if not self.records.has(int(np.prod(self.tape.entries[place].shape, dtype=np.int64))):
            return None
        value = self.replay.value(place, chosen)
        if value.dtype.kind != "f" or (found := self.records.find(value)) is None:
            return None
        return found.name

    def _agrees(self, chosen: Choice) -> str | None:
        """The port's outputs by name, where the reference gives them."""
        first: str | None = None
        count = 0
        names: set[str] = set()
        for ref in self.outputs:
            place, output = made_by(ref)
            value = self.replay.value(place, chosen, output)
            if value.dtype.kind != "f" or not tells(value, self.records.tolerance):
                continue
            count += 1
            found = {f.name for f in self.records.all(value) if f.name.startswith("output/")}
            names |= found
            first = first or next(iter(sorted(found)), None)
        return first if len(names) >= min(len(self.wanted), count) else None


def _kind(unit: Unit) -> object:
    """Equal for units that one convention decides, whose alternatives are as many."""
    return (unit.kind, len(unit.choices)) if unit.kind else unit.paths


def _fused(source: Source) -> bool:
    """Whether it is one of two to four maps that are kept as one array."""
    view = source.parts[0].view
    return view.cut is not None or (bool(view.take) and view.shape is not None and view.shape[view.take[-1][0]] <= 4)


def _different(choices: list[Choice]) -> list[Choice]:
    """One choice of each value of an array."""
    made: dict[object, Choice] = {}
    for choice in choices:
        for source in choice.values():
            made.setdefault((source.names, source.key), choice)
    return list(made.values())


def _combinations(units: list[Unit], fixed: Choice, deadline: float) -> Iterator[list[Choice]]:
    """One choice for each unit, none of them twice: first alike for units of a kind, then any."""
    kinds: dict[object, list[int]] = {}
    for i, unit in enumerate(units):
        kinds.setdefault((unit.kind, len(unit.choices)) if unit.kind else i, []).append(i)
    groups = list(kinds.values())
    seen: set[tuple[int, ...]] = set()
    if any(len(group) > 1 for group in groups):
        rows = itertools.product(*(range(len(units[group[0]].choices)) for group in groups))
        for row in itertools.islice(rows, _WAYS):
            index = [0] * len(units)
            for group, number in zip(groups, row):
                for i in group:
                    index[i] = number
            seen.add(tuple(index))
            choices = [unit.choices[i] for unit, i in zip(units, index)]
            if not any(clash(a, b) for a, b in itertools.combinations(choices, 2)):
                yield choices
    chosen: list[Choice] = []
    stack: list[Iterator[tuple[int, Choice]]] = [iter(enumerate(units[0].choices))]
    index_: list[int] = []
    while stack:
        if clock() > deadline:
            return
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            if chosen:
                chosen.pop()
                index_.pop()
            continue
        number, choice = step
        if any(clash(choice, other) for other in chosen) or clash(choice, fixed):
            continue
        if len(chosen) + 1 == len(units):
            if (*index_, number) not in seen:
                yield [*chosen, choice]
            continue
        chosen.append(choice)
        index_.append(number)
        stack.append(iter(enumerate(units[len(chosen)].choices)))
