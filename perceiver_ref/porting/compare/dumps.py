"""Comparing two dumps of intermediate values: what belongs together, how the error grows, where it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ...autograd.backend import to_host
from ...autograd.core import array_of
from ...errors import InputError
from ...host import json_text
from ...host.files import AnyPath
from ...host.progress import steps
from ...peers import peer
from ...peers.base import Given, Rebuilt
from ...peers.reference import NAME as REFERENCE
from ...weights.formats.opcodes import shown
from ..cases import TOLERANCES
from ..cases.case import is_tolerance
from ..cases.compare import coarsest, difference, largest_difference, not_finite, passes
from ..dumps import Printed, read_held
from .layouts import in_layout_of, same_shape_transposed
from .matching import Match, Translate, match
from .naming import elsewhere, told_apart
from .printed import (
    Statistic,
    cornered_entries,
    edge_of,
    entry_of,
    fitting,
    in_whole,
    nearest,
    pair_of,
    remarks,
    same_shape,
    statistics,
)
from .values import Entry, agreeing, parted

COMPARED = ("trace", "output", "grad_param", "grad_input")
"""The groups of keys of the vector format that are compared, in the order of the table."""
_OTHERS = ("param", "state", "input", "cotangent", "state_out", "output_as_run")


@dataclass
class Dump:
    """Arrays by name in the order of the file, and how a case's peer is translated (None: by our names, or unknown)."""

    path: str
    entries: list[Entry]
    peer: Rebuilt | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def translate(self, name: str) -> list[str]:
        """Our names for one of the peer's points; none where there is no counterpart.

        Of the reference itself every name could be one: those are that begin as one that is there.
        """
        if self.meta.get("peer") == REFERENCE and _part(name) not in self._parts:
            return []
        try:
            return self.peer.point(name) if self.peer else [name]
        except InputError:
            return []

    @cached_property
    def _parts(self) -> frozenset[str]:
        """How names begin: with the parts of the model."""
        return frozenset(_part(entry.name) for entry in self.entries)


def _part(name: str) -> str:
    return name.replace("/", ".").partition(".")[0]


@dataclass(frozen=True)
class Compared:
    """One pair: its error as `difference` has it, the tolerance, and the place of the largest difference.

    `candidate` is the array in the reference's layout, None where it has no such layout; `ratio` is the error divided
    by that of the pair before, None where that makes no sense; `note` says what else is to be known. `measures`,
    `found` and `missed` are as `Agreement` has them, where they were asked for (`measured`).
    """

    name: str
    other: str
    how: str
    reference: np.ndarray
    candidate: np.ndarray | None
    dtypes: tuple[str, str]
    largest: float
    error: float
    tolerance: float
    ratio: float | None
    index: tuple[int, ...] | None
    note: str
    corners_of: tuple[int, ...] | None = None
    """The shape of the whole array, where `reference` and `candidate` are its corners, as one of them is printed."""
    measures: Mapping[str, float] = field(default_factory=dict)
    found: tuple[tuple[str, str], ...] = ()
    missed: tuple[str, ...] | None = None
    heads: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole array, in the reference."""
        return self.reference.shape if self.corners_of is None else self.corners_of

    @property
    def place(self) -> tuple[int, ...] | None:
        """`index` in the whole array."""
        return self.index and in_whole(self.index, self.reference.shape, self.shape)

    @property
    def passed(self) -> bool:
        """Whether the two arrays agree."""
        return passes(self.error, self.tolerance, self.missed)


@dataclass
class Comparison:
    """All pairs in the order of computation, and what stayed alone."""

    reference: Dump
    candidate: Dump
    pairs: list[Compared]
    unmatched_reference: list[str]
    unmatched_candidate: list[str]
    missing: list[str]
    """Outputs and gradients of the reference that the candidate, which has others, lacks: a mismatch."""
    notes: list[str]
    elsewhere: frozenset[str] = frozenset()
    """Points in no pair whose names a peer knows that knows most of the other dump's as well: not recorded there."""

    @property
    def passed(self) -> bool:
        """Whether all pairs agree, nothing that should be there is missing, and most of the arrays are in a pair."""
        return not self.missing and not self.alone and all(pair.passed for pair in self.pairs)

    @property
    def alone(self) -> str:
        """The dump with fewer points, where most of those are in no pair: "reference" or "candidate", else ""."""
        sides = []
        for name, dump, alone in (
            ("candidate", self.candidate, self.unmatched_candidate),
            ("reference", self.reference, self.unmatched_reference),
        ):
            points = [e.label for e in dump.entries if e.group == "point" and e.label not in self.elsewhere]
            sides.append((len(points), name, len(set(points) & set(alone))))
        least, name, unmatched = min(sides, key=lambda side: side[0])
        return name if 2 * unmatched > least else ""

    @property
    def first(self) -> Compared | None:
        """The first pair that differs."""
        return next((pair for pair in self.pairs if not pair.passed), None)

    @property
    def before_first(self) -> Compared | None:
        """The pair just before the first that differs: there the two still agree."""
        return next((a for a, b in pairwise(self.pairs) if b is self.first), None)

    @property
    def worst(self) -> Compared:
        """The pair with the largest error."""
        return max(self.pairs, key=lambda pair: pair.error)


