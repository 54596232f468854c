"""Fitting the names of a file to those of a class: wrappers' prefixes, and a tied parameter stored under two names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InputError, listed
from ...peers import Rebuilt
from .foreign import foreign_of
from .prefixes import Arrays, Rebuild, below, expected_of, fits, fitting

PREFIXES = ("module", "model", "_orig_mod")
"""First parts of names that are the wrapper's: of DataParallel, a LightningModule, torch.compile."""
INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that torch.compile, FSDP and activation checkpointing put anywhere into names."""

_AXES = 4
"""Of a tensor of ggml."""


@dataclass(frozen=True)
class Fitted:
    """A class, the arrays that a file holds for it by the class's own names, and what was done to get there.

    `tied` maps names that the file has, too, to the parameter that they share; `notes` are lines for the user.
    """

    rebuilt: Rebuilt
    arrays: Arrays
    tied: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fit(
    rebuild: Rebuild, arrays: Arrays, where: object, prefix: str | None = None, allow_unused: bool = False
) -> Fitted:
    """Rebuild the class that fits the arrays, without prefixes if only then every parameter is there.

    `rebuild` gives the class for arrays by name. Prefixes of wrappers are known; any other is found where below it
    alone every parameter is, as a part of a whole model has them, and what is elsewhere is left out. `prefix` says
    which it is ("": none); with `allow_unused` what is left over is listed in a note. Raises the `InputError` of
    `rebuild`, and one for several prefixes that fit, and for what is left over; what is missing or unfit is left to
    `Rebuilt.load`.
    """
    if prefix is not None:
        part = below(arrays, prefix, where)
        notes = [f"{where}: took the {len(part)} of {len(arrays)} arrays below {prefix!r}"] if prefix else []
        return _best(rebuild, part, where, notes, allow_unused, strip=bool(prefix)).fitted
    best = _best(rebuild, arrays, where, [], allow_unused)
    if best.whole and not best.stripped:
        return best.fitted
    inner = {_stripped_inside(name): array for name, array in arrays.items()}
    found = fitting(rebuild, inner if len(inner) == len(arrays) else arrays, best.rebuilt)
    if len(found) > 1:
        names = listed(map(repr, found), 6)
        raise InputError(f"{where}: every parameter is there below each of {names}; choose one (--prefix)")
    if not found or best.whole:
        return best.fitted
    (start,) = found
    part = {n.removeprefix(start): a for n, a in inner.items() if n.startswith(start)}
    elsewhere = [name for name in inner if not name.startswith(start)]
    notes = [f"{where}: took the {len(part)} of {len(arrays)} arrays below {start!r}, where every parameter is"]
    if elsewhere:
        notes.append(f"{where}: left out {len(elsewhere)} arrays elsewhere: {listed(elsewhere, 4)}")
    return _best(rebuild, part, where, notes, allow_unused, strip=False).fitted


@dataclass(frozen=True)
class _Best:
    """The fit of the candidates; whether every parameter is there, and whether a wrapper's prefix was left out."""

    outcome: Fitted | InputError
    rebuilt: Rebuilt | None = None
    whole: bool = False
    stripped: bool = False

    @property
    def fitted(self) -> Fitted:
        if isinstance(self.outcome, InputError):
            raise self.outcome
        return self.outcome


def _best(
    rebuild: Rebuild, arrays: Arrays, where: object, notes: list[str], allow_unused: bool, strip: bool = True
) -> _Best:
    """The first candidate in which every parameter is; else the closest, or the error of `rebuild`."""
    outcome: InputError | Fitted | None = None
    most = 0
    for renamed, note in _candidates(arrays, strip):
        try:
            rebuilt = rebuild(renamed)
        except InputError as error:
            outcome = outcome or error
            continue
        expected = expected_of(rebuilt)
        said = [*notes, f"{where}: {note}"] if note else notes
        if expected <= set(renamed):
            try:
                outcome = _whole(rebuilt, renamed, where, said, allow_unused)
            except InputError as error:
                outcome = error
            return _Best(outcome, rebuilt, True, "at the start" in note)
        common = len(expected & set(renamed))
        if outcome is None or common > most:  # the closest: fewest names are reported as missing
            outcome, most = Fitted(rebuilt, renamed, notes=tuple(said)), common
    known = outcome.rebuilt if isinstance(outcome, Fitted) else None
    return _Best(outcome or InputError(f"{where} holds no arrays"), known)


