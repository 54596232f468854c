"""Whole guesses of a port's conventions: its arrays in some order laid along the reference's parameters.

A port usually keeps one order for all its layers: of modules in a layer, of queries, keys, values and output in an
attention, of scale and offset in a norm; and fuses the same maps everywhere. A guess is one choice of each. It says
which array is which parameter; which way it is read is left open where shapes do not say, as alternatives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, permutations, product

from .sources import Pool, Source

Choice = dict[str, Source]
_PARTS = ("query", "key", "value", "output")
_Fusion = tuple[tuple[str, ...], tuple[str, ...]]
_WHOLE = ("weight", "bias")
_FUSIONS: tuple[_Fusion, ...] = (
    ((), _WHOLE),
    (("query", "key", "value"), _WHOLE),
    (("key", "value"), _WHOLE),
    (("query", "key", "value"), ("bias",)),
)
"""Maps that are kept as one array, and whether both their weights and their biases are: PyTorch's
`MultiheadAttention` of keys and values of a width of their own has their biases alone as one."""
_GATED = ("gate", "hidden")
_MAPS = ("hidden", "gate", "output")
_UNUSUAL = 2.5
"""How much of an order may differ from ours."""
_OFTEN = 200
_MIXED, _FEW_ABSENT, _COURSES = 5, 5, 8
"""Attentions of which each may be fused in its own way, and how many of the others' choices are then gone through."""
_QKV = ("query/bias", "key/bias", "value/bias")
_ABSENT: tuple[frozenset[str], ...] = tuple(
    frozenset((*maps, *offsets))
    for offsets in ((), ("offset",))
    for maps in (
        (),
        ("key/bias",),
        _QKV,
        (*_QKV, "output/bias"),
        ("bias",),
        (*_QKV, "mlp/bias"),
        (*_QKV, "output/bias", "mlp/bias"),
        ("mlp/bias",),
        ("output/bias",),
        ("query/bias",),
        ("query/bias", "key/bias"),
    )
)
"""What ports leave out, the likeliest first: biases of an attention's maps, of an MLP's, all, and offsets of norms."""


@dataclass(frozen=True)
class Unit:
    """Parameters of which it is decided together what they are read from."""

    paths: tuple[str, ...]
    choices: list[Choice]
    kind: tuple[object, ...] = ()
    """Equal for units that one convention decides."""


def natural(name: str) -> tuple[object, ...]:
    """A key that sorts numbers in names as numbers."""
    return tuple((1, int(part[:9]), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name))


def guesses(
    paths: Sequence[str], shapes: Mapping[str, tuple[int, ...]], pool: Pool, absent: Callable[[str], float | None]
) -> Iterator[list[Unit] | None]:
    """Units for all parameters, from the likeliest guess on; no two guesses lay the arrays alike.

    None comes now and then, for who waits to see the time.
    """
    names = list(pool.arrays)
    orders = list(dict.fromkeys((tuple(names), tuple(sorted(names, key=natural)))))
    reader = _Reader(shapes, pool, absent)
    seen: set[tuple[object, ...]] = set()
    for slots_of in _plans(paths, absent):
        exact = bool(slots_of.left_out) or slots_of.mixed
        if not slots_of.meant or not reader.counts(slots_of.slots((0, 1, 2, 3), _PARTS, False), names, exact):
            continue
        for number, (sections, course, parts, maps, turned) in enumerate(
            _courses()[: _COURSES if slots_of.mixed else None]
        ):
            if number % _OFTEN == 0:
                yield None
            slots = slots_of.slots(course, parts, turned, sections, maps)
            for order in orders:
                laid = reader.lay(slots, order)
                key = tuple(sorted(laid or ()))
                if laid is not None and key not in seen:
                    seen.add(key)
                    yield [reader.unit(slot, name) for slot, name in laid]


def _plans(paths: Sequence[str], absent: Callable[[str], float | None]) -> Iterator[_Slots]:
    """What is fused and what left out: alike for all attentions of a kind; then, of a few, for each its own."""
    for missing, fusion, cross, gated in product(_ABSENT, _FUSIONS, _FUSIONS, (False, True)):
        yield _Slots(paths, fusion, cross, gated, missing, absent)
    plain = _Slots(paths, _FUSIONS[0], _FUSIONS[0], False, frozenset(), absent)
    if 1 < len(plain.attentions) <= _MIXED:
        for missing, gated in product(_ABSENT[:_FEW_ABSENT], (False, True)):
            for fusions in product(_FUSIONS[:3], repeat=len(plain.attentions)):
                own = dict(zip(plain.attentions, fusions))
                if len({(_crosses(outer), each) for outer, each in own.items()}) > len(set(map(_crosses, own))):
                    yield _Slots(paths, fusions[0], fusions[0], gated, missing, absent, own)