def read_dump(path: AnyPath) -> Dump:
    """`as_dump` of what a file or folder of any known format holds (`porting.dumps.FORMATS`)."""
    held = read_held(path)
    made = as_dump(held.arrays, str(path), held.dtypes)
    made.notes[:0] = held.notes
    return made


def as_dump(arrays: Mapping[str, Any], path: str, dtypes: Mapping[str, str] | None = None) -> Dump:
    """A dump: arrays by plain names, or under the keys `trace/`, `output/`, `grad_param/` and `grad_input/` of a case.

    `path` is the dump's name in messages, and `dtypes` are those that arrays had in a file, where other ones. Where a
    case's `meta` names a known peer the dump can translate its names; where that fails, a note says so.
    Raises `InputError` when there is nothing to compare.
    """
    printed = {name: array for name, array in arrays.items() if isinstance(array, Printed)}
    arrays = {n: printed[n].values if n in printed else to_host(array_of(array)) for n, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufU":
            raise InputError(f"{path}: {shown(name)!r} has dtype {array.dtype}; expected real numbers")
    meta_text = arrays.pop("meta", None)
    text = [name for name, array in arrays.items() if array.dtype.kind == "U"]
    groups = {name.partition("/")[0] for name in arrays if "/" in name}
    grouped = meta_text is not None or bool(groups & set(COMPARED))
    entries = []
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        if name in text or (grouped and rest and group in _OTHERS):
            continue
        known = grouped and rest and group in COMPARED
        of = (group, rest) if known else ("trace", name)
        entries.append(entry_of(*of, printed.get(name, array), (dtypes or {}).get(name, "")))
    entries.sort(key=lambda entry: COMPARED.index(entry.kind))  # stable: the given order within each
    if not entries:
        holds = f"only {', '.join(sorted(groups) or text)}" if arrays else "nothing"
        wanted = ", ".join(f"{group}/<name>" for group in COMPARED)
        raise InputError(f"{path} has no arrays to compare, it holds {holds}; expected plain names or {wanted}")
    made = Dump(path, entries)
    if text:
        made.notes.append(f"{path}: text is not compared: {', '.join(map(shown, text))}")
    if meta_text is not None:
        _add_meta(made, meta_text, arrays)
    return made


def compare_files(reference: AnyPath, candidate: AnyPath, tolerance: float | None = None) -> Comparison:
    """`compare_dumps` on two files."""
    return compare_dumps(read_dump(reference), read_dump(candidate), tolerance)


def compare_dumps(reference: Dump, candidate: Dump, tolerance: float | None = None) -> Comparison:
    """Match the arrays of two dumps and compare each pair.

    `tolerance` holds for all; by default it is that of the coarser dtype of the pair (`TOLERANCES`), or of the cases'
    own `meta`; integers must be equal. The order is the reference's, unless only the candidate has our names, whose
    order is that of computation. Raises `InputError` when nothing can be matched.
    """
    edge, given = edge_of(reference.entries, candidate.entries), (reference.entries, candidate.entries)
    if edge is not None:
        reference, candidate = (replace(d, entries=cornered_entries(d.entries, edge)) for d in (reference, candidate))
    near = agreeing(reference.entries, candidate.entries)
    candidate = replace(candidate, entries=parted(reference.entries, candidate.entries, {j for _, j in near}))
    reference = replace(reference, entries=parted(candidate.entries, reference.entries, {i for i, _ in near}))
    matches = match(
        reference.entries,
        candidate.entries,
        translate_reference=reference.translate if reference.peer else None,
        translate_candidate=candidate.translate if candidate.peer else None,
    )
    peers = [dump.translate for dump in (reference, candidate) if dump.peer]
    names = [[entry.name for entry in dump.entries] for dump in (reference, candidate)]
    matches = [
        m for m in matches if m.how != "order" or not told_apart((names[0][m.reference], names[1][m.candidate]), peers)
    ]
    if edge is not None:
        matches = fitting(matches, reference.entries, candidate.entries)
    if not matches:
        raise InputError(
            f"nothing in {reference.path} and {candidate.path} can be matched: no name is in both, and no shape; "
            f"such as {_described(reference)} and {_described(candidate)}"
        )
    notes = [*reference.notes, *candidate.notes, *_order(reference, candidate, matches)]
    pairs: list[Compared] = []
    previous: dict[str, float] = {}  # gradients do not grow out of points
    for found in steps(matches, "comparing pair"):
        a, b = reference.entries[found.reference], candidate.entries[found.candidate]
        if edge is not None:
            a, b, edge = pair_of(given[0][found.reference], given[1][found.candidate])
        limit = _tolerance(a, b, reference, candidate) if tolerance is None else tolerance
        with np.errstate(over="ignore", invalid="ignore"):
            pairs.append(_compared(a, b, found.how, limit, previous.get(a.group, 0.0)))
        previous[a.group] = pairs[-1].error
        if edge is not None:
            told = statistics(a, b, tolerance) if pairs[-1].candidate is not None else []
            said = "; ".join(filter(None, [pairs[-1].note, *remarks(a, b, edge, told)]))
            pairs[-1] = replace(pairs[-1], note=said, corners_of=a.shape)
            pairs += [_statistic(a, b, found.how, one) for one in told if not one.passed]
    alone = _alone(reference.entries, {m.reference for m in matches})
    others = _alone(candidate.entries, {m.candidate for m in matches})
    kinds = {entry.kind for entry in candidate.entries}
    return Comparison(
        reference,
        candidate,
        pairs,
        [entry.label for entry in alone],
        [entry.label for entry in others],
        [entry.label for entry in alone if entry.kind != "trace" and entry.kind in kinds],
        notes,
        _elsewhere(alone, candidate, peers) | _elsewhere(others, reference, peers),
    )


def _add_meta(dump: Dump, text: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    """What a case's meta is good for here: names and tolerances. A dump with a meta that says neither is one, too."""
    try:
        meta = json_text.parse(str(text)) if text.shape == () else None
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        dump.notes.append(f"{dump.path}: meta is no JSON object and says nothing")
        return
    dump.meta = meta
    name, cls = meta.get("peer"), meta.get("class")
    if not isinstance(name, str) or not isinstance(cls, str):
        return

    def shapes(*groups: str) -> dict[str, tuple[int, ...]]:
        return {n.partition("/")[2]: a.shape for n, a in arrays.items() if n.partition("/")[0] in groups}

    given = Given(meta.get("config", {}), shapes("input"), shapes("param", "state"), meta.get("call", {}))
    try:
        dump.peer = peer(name).rebuild(cls, given)
    except InputError as error:
        dump.notes.append(f"{dump.path}: its names are not translated to ours: {error}")


def _elsewhere(alone: Sequence[Entry], other: Dump, peers: Sequence[Translate]) -> frozenset[str]:
    """The traced points of `alone` that `Comparison.elsewhere` tells of."""
    points = [entry.name for entry in alone if entry.kind == "trace"]
    known = elsewhere(points, [entry.name for entry in other.entries if entry.kind == "trace"], peers)
    return frozenset(entry.label for entry in alone if entry.kind == "trace" and entry.name in known)


def _order(reference: Dump, candidate: Dump, matches: list[Match]) -> list[str]:
    """Sort matches by the order of computation; a note when the dumps disagree about it."""
    places = [m.candidate for m in matches]
    if places == sorted(places):
        return []
    if reference.peer and not candidate.peer and any(m.how == "translated" for m in matches):
        matches.sort(key=lambda m: m.candidate)
        return []
    if candidate.peer and not reference.peer:
        return []
    return [f"the two dumps have the same arrays in different orders; here they are in that of {reference.path}"]


def _tolerance(a: Entry, b: Entry, reference: Dump, candidate: Dump) -> float:
    """By the coarser dtype, or what a case's own meta allows; integers and truth values must be equal."""
    kind = "gradient" if a.kind.startswith("grad") else "output"
    names = [entry.dtype for entry in (a, b) if entry.array.dtype.kind == "f"]
    if not names:
        return 0.0
    default = TOLERANCES[coarsest(*names)][kind]
    own = [dump.meta.get("tolerance") for dump in (reference, candidate)]
    stated = [t.get(kind) for t in own if isinstance(t, dict)]
    return max((float(t) for t in stated if t is not None and is_tolerance(t)), default=default)


def _compared(a: Entry, b: Entry, how: str, tolerance: float, previous: float) -> Compared:
    layout = in_layout_of(b.array, a.array) if same_shape(a.shape, b.shape) or not (a.printed or b.printed) else None
    dtypes = (a.dtype, b.dtype)
    if layout is None:
        note = f"shape {list(a.shape)} in the reference, {list(b.shape)} in the candidate"
        return Compared(a.label, b.label, how, a.array, None, dtypes, np.inf, np.inf, tolerance, None, None, note)
    layout = layout._replace(array=nearest(layout.array, a, b))
    error = _error(layout.array, a.array)
    notes = [layout.said] if layout.said else []
    index, largest = _largest(layout.array, a.array)
    notes += not_finite(a.array, layout.array, ("reference", "candidate"))
    if error > tolerance and not layout.said and (said := same_shape_transposed(layout.array, a.array, tolerance)):
        notes.append(f"agrees with {said}")
    ratio = error / previous if np.isfinite([error, previous]).all() and previous > 0 else None
    return Compared(
        a.label,
        b.label,
        how,
        a.array,
        layout.array,
        dtypes,
        largest,
        error,
        tolerance,
        ratio,
        index,
        "; ".join(notes),
    )


def _statistic(a: Entry, b: Entry, how: str, found: Statistic) -> Compared:
    """A sum or the like that differs: it tells of the elements that are not shown."""
    off, scale = abs(found.candidate - found.reference), max(abs(found.reference), 1.0)
    off = off if np.isfinite(off) else np.inf
    return Compared(
        f"{a.label} ({found.what})",
        f"{b.label} ({found.what})",
        how,
        np.array(found.reference),
        np.array(found.candidate),
        (a.dtype, b.dtype),
        off,
        off / scale,
        found.limit / scale,
        None,
        (),
        f"the {found.what} of all elements: others than those that are shown differ",
    )


def _error(candidate: np.ndarray, reference: np.ndarray) -> float:
    """`difference`, and of integers also when float64 cannot tell them apart."""
    error = difference(candidate, reference)
    if error == 0.0 and candidate.dtype.kind in "biu" and reference.dtype.kind in "biu":
        return 0.0 if np.array_equal(candidate, reference) else float(np.finfo(np.float64).eps)
    return error


def _largest(candidate: np.ndarray, reference: np.ndarray) -> tuple[tuple[int, ...] | None, float]:
    """(place, size) of the largest difference; that of a value that only one side has as NaN or infinity is inf."""
    if not reference.size:
        return None, 0.0
    place = largest_difference(reference, candidate)
    a, b = float(reference[place]), float(candidate[place])
    return place, 0.0 if a == b else abs(a - b) if np.isfinite([a, b]).all() else 0.0 if a != a and b != b else np.inf


def _alone(entries: Sequence[Entry], matched: set[int]) -> list[Entry]:
    return [entry for i, entry in enumerate(entries) if i not in matched]


def _described(dump: Dump) -> str:
    entry = dump.entries[0]
    return f"{entry.label} {list(entry.array.shape)}"