def _whole(rebuilt: Rebuilt, arrays: Arrays, where: object, notes: list[str], allow_unused: bool) -> Fitted:
    """The arrays that a class uses, where all that it needs are there."""
    expected = expected_of(rebuilt)
    foreign = {name: held for name, array in arrays.items() if (held := foreign_of(array))}
    if unread := sorted(expected & set(foreign)):
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise InputError(f"{where}: parameter {unread[0]!r}{more} cannot be read: it holds {foreign[unread[0]].why}")
    if objects := [name for name, held in foreign.items() if not held.tensor]:
        notes = [*notes, f"{where}: left out what are no tensors: {listed(objects)}"]
    kept, tied = _without_aliases(rebuilt, {n: a for n, a in arrays.items() if n not in objects}, expected)
    notes = [*notes, *(f"{where}: {alias} is tied to {name}, whose values it has" for alias, name in tied.items())]
    if str(where).endswith(".gguf") and (leading := _with_leading_ones(rebuilt, kept)):
        kept |= leading
        notes = [*notes, f"{where}: gave {listed(leading)} leading axes of 1, which ggml does not store"]
    endings = tuple(rebuilt.ignored)
    unused = sorted(name for name in set(kept) - expected if not (endings and name.endswith(endings)))
    if unused and allow_unused:
        notes.append(f"{where}: left out {len(unused)} arrays that the class has no use for: {listed(unused)}")
        kept = {name: array for name, array in kept.items() if name not in set(unused)}
    elif unused and all(fits(b, kept[b.name]) for b in (*rebuilt.bindings, *rebuilt.state)):
        raise InputError(
            f"{where}: the parameters do not fit the configuration; unused: {listed(unused)}; "
            "--allow-unused leaves them out"
        )
    return Fitted(rebuilt, kept, tied, tuple(notes))


def _with_leading_ones(rebuilt: Rebuilt, arrays: Arrays) -> Arrays:
    """Arrays that fit once axes of length 1 are before theirs."""
    found: Arrays = {}
    for binding in (*rebuilt.bindings, *rebuilt.state):
        array = arrays[binding.name]
        if not fits(binding, array):
            more = (array.reshape((1,) * n + array.shape) for n in range(1, _AXES + 1 - array.ndim))
            if (whole := next((a for a in more if fits(binding, a)), None)) is not None:
                found[binding.name] = whole
    return found


def _candidates(arrays: Arrays, strip: bool) -> Iterator[tuple[Arrays, str]]:
    """The arrays as they are named, then with ever more prefixes left out (`strip`), and what to say of each."""
    yield arrays, ""
    names = {name: name for name in arrays}
    inner = {name: _stripped_inside(name) for name in arrays}
    left_out: list[str] = []
    if inner != names:
        left_out.append(f"{_parts(arrays)} anywhere")
        names = inner
        yield from _named(arrays, names, left_out)
    while strip:
        prefix = _common_prefix(names)
        if prefix is None:
            return
        outside = [name for name, new in names.items() if not new.startswith(f"{prefix}.")]
        counters = [name for name in outside if not arrays[name].shape and arrays[name].dtype.kind in "biu"]
        names = {name: new for name, new in names.items() if name not in counters}
        left_out += [f"{prefix}. at the start", *(f"the wrapper's {name}" for name in counters)]
        names = {name: new.removeprefix(f"{prefix}.") for name, new in names.items()}
        yield from _named(arrays, names, left_out)


def _common_prefix(names: Mapping[str, str]) -> str | None:
    """The known prefix that most names begin with, if any does."""
    counts = {prefix: sum(new.startswith(f"{prefix}.") for new in names.values()) for prefix in PREFIXES}
    best = max(PREFIXES, key=lambda prefix: counts[prefix])
    return best if counts[best] else None


def _stripped_inside(name: str) -> str:
    return re.sub(rf"(^|\.)(?:(?:{'|'.join(INSIDE)})\.)+", r"\1", name)


def _parts(arrays: Arrays) -> str:
    present = [part for part in INSIDE if any(part in name.split(".") for name in arrays)]
    return ", ".join(f"{part}." for part in present)


def _named(arrays: Arrays, names: Mapping[str, str], left_out: list[str]) -> Iterator[tuple[Arrays, str]]:
    if len(set(names.values())) == len(names):  # else two arrays would get one name
        yield {new: arrays[name] for name, new in names.items()}, f"left out of names: {', '.join(left_out)}"


def _without_aliases(rebuilt: Rebuilt, arrays: Arrays, expected: set[str]) -> tuple[Arrays, dict[str, str]]:
    """The arrays but those that no parameter of the class needs and that equal one, with what they equal."""
    extra = [name for name in arrays if name not in expected and not name.endswith(tuple(rebuilt.ignored))]
    shapes = {(arrays[name].shape, arrays[name].dtype) for name in extra}
    known: dict[object, str] = {}  # what arrays are told by -> the first parameter that is told so
    for name in sorted(expected, reverse=True):
        array = arrays[name]
        known[id(array)] = name
        if (array.shape, array.dtype) in shapes and (contents := _contents(array)) is not None:
            known[contents] = name
    tied: dict[str, str] = {}
    for name in extra:
        contents = _contents(arrays[name])
        if same := known.get(id(arrays[name])) or (known.get(contents) if contents is not None else None):
            tied[name] = same
    return {name: array for name, array in arrays.items() if name not in tied}, tied


def _contents(array: np.ndarray) -> object:
    """The same for arrays that are equal bit for bit; None for constant ones, as fresh biases and norms are."""
    if array.dtype.kind != "f" or array.size < 2 or not (array != array.flat[0]).any() or np.isnan(array.flat[0]):
        return None
    return (array.shape, array.dtype.str, hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=32).digest())


def same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays have one shape, one dtype and the same bits, which tell -0.0 from 0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits = np.dtype(f"V{a.dtype.itemsize}") if a.dtype.itemsize > 8 else np.dtype(f"u{a.dtype.itemsize}")
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return bool(np.array_equal(a.reshape(-1).view(bits), b.reshape(-1).view(bits)))
