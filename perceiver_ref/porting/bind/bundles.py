"""Queries, keys and values of one attention taken together, for ports that record no more than what it gives.

They are parts of one array, or arrays near each other that are read alike; which part is which is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations, product

from .sources import Source

_NEAR = 8
"""Places in the port's order within which three arrays of one attention lie."""
PARTS = ("query", "key", "value")


def bundles(
    module: str, free: Sequence[str], sources: Callable[[str], list[Source]], order: Mapping[str, int], used: set[str]
) -> Iterator[dict[str, Source]]:
    """Assignments of all that is free of the maps to queries, keys and values of `module`."""
    weights = [f"{module}/{part}/weight" for part in PARTS]
    biases = [f"{module}/{part}/bias" for part in PARTS]
    if not set(weights) <= set(free):
        return
    with_bias = all(path in free for path in biases)
    for found in _triples([_fresh(sources(path), used) for path in weights], order):
        given = dict(zip(weights, found))
        if not with_bias:
            yield given
            continue
        rows = [_fresh(sources(path), used) for path in biases]
        for shifts in _beside(found, rows, order):
            yield {**given, **dict(zip(biases, shifts))}


def _fresh(sources: list[Source], used: set[str]) -> list[Source]:
    return [s for s in sources if len(s.parts) < 2 and not set(s.names) & used]


def _triples(rows: list[list[Source]], order: Mapping[str, int]) -> Iterator[tuple[Source, Source, Source]]:
    """Parts of one array in any order; two parts of one and another array; three arrays read alike."""
    fused = [_by_array(row) for row in rows]
    for key in dict.fromkeys(fused[0]):
        if key in fused[1] and key in fused[2]:
            a, b, c = (column[key] for column in (fused[0], fused[1], fused[2]))
            for i, j, k in permutations(sorted(set(a) & set(b) & set(c)), 3):
                yield a[i], b[j], c[k]
    plain = [[s for s in row if s.parts and s.parts[0].view.plain] for row in rows]
    for key in dict.fromkeys(fused[1]):
        if key in fused[2]:
            b, c = fused[1][key], fused[2][key]
            for q in sorted(plain[0], key=lambda s: abs(order[s.names[0]] - order[str(key[0])]))[:6]:
                for i, j in permutations(sorted(set(b) & set(c)), 2):
                    yield q, b[i], c[j]
    triples = []
    by_place: list[dict[int, list[Source]]] = [{}, {}, {}]
    for row, places_of in zip(plain, by_place):
        for s in row:
            places_of.setdefault(order[s.names[0]], []).append(s)
    for first in by_place[0]:
        window = range(first - _NEAR, first + _NEAR + 1)
        for second, third in product(window, window):
            places = (first, second, third)
            if len(set(places)) < 3 or max(places) - min(places) > _NEAR:
                continue
            for x, y, z in product(by_place[0][first], by_place[1].get(second, []), by_place[2].get(third, [])):
                if _alike(x, y) and _alike(y, z):
                    apart = max(places) - min(places) + (list(places) != sorted(places))
                    triples.append((apart, min(places), (x, y, z)))
    triples.sort(key=lambda row: row[:2])
    yield from (row[2] for row in triples)


def _by_array(sources: list[Source]) -> dict[tuple[object, ...], dict[int, Source]]:
    """By array and how it is split: the parts by number."""
    made: dict[tuple[object, ...], dict[int, Source]] = {}
    for s in sources:
        if s.parts and (fused := s.parts[0].view.fused) is not None:
            view = s.parts[0].view
            before = view.take[:-1]
            made.setdefault((s.names[0], fused, before, view.order, view.split), {}).setdefault(view.index, s)
    return made


def _alike(a: Source, b: Source) -> bool:
    x, y = a.parts[0].view, b.parts[0].view
    return (x.order, x.moved) == (y.order, y.moved)


def _beside(
    weights: Sequence[Source], rows: list[list[Source]], order: Mapping[str, int]
) -> Iterator[tuple[Source, ...]]:
    """Biases split as the weights are, of the array nearest to theirs; or an array each, nearest to each weight's."""
    split = [w.parts[0].view for w in weights]
    fused = [_by_array(row) for row in rows]
    near = order[weights[-1].names[0]]
    keys = sorted(
        dict.fromkeys(k for k in fused[0] if k in fused[1] and k in fused[2]),
        key=lambda k: abs(order[str(k[0])] - near),
    )
    indices = [view.index for view in split]
    numbers = indices if len(set(indices)) == 3 else [0, 1, 2]
    count = 0
    for key in keys:
        columns = [column[key] for column in fused]
        shape = key[1][0] if isinstance(key[1], tuple) else ()
        same = _kind(shape) == _kind((split[0].fused or ((),))[0]) or len(set(indices)) < 3
        if same and all(number in column for number, column in zip(numbers, columns)):
            yield tuple(column[number] for number, column in zip(numbers, columns))
            count += 1
            if count >= 3:
                break
    plain = [[s for s in row if not s.parts or s.parts[0].view.plain] for row in rows]
    nearest = [
        sorted(
            (s for s in row if s.parts),
            key=lambda s: (abs(order[s.names[0]] - order[w.names[0]] - 1), s.parts[0].view.moved),
        )[:2]
        for row, w in zip(plain, weights)
    ]
    for chosen in product(*nearest):
        if len({s.names for s in chosen}) == 3:
            yield chosen
    absent = [[s for s in row if not s.parts][:1] for row in plain]
    if all(absent):
        yield tuple(row[0] for row in absent)


def _kind(shape: object) -> int:
    """Where in a split shape the number of parts stands."""
    sizes = tuple(shape) if isinstance(shape, tuple) else ()
    return next((i for i, n in enumerate(sizes) if n in (2, 3)), 0)
