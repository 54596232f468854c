"""Fitting the names of a file to those of a class: wrappers' prefixes, and a tied parameter stored under two names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from ..peers import Rebuilt

Arrays = dict[str, np.ndarray]

PREFIXES = ("module", "model", "_orig_mod")
"""First parts of names that are the wrapper's: of DataParallel, a LightningModule, torch.compile."""
INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that torch.compile, FSDP and activation checkpointing put anywhere into names."""


@dataclass(frozen=True)
class Fitted:
    """A class, the arrays that a file holds for it by the class's own names, and what was done to get there.

    `tied` maps names that the file has, too, to the parameter that they share; `notes` are lines for the user.
    """

    rebuilt: Rebuilt
    arrays: Arrays
    tied: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fit(rebuild: Callable[[Mapping[str, np.ndarray]], Rebuilt], arrays: Arrays, where: object) -> Fitted:
    """Rebuild the class that fits the arrays, without prefixes if only then every parameter is there.

    `rebuild` gives the class for arrays by name. Raises its `InputError`; what is missing or unfit is left to
    `Rebuilt.load`.
    """
    outcome: InputError | Fitted | None = None
    most = 0
    for renamed, note in _candidates(arrays):
        try:
            rebuilt = rebuild(renamed)
        except InputError as error:
            outcome = outcome or error
            continue
        expected = {b.name for b in (*rebuilt.bindings, *rebuilt.state)}
        if expected <= set(renamed):
            kept, tied = _without_aliases(rebuilt, renamed, expected)
            notes = [f"{where}: {note}"] if note else []
            notes += [f"{where}: {alias} is tied to {name}, whose values it has" for alias, name in tied.items()]
            return Fitted(rebuilt, kept, tied, tuple(notes))
        common = len(expected & set(renamed))
        if outcome is None or common > most:  # the closest: fewest names are reported as missing
            outcome, most = Fitted(rebuilt, renamed), common
    if isinstance(outcome, Fitted):
        return outcome
    raise outcome or InputError(f"{where} holds no arrays")


def _candidates(arrays: Arrays) -> Iterator[tuple[Arrays, str]]:
    """The arrays as they are named, then with ever more prefixes left out, and what to say of each."""
    yield arrays, ""
    names = {name: name for name in arrays}
    inner = {name: _stripped_inside(name) for name in arrays}
    left_out: list[str] = []
    if inner != names:
        left_out.append(f"{_parts(arrays)} anywhere")
        names = inner
        yield from _named(arrays, names, left_out)
    while True:
        prefix = _common_prefix(names)
        if prefix is None:
            return
        left_out.append(f"{prefix}. at the start")
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
        yield {names[name]: array for name, array in arrays.items()}, f"left out of names: {', '.join(left_out)}"


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