_Course = tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...], tuple[str, ...], bool]


@lru_cache(maxsize=1)
def _courses() -> list[_Course]:
    """Orders of a model's sections, of a layer's parts, of an attention's and an MLP's, and whether offsets come first.

    Those that differ from ours in the fewest of these come first.
    """
    usual = (0, 1, 2, 3)
    layers = [order for order in permutations(usual) if order.index(0) < order.index(2)]
    rows = product(permutations(usual), layers, permutations(_PARTS), permutations(_MAPS), (False, True))

    def unusual(row: _Course) -> float:
        return (row[0] != usual) + (row[1] != usual) + (row[2] != _PARTS) + (row[3] != _MAPS) + 0.5 * row[4]

    return sorted((row for row in rows if unusual(row) <= _UNUSUAL), key=unusual)


class _Slots:
    """The reference's parameters in a port's order, those of fused maps together."""

    def __init__(
        self,
        paths: Sequence[str],
        fusion: _Fusion,
        cross: _Fusion,
        gated: bool,
        missing: frozenset[str],
        absent: Callable[[str], float | None],
        apiece: Mapping[str, _Fusion] | None = None,
    ) -> None:
        self.paths, self.mixed = paths, apiece is not None
        self.attentions: dict[str, list[str]] = {}
        for path in paths:
            outer, _, own = path.rpartition("/")[0].rpartition("/")
            if own in _PARTS:
                self.attentions.setdefault(outer, []).append(path)
        for outer in [
            o for o, rows in self.attentions.items() if not {"query", "key"} <= {p.split("/")[-2] for p in rows}
        ]:
            del self.attentions[outer]  # the output of an MLP, or a map to queries alone
        self.left_out = {p for p in paths if missing & self._kinds(p) and absent(p) is not None}
        self.fusion_of = apiece or {outer: cross if _crosses(outer) else fusion for outer in self.attentions}
        kinds = {_crosses(outer) for outer in self.attentions}
        gates = any(path.rpartition("/")[0].endswith("/gate") for path in paths)
        self.gated = gated
        self.layers: dict[str, list[list[str]]] = {}
        for path in paths:
            layer = self._layer(path)
            self.layers.setdefault(layer, [[], [], [], []])[self._group(layer, path)].append(path)
        self.sections = {layer: _section(layer) for layer in self.layers}
        inner = [i for i, layer in enumerate(self.layers) if self.sections[layer] in (1, 2)]
        for i, layer in enumerate(self.layers):
            if inner and i > inner[-1] and not self.sections[layer]:
                self.sections[layer] = 3  # as a norm of the latents at last
        self.meant = (
            (self.mixed or ((False in kinds or not fusion[0]) and (True in kinds or not cross[0])))
            and (gates or not gated)
            and (bool(self.left_out) or not missing)
        )

    def slots(
        self,
        course: Sequence[int],
        parts: Sequence[str],
        turned: bool,
        sections: Sequence[int] = (0, 1, 2, 3),
        maps: Sequence[str] = _MAPS,
    ) -> list[tuple[str, ...]]:
        """Tuples of paths: those that one array holds."""
        made: list[tuple[str, ...]] = []
        order = {section: i for i, section in enumerate(sections)}
        for _, groups in sorted(self.layers.items(), key=lambda row: order[self.sections[row[0]]]):
            for group in course:
                rows = groups[group]
                if group == 1:
                    made += self._attention(rows, parts)
                elif group == 3:
                    ordered = sorted(rows, key=lambda path: _number(path, maps))
                    made += _fused(ordered, _GATED) if self.gated else [(path,) for path in ordered]
                else:
                    made += [(path,) for path in _turned(rows, turned)]
        # what is left out of the port has no array
        return [slot for slot in made if not set(slot) <= self.left_out]

    def _kinds(self, path: str) -> set[str]:
        """By which of the names in `_ABSENT` a path may be left out."""
        module, _, last = path.rpartition("/")
        outer, _, own = module.rpartition("/")
        place = own if outer in self.attentions else "mlp" if outer.rpartition("/")[2].startswith(("mlp", "ff")) else ""
        return {last, f"{place}/{last}"}

    def _layer(self, path: str) -> str:
        """The layer around a module: that which has the attention."""
        outers = sorted((o.rpartition("/")[0] for o in self.attentions), key=len, reverse=True)
        return next((o for o in outers if not o or path.startswith(f"{o}/")), path.partition("/")[0])

    def _group(self, layer: str, path: str) -> int:
        outer = path.rpartition("/")[0].rpartition("/")[0]
        if outer in self.attentions:
            return 1
        own = (path.removeprefix(f"{layer}/") if layer else path).partition("/")[0]
        if path.endswith(("scale", "offset")):
            return 2 if own.startswith(("mlp", "ff")) else 0
        return 3 if own.startswith(("mlp", "ff")) else 0

    def _attention(self, rows: list[str], parts: Sequence[str]) -> list[tuple[str, ...]]:
        made: list[tuple[str, ...]] = []
        for outer in dict.fromkeys(path.rpartition("/")[0].rpartition("/")[0] for path in rows):
            (fused, which), within = self.fusion_of.get(outer, _FUSIONS[0]), f"{outer}/" if outer else ""
            done: set[str] = set()
            for name, last in product(parts, _WHOLE):
                together = fused if name in fused and last in which else (name,)
                found = tuple(p for t in together for p in (f"{within}{t}/{last}",) if p in rows and p not in done)
                made += [found] if len(found) == len(together) else [(p,) for p in found]
                done |= set(found)
            used = {p for slot in made for p in slot}
            made += [(p,) for p in rows if p not in used and p.rpartition("/")[0].rpartition("/")[0] == outer]
        return made


