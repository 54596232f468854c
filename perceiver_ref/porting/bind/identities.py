"""What gradients say about parameters exactly, without any forward pass: equations that hold whatever the inputs are.

A loss does not change when queries are multiplied by a matrix and keys by the inverse of it, in each head; likewise
values and the map of the output, and a norm's channels and the maps that read them. So for parameters W, gradients G:

    attention, each head      Wq^T Gq + bq gq^T = (Wk^T Gk + bk gk^T)^T        Wv^T Gv + bv gv^T = Go Wo^T
    norm with its readers i   scale * g_scale + offset * g_offset = sum_i rowsum(W_i * G_i)
    factor of a gated layer   colsum(W * G) + b * g = rowsum(Wo * Go)
    the norm's offset         g_offset = sum_i W_i g_i                         g_i: the gradient of the bias of W_i
    values' bias              g_v = Wo g_o                  where the weights of each query sum to one

Which parameters take part is read off a run of the reference. Each equation but the last two is a sum, with a term for
each array, that is zero: what may be together is found by meeting in the middle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .sources import Source
from .tape import Entry, Tape, argument_paths, places_of

_ROUNDING = 1e-9
"""Of sums of some thousand products in float64, as a share of their terms."""
_CHUNK = 4096
"""Sums that are looked at together."""
Term = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From a parameter's value and gradient to its part in a sum."""
_PASSED = frozenset({"reshape", "transpose"})


@dataclass(frozen=True)
class Identity:
    """A sum over parameters that is zero: a term for each path."""

    kind: str
    terms: Mapping[str, Term]


@dataclass(frozen=True)
class Product:
    """A gradient that is the sum of W g_b over maps with weight W and bias b: for biases that sums leave open."""

    total: str
    """The path whose gradient is the sum."""
    readers: tuple[tuple[str, str], ...]
    """Weight and bias."""


def identities(tape: Tape) -> tuple[list[Identity], list[Product]]:
    """The equations that hold for the ops of a tape."""
    graph = _Graph(tape)
    found: dict[tuple[str, tuple[str, ...]], tuple[int, Identity]] = {}
    products: dict[Product, None] = {}
    for place, entry in enumerate(tape.entries):
        if place not in graph.live:
            continue
        rows: list[Identity | None] = []
        if entry.op.name == "attention":
            rows = [_queries(graph, entry), _values(graph, place, entry)]
            if (made := _value_bias(graph, place, entry)) is not None:
                products[made] = None
        elif entry.op.name == "multiply":
            rows = [_gated(graph, place, part) for part in entry.arguments[:2]]
        elif entry.op.name in ("layer_norm", "rms_norm"):
            rows = [_norm(graph, place, entry)]
            if (made := _offset(graph, place, entry)) is not None:
                products[made] = None
        for row in rows:
            if row is not None:
                key = (row.kind, tuple(row.terms))
                found[key] = (found.get(key, (0, row))[0] + 1, row)
    sums = [row for count, row in found.values() if all(graph.uses[p] == count for p in row.terms)]
    kept = {tuple(sorted(row.terms)) for row in sums}
    covered = set().union(*kept) if kept else set()
    alone = [row for row in products if {row.total, *(w for w, _ in row.readers)} <= covered]
    return sums, alone


def sound(
    sums: Sequence[Identity],
    products: Sequence[Product],
    params: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
) -> tuple[list[Identity], list[Product]]:
    """Those that hold for parameters and gradients of the reference's own: a tape does not say all of a gradient."""
    kept = []
    for row in sums:
        terms = [np.ravel(term(params[path], gradients[path])) for path, term in row.terms.items()]
        if _zero(sum(terms), terms):
            kept.append(row)
    alone = []
    for made in products:
        terms = [-(params[weight] @ gradients[bias]) for weight, bias in made.readers]
        if _zero(sum(terms, gradients[made.total]), [*terms, gradients[made.total]]):
            alone.append(made)
    return kept, alone


def _zero(total: Any, terms: Sequence[np.ndarray]) -> bool:
    size = sum(float(np.abs(term).max(initial=0.0)) for term in terms)
    return bool(np.abs(total).max(initial=0.0) <= _ROUNDING * size)


