"""Which of the intermediate values are kept."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Set
from typing import Any

from ...errors import InputError, listed, shortened

Points = str | re.Pattern[str] | Iterable[str | re.Pattern[str]] | Callable[[str], bool] | None
"""Names to keep: shell patterns in which `*` stands for anything, dots too, regular expressions that are searched for,
a set of names as for `trace`, a predicate; None is all."""


class Choice:
    """Says of each point, by its name and size, whether it is kept; counts what it leaves out."""

    def __init__(self, points: Points = None, *, largest: int | None = None, first: int | None = None) -> None:
        """`largest`: the most elements of a value; `first`: how many values, those computed first."""
        for name, limit in (("largest", largest), ("first", first)):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
                raise InputError(f"{name} must be a whole number, got {shortened(limit)}")
        self._tests = _tests(points)
        self._largest, self._first = largest, first
        self._kept = 0
        self._seen: dict[str, None] = {}
        self.too_large = 0
        self.too_many = 0

    def check(self) -> None:
        """Raise `InputError` for a pattern that fitted none of the points there were."""
        for label, test in self._tests or ():
            if not any(map(test, self._seen)):
                what = shortened(getattr(label, "pattern", label))
                raise InputError(f"no point fits {what}; there are {listed(self._seen) or 'none'}")

    def wants(self, name: str) -> bool:
        """Whether the name is one of those asked for."""
        return self._tests is None or any(test(name) for _, test in self._tests)

    def takes(self, name: str, size: int) -> bool:
        """Whether a value is kept; asked once for each."""
        self._seen.setdefault(name)
        if not self.wants(name):
            return False
        if self._largest is not None and size > self._largest:
            self.too_large += 1
            return False
        if self._first is not None and self._kept >= self._first:
            self.too_many += 1
            return False
        self._kept += 1
        return True

    @property
    def notes(self) -> list[str]:
        """What was left out, in words."""
        made = []
        if self.too_large:
            made.append(f"{self.too_large} intermediate values of more than {self._largest} elements are left out")
        if self.too_many:
            made.append(f"{self.too_many} intermediate values after the first {self._first} are left out")
        return made


def _tests(points: Points) -> list[tuple[Any, Callable[[str], bool]]] | None:
    if points is None:
        return None
    if isinstance(points, (str, re.Pattern)):
        points = [points]
    if isinstance(points, Set):
        return [(name, name.__eq__) for name in sorted(points)]
    if callable(points):
        return [(points, points)]
    return [(pattern, _test(pattern)) for pattern in points]


def _test(pattern: Any) -> Callable[[str], bool]:
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.search(name) is not None
    if not isinstance(pattern, str):
        raise InputError(f"points must be shell patterns or regular expressions, got {shortened(pattern)}")
    compiled = re.compile(fnmatch.translate(pattern))
    return lambda name: compiled.match(name) is not None