def _crosses(outer: str) -> bool:
    return "cross" in outer or "decoder" in outer


def _number(path: str, maps: Sequence[str]) -> int:
    """The place of an MLP's map in an order."""
    own = path.rpartition("/")[0].rpartition("/")[2]
    return maps.index(own) if own in maps else len(maps)


def _section(layer: str) -> int:
    """Of a layer: what is in none of the others, cross-attention, self-attention, what follows the latents."""
    if layer.startswith(("decoder", "output")):
        return 3
    if re.search(r"/\d+/", layer):  # each layer has both
        return 2
    return 1 if "cross" in layer else 2 if re.search(r"/\d+$", layer) else 0


def _fused(rows: list[str], names: Sequence[str]) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    for path in rows:
        module, _, last = path.rpartition("/")
        outer, _, own = module.rpartition("/")
        if own not in names:
            made.append((path,))
        elif not any(path in slot for slot in made):
            made.append(tuple(p for n in names for p in (f"{outer}/{n}/{last}",) if p in rows))
    return made


def _turned(rows: list[str], turned: bool) -> list[str]:
    """Offsets before scales, where a port has them so."""
    if not turned:
        return rows
    made: list[str] = []
    for module in dict.fromkeys(path.rpartition("/")[0] for path in rows):
        made += reversed([path for path in rows if path.rpartition("/")[0] == module])
    return made