class _Graph:
    """Who reads what on a tape."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.readers: dict[int, list[int]] = {}
        self.uses: dict[str, int] = {}
        for place, entry in enumerate(tape.entries):
            for before in dict.fromkeys(places_of(entry.arguments)):
                self.readers.setdefault(before, []).append(place)
        self.last = {r.place for r in tape.outputs.values() if hasattr(r, "place")}
        self.live: set[int] = set(self.last)
        for place in range(len(tape.entries) - 1, -1, -1):
            if place in self.live:
                self.live |= set(places_of(tape.entries[place].arguments))
                for path in argument_paths(tape.entries[place]):
                    self.uses[path] = self.uses.get(path, 0) + 1

    def linear_before(self, argument: Any) -> Entry | None:
        """The linear map of a parameter that an argument is, but for its shape."""
        while hasattr(argument, "place"):
            entry: Entry = self.tape.entries[argument.place]
            if argument.place in self.last or not self._only(argument.place):
                return None
            if entry.op.name == "linear" and argument_paths(entry) and hasattr(entry.arguments[1], "path"):
                return entry
            if entry.op.name not in _PASSED:
                return None
            argument = entry.arguments[0]
        return None

    def _only(self, place: int) -> bool:
        """Whether one op alone reads a value, but for those that only show something."""
        return len(self.after(place)) == 1

    def after(self, place: int) -> list[int]:
        """The ops that read a value on its way to an output."""
        return [reader for reader in self.readers.get(place, []) if reader in self.live]

    def linear_after(self, place: int) -> Entry | None:
        """The linear map of a parameter that alone reads a value, but for its shape."""
        while place not in self.last:
            readers = self.after(place)
            if len(readers) != 1:
                return None
            place = readers[0]
            entry = self.tape.entries[place]
            if entry.op.name == "linear":
                return entry if hasattr(entry.arguments[1], "path") else None
            if entry.op.name not in _PASSED:
                return None
        return None


def _shape(graph: _Graph, argument: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = graph.tape.entries[argument.place].shape
    return shape


def _linear_paths(entry: Entry) -> tuple[str, str | None]:
    paths = argument_paths(entry)
    return paths[0], paths[1] if len(paths) > 1 else None


def _per_head(shared: int, width: int, sign: float, transposed: bool) -> tuple[Term, Term]:
    """W^T G and b g^T of each head of keys, for maps onto heads: (shared, width, width)."""

    def weight(w: np.ndarray, g: np.ndarray) -> np.ndarray:
        rows = (x.reshape(len(x), shared, -1, width).transpose(1, 0, 2, 3).reshape(shared, -1, width) for x in (w, g))
        a, b = rows
        made: np.ndarray = sign * (a.transpose(0, 2, 1) @ b)
        return made.transpose(0, 2, 1) if transposed else made

    def bias(b: np.ndarray, g: np.ndarray) -> np.ndarray:
        return weight(b[None], g[None])

    return weight, bias


def _queries(graph: _Graph, entry: Entry) -> Identity | None:
    q, k = (graph.linear_before(argument) for argument in entry.arguments[:2])
    if q is None or k is None or q is k:
        return None
    width = _shape(graph, entry.arguments[0])[-1]
    shared = k.shape[-1] // width
    terms: dict[str, Term] = {}
    for made, sign, turned in ((q, 1.0, False), (k, -1.0, True)):
        of_weight, of_bias = _per_head(shared, width, sign, turned)
        weight, bias = _linear_paths(made)
        terms[weight] = of_weight
        if (
            bias is not None and made is q
        ):  # all weights of a query stay as they are when a number is added to all scores
            terms[bias] = of_bias
    return Identity("queries", terms)


def _values(graph: _Graph, place: int, entry: Entry) -> Identity | None:
    v, out = graph.linear_before(entry.arguments[2]), graph.linear_after(place)
    if v is None or out is None:
        return None
    width = _shape(graph, entry.arguments[2])[-1]
    shared = v.shape[-1] // width
    of_weight, of_bias = _per_head(shared, width, 1.0, False)
    weight, bias = _linear_paths(v)
    terms: dict[str, Term] = {weight: of_weight}
    if bias is not None:
        terms[bias] = of_bias
    inner, _ = _per_head(shared, width, -1.0, True)
    terms[_linear_paths(out)[0]] = lambda w, g: inner(np.ascontiguousarray(w.T), np.ascontiguousarray(g.T))
    return Identity("values", terms)


def _value_bias(graph: _Graph, place: int, entry: Entry) -> Product | None:
    v, out = graph.linear_before(entry.arguments[2]), graph.linear_after(place)
    if v is None or out is None:
        return None
    (_, bias), (weight, shift) = _linear_paths(v), _linear_paths(out)
    grouped = v.shape[-1] != _shape(graph, out.arguments[0])[-1]
    return None if bias is None or shift is None or grouped else Product(bias, ((weight, shift),))


def _gated(graph: _Graph, place: int, argument: Any) -> Identity | None:
    """Channels of a gated layer, which are linear in one of the two factors: from a map to a map."""
    first, out = graph.linear_before(argument), graph.linear_after(place)
    if first is None or out is None or first.shape != graph.tape.entries[place].shape or _moves(graph, argument):
        return None
    if _shape(graph, out.arguments[0]) != first.shape:
        return None
    weight, bias = _linear_paths(first)
    terms: dict[str, Term] = {weight: lambda w, g: (w * g).sum(axis=0)}
    if bias is not None:
        terms[bias] = lambda b, g: b * g
    terms[_linear_paths(out)[0]] = lambda w, g: -(w * g).sum(axis=1)
    return Identity("gated", terms)


def _moves(graph: _Graph, argument: Any) -> bool:
    return hasattr(argument, "place") and graph.tape.entries[argument.place].op.name != "linear"


def _readers(graph: _Graph, place: int) -> list[Entry] | None:
    readers = [graph.tape.entries[r] for r in graph.after(place)]
    fine = readers and place not in graph.last
    if not fine or not all(
        r.op.name == "linear" and hasattr(r.arguments[1], "path") and not hasattr(r.arguments[0], "path")
        for r in readers
    ):
        return None
    return readers


def _norm(graph: _Graph, place: int, entry: Entry) -> Identity | None:
    readers, own = _readers(graph, place), argument_paths(entry)
    if readers is None or not own:
        return None
    terms: dict[str, Term] = {path: lambda w, g: w * g for path in own}
    for reader in readers:
        terms[_linear_paths(reader)[0]] = lambda w, g: -(w * g).sum(axis=1)
    return Identity("norm", terms)


def _offset(graph: _Graph, place: int, entry: Entry) -> Product | None:
    readers, own = _readers(graph, place), argument_paths(entry)
    if readers is None or len(own) < 2 or not all(len(argument_paths(r)) == 2 for r in readers):
        return None
    return Product(own[1], tuple((w, b or "") for w, b in map(_linear_paths, readers)))


class Gradients:
    """The port's gradients as sources read them, and what they add to an identity."""

    def __init__(self, gradients: Mapping[str, np.ndarray]) -> None:
        self.arrays = {n: np.asarray(a, np.float64) for n, a in gradients.items() if a.dtype.kind == "f"}
        single = any(a.dtype.itemsize < 8 for a in gradients.values())
        self.tolerance = 2e-3 if single else 1e-7
        self._read: dict[int, tuple[Source, np.ndarray | None]] = {}
        self._terms: dict[tuple[int, int], tuple[Term, np.ndarray | None]] = {}

    def of(self, source: Source) -> np.ndarray | None:
        """The gradient of what a source reads; None where the port has none."""
        if id(source) not in self._read:
            made: np.ndarray | None = None
            if not source.parts:
                made = np.zeros(source.shape)
            elif set(source.names) <= set(self.arrays):
                parts = [part.read(self.arrays) for part in source.parts]
                made = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=source.axis)
            self._read[id(source)] = (source, made)
        return self._read[id(source)][1]

    def term(self, term: Term, source: Source) -> np.ndarray | None:
        """A source's part in an identity, flat."""
        key = (id(term), id(source))
        if key not in self._terms:
            gradient = self.of(source)
            made = None if gradient is None else np.ravel(term(np.ascontiguousarray(source.value), gradient))
            self._terms[key] = (term, made)
        return self._terms[key][1]


