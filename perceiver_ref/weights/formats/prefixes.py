"""A part of a whole model: the prefix of names below which everything is that its class needs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...errors import InputError, listed
from ...peers import Rebuilt

Arrays = dict[str, np.ndarray]
Rebuild = Callable[[Mapping[str, np.ndarray]], Rebuilt]
SEPARATORS = (".", "/")
_TRIED = 24
_MOST = 64
_DEEP = 16
_LISTED = 4


def below(arrays: Arrays, prefix: str, where: object) -> Arrays:
    """The arrays whose names begin with a prefix, without it; the separator at its end may be left out.

    Raises `InputError`, saying what the names begin with, where there are none.
    """
    endings = ("",) if prefix.endswith(SEPARATORS) or not prefix else SEPARATORS
    for ending in endings:
        whole = prefix + ending
        if found := {n.removeprefix(whole): a for n, a in arrays.items() if n.startswith(whole) and n != whole}:
            return found
    starts = Counter(_first(name) for name in arrays)
    names = listed((name for name, _ in starts.most_common()), _LISTED)
    raise InputError(f"{where}: no name begins with {prefix!r} (--prefix); the names begin with {names}")


def fitting(rebuild: Rebuild, arrays: Arrays, known: Rebuilt | None) -> list[str]:
    """The prefixes below which the class finds every name that it needs; of several, those with the right shapes.

    `known` is the class as rebuilt from other names, if that worked: its own names are looked for first.
    """
    names = set(arrays)
    candidates = _ending_in(names, expected_of(known)) if known is not None else []
    if not candidates:
        candidates = _common(names, 0 if known is None else len(expected_of(known)))
    if len(candidates) > _MOST:  # more than one is as good as many
        return sorted(candidates)
    named: list[str] = []
    shaped: list[str] = []
    for prefix in sorted(candidates):
        part = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        try:
            rebuilt = rebuild(part)
        except InputError:
            continue
        if expected_of(rebuilt) <= set(part):
            named.append(prefix)
            if all(fits(b, part[b.name]) for b in (*rebuilt.bindings, *rebuilt.state)):
                shaped.append(prefix)
    return shaped or named


def expected_of(rebuilt: Rebuilt) -> set[str]:
    """The names that a class needs."""
    return {b.name for b in (*rebuilt.bindings, *rebuilt.state)}


def _ending_in(names: set[str], expected: set[str]) -> list[str]:
    """Prefixes with which all expected names are there."""
    if not expected:
        return []
    last = max(expected, key=lambda name: (len(name), name))  # the rarest ending
    starts = [n[: -len(last)] for n in names if n.endswith(last) and n[: -len(last)].endswith(SEPARATORS)]
    return [prefix for prefix in starts if all(prefix + name in names for name in expected)]


def _common(names: Iterable[str], least: int) -> list[str]:
    """The prefixes of most names, down to half as many as the class has where that is known."""
    counts: Counter[str] = Counter()
    for name in names:
        ends = (i for i, character in enumerate(name) if character in SEPARATORS)
        counts.update(name[: i + 1] for i in itertools.islice(ends, _DEEP))
    return [prefix for prefix, count in counts.most_common(_TRIED) if count >= least / 2]


def fits(binding: Any, array: np.ndarray) -> bool:
    """Whether a peer's array gives one of ours of the right shape."""
    try:
        return bool(binding.view(array).shape == binding.shape)
    except (IndexError, ValueError):
        return False


def _first(name: str) -> str:
    return next((name[: i + 1] for i, character in enumerate(name) if character in SEPARATORS), name)