class _Reader:
    """What one array may be read as, for the parameters of a slot."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], pool: Pool, absent: Callable[[str], float | None]
    ) -> None:
        self.shapes, self.pool, self.absent = shapes, pool, absent
        self._choices: dict[tuple[tuple[str, ...], str], list[Choice]] = {}
        self._by_name: dict[tuple[tuple[int, ...], str], list[Source]] = {}
        self._fits: dict[tuple[object, ...], bool] = {}
        self.items: dict[str, tuple[int, ...]] = {name: array.shape for name, array in pool.arrays.items()}
        self.axes = {name: sum(n > 1 for n in shape) for name, shape in self.items.items()}
        self.flat = max(self.axes.values(), default=0) < 2
        """Whether the port keeps everything as vectors."""
        self.transposed = self._votes() >= 0

    def _votes(self) -> int:
        votes = 0
        for path, shape in self.shapes.items():
            if path.endswith("weight") and len(shape) == 2 and shape[0] != shape[1]:
                moved = {s.parts[0].view.moved for s in self.pool.sources(shape, None) if len(s.parts) == 1}
                votes += 1 if moved == {True} else -1 if moved == {False} else 0
        return votes

    def sources(self, shape: tuple[int, ...], name: str) -> list[Source]:
        """The ways to read a parameter of this shape from an array."""
        key = (shape, name)
        if key not in self._by_name:
            rows: dict[str, list[Source]] = {}
            for s in self.pool.sources(shape, None):
                rows.setdefault(s.names[0], []).append(s) if len(s.parts) == 1 else None
            for each in self.pool.arrays:
                self._by_name[(shape, each)] = rows.get(each, [])
        return self._by_name[key]

    def fits(self, slot: tuple[str, ...], name: str) -> bool:
        """Whether an array is of the size of a slot, and can be read so."""
        wanted = tuple(self.shapes[path] for path in slot)
        key = (wanted, self.items[name])
        if self.axes[name] < 2 and not self.flat and any(min(shape, default=0) > 1 < len(shape) for shape in wanted):
            return False  # a vector that happens to be as large as a matrix
        if key not in self._fits:
            size = sum(_size(shape) for shape in wanted)
            self._fits[key] = size == _size(self.items[name]) and bool(self.choices(slot, name))
        return self._fits[key]

    def counts(self, slots: list[tuple[str, ...]], names: Sequence[str], exact: bool) -> bool:
        """Whether there is as much of every size as there are slots of it, or, `exact`, neither less nor more."""
        wanted: dict[int, int] = {}
        for slot in slots:
            size = sum(_size(self.shapes[path]) for path in slot)
            wanted[size] = wanted.get(size, 0) + 1
        given: dict[int, int] = {}
        for name in names:
            given[_size(self.items[name])] = given.get(_size(self.items[name]), 0) + 1
        if exact:
            return given == wanted
        return all(given.get(size, 0) >= count for size, count in wanted.items())

    def lay(self, slots: list[tuple[str, ...]], names: Sequence[str]) -> list[tuple[tuple[str, ...], str]] | None:
        """For each slot the first array in this order that fits and is not taken; None where one finds none."""
        left = list(names)
        made = []
        for slot in slots:
            found = next((name for name in left if self.fits(slot, name)), None)
            if found is None:
                return None
            left.remove(found)
            made.append((slot, found))
        taken = {path for slot in slots for path in slot}
        return made + [((path,), "") for path in self.shapes if path not in taken]

    def unit(self, slot: tuple[str, ...], name: str) -> Unit:
        """The alternatives of a slot that is read from an array, or from none."""
        if not name:
            zero = next(s for s in self.pool.sources(self.shapes[slot[0]], self.absent(slot[0])) if not s.parts)
            return Unit(slot, [{slot[0]: zero}])
        ends = tuple(path.rpartition("/")[0].rpartition("/")[2] for path in slot)
        choices = self.choices(slot, name)
        kind = (ends, self.items[name], *(self.shapes[p] for p in slot)) if len(choices) > 1 else ()
        return Unit(slot, choices, kind)

    def choices(self, slot: tuple[str, ...], name: str) -> list[Choice]:
        """Assignments of a slot, the likeliest first."""
        key = (slot, name)
        if key not in self._choices:
            self._choices[key] = self._made(slot, name)
        return self._choices[key]

    def _made(self, slot: tuple[str, ...], name: str) -> list[Choice]:
        rows = [self.sources(self.shapes[path], name) for path in slot]
        if len(slot) == 1:
            plain = [s for s in rows[0] if s.parts[0].view.plain]
            if len(self.shapes[slot[0]]) == 2:  # tables lie as they are
                turned = self.transposed and slot[0].endswith("weight")
                plain.sort(key=lambda s: s.parts[0].view.moved != turned)
            return [{slot[0]: s} for s in plain]
        made: list[tuple[object, Choice]] = []
        if all(self.shapes[p] == self.shapes[slot[0]] for p in slot):
            kinds: dict[object, dict[int, Source]] = {}
            for s in rows[0]:
                view = s.parts[0].view
                if view.fused is not None:
                    kinds.setdefault((view.fused, view.order, view.split), {}).setdefault(view.index, s)
            for number, parts in enumerate(kinds.values()):
                if len(parts) == len(slot):
                    for i, order in enumerate(permutations(sorted(parts))):
                        made.append(((i > 0, number, i), {p: parts[j] for p, j in zip(slot, order)}))
            made.sort(key=lambda row: (row[0][0] + (row[0][1] > 0), row[0]))  # type: ignore[index]
            return [row[1] for row in made]
        for number, combined in enumerate(product(*rows)):  # parts of unequal widths, one after the other
            cuts = [s.parts[0].view.cut for s in combined]
            if all(cut is not None for cut in cuts) and len({s.parts[0].view.order for s in combined}) == 1:
                spans = sorted(cut[1:] for cut in cuts if cut is not None)
                if spans[0][0] == 0 and all(a[1] == b[0] for a, b in pairwise(spans)):
                    made.append((number, dict(zip(slot, combined))))
        return [row[1] for row in made]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