def meet(columns: Sequence[np.ndarray], tolerance: float, most: int) -> list[tuple[int, ...]] | None:
    """The choices of a row from each (n_i, d) that sum to zero; None where there are too many to look at."""
    if any(not len(column) for column in columns):
        return []
    scale = max(float(np.abs(column).max(initial=0.0)) for column in columns)
    if scale == 0:
        return None
    limit = tolerance * scale
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(columns[0].shape[1])
    split = _split([len(column) for column in columns])
    sides = []
    for indices in (split, [i for i in range(len(columns)) if i not in split]):
        count = int(np.prod([len(columns[i]) for i in indices])) if indices else 1
        if count > 1_000_000:
            return None
        total = np.zeros(1)
        for i in indices:
            total = (total[:, None] + (columns[i] @ direction)[None, :]).ravel()
        sides.append((indices, total))
    (left, a), (right, b) = sides
    order = np.argsort(b)
    sorted_b = b[order]
    reach = limit * float(np.abs(direction).sum())
    first, last = np.searchsorted(sorted_b, -a - reach), np.searchsorted(sorted_b, -a + reach, side="right")
    if int((last - first).sum()) > most * 200:
        return None
    pairs = np.repeat(np.arange(len(a)), last - first)
    others = order[_ranges(first, last)]
    rows = np.empty((len(pairs), len(columns)), np.int64)
    for indices, flat in ((left, pairs), (right, others)):
        counts = [len(columns[i]) for i in indices]
        if indices:
            rows[:, indices] = np.stack(np.unravel_index(flat, counts), axis=1)
    largest = [np.abs(column).max(axis=1, initial=0.0) for column in columns]
    made: list[np.ndarray] = []
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        total = np.sum([column[some[:, k]] for k, column in enumerate(columns)], axis=0)
        size = np.sum([each[some[:, k]] for k, each in enumerate(largest)], axis=0)
        made.append(some[np.abs(total).max(axis=1) <= tolerance * np.maximum(size, 1e-3 * scale)])
        if sum(map(len, made)) > most:
            return None
    found: list[tuple[int, ...]] = sorted(tuple(row) for some in made for row in some.tolist())
    return found


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The whole numbers from each first to before its last, one after the other."""
    counts = last - first
    made: np.ndarray = np.arange(int(counts.sum())) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    return made


def _split(counts: list[int]) -> list[int]:
    """Some of the columns, so that both halves have about as many sums."""
    best: tuple[float, list[int]] = (float("inf"), [0])
    logs = np.log(np.maximum(counts, 1))
    for number in range(1, len(counts)):
        for indices in itertools.combinations(range(len(counts)), number):
            inside = float(sum(logs[i] for i in indices))
            apart = max(inside, float(logs.sum()) - inside)
            if apart < best[0]:
                best = (apart, list(indices))
    return best[1]
