"""The diagnosis of a large case with traced points: what `Search` is for others (see `local`)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import NamedTuple

from ..deviations import Candidate
from ..rounding.grid import is_nearest
from ..subject import Cause
from ..subject.large import AGREES, LargeSubject
from .envelope import Roundings
from .fit import Fit
from .local import Local
from .search import Search


class LargeRoundings(Roundings):
    """Limits of the error from one traced point to the next, which no run is needed for."""

    def at(self, dtype: str) -> dict[str, float]:
        """As of `Roundings`: ten times what the root mean square may be."""
        known = dtype if dtype in AGREES else "float16"
        return self.known.setdefault(dtype, dict.fromkeys(self.subject.expected, 10 * AGREES[known]))


class Score(NamedTuple):
    """As of `Search`."""

    remaining: float
    chosen: tuple[Candidate, ...]


class LargeSearch:
    """As `Search`: `run` gives the verdict, or None where it finds none."""

    def __init__(self, subject: LargeSubject) -> None:
        self.subject, self.first = subject, subject.first
        self.local = Local(subject)
        self.scores: list[Score] = []
        self.others: list[list[Cause]] = []
        self.dtype: str | None = None
        self.weights: Candidate | None = None
        self.alone: Search | None = None
        """The search by outputs alone, where points did not help"""

    def first_divergence(self) -> str | None:
        """The peer's name of the first traced point that differs."""
        traced = self.first is not None and self.first.startswith("trace/")
        return self.first.removeprefix("trace/") if traced and self.first else None

    def tried_formats(self) -> list[tuple[str, float]]:
        """As of `Search`."""
        return self.alone.tried_formats() if self.alone is not None else []

    @property
    def tried(self) -> list[str]:
        """What was tried, in words."""
        near = [f"{count} deviations near {name}" for name, count in self.local.tried.items()]
        return [*near, *(self.alone.tried if self.alone is not None else [])]

    def run(self) -> tuple[str, list[Cause]]:
        """(verdict, explanation)."""
        subject, given = self.subject, self.subject.case.meta["dtype"]
        if self.first is None:
            outputs = {n: a for n, a in subject.ours.items() if n.startswith("output/")}
            if all(is_nearest(subject.expected[n], ours, given) for n, ours in outputs.items()):
                return "match", []
            self.dtype = given
            return "rounding", []
        chosen = self.local.run()
        self.first = subject.first
        if chosen is None:
            return self._by_outputs()
        remaining = self._remaining(self.local.outputs)
        self.scores = [Score(remaining, chosen)]
        return "deviation", [Cause(c.cause, c.variant, remaining) for c in chosen]

    def _by_outputs(self) -> tuple[str, list[Cause]]:
        """What explains the outputs, whatever the points are."""
        subject = copy(self.subject)
        subject.points, subject.kept = {}, set()
        subject.expected = {name: a for name, a in subject.expected.items() if name.startswith("output/")}
        subject.ours = {name: a for name, a in subject.ours.items() if name in subject.expected}
        self.alone = Search(subject, subject.ours, subject.errors(subject.ours), Roundings(subject, subject.ours))
        found = self.alone.run()
        self.scores = [Score(*score) for score in self.alone.scores]
        self.others, self.dtype, self.weights = self.alone.others, self.alone.dtype, self.alone.weights
        return found

    def _remaining(self, outputs: Mapping[str, object]) -> float:
        made = {name: array for name, array in self.subject.ours.items() if name.startswith("output/")}
        return Fit(self.subject, made, {}).remaining(dict(outputs))  # type: ignore[arg-type]
