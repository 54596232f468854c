"""Which part of a model was computed in less precision: the one whose roundings, repeated, give the numbers under test.

What comes before a part is exact, so its roundings can be repeated bit for bit; other roundings repeat hardly a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...host.budget import in_time
from ...host.progress import steps
from ..deviations import Candidate
from ..rounding.arithmetic import DIGITS
from ..subject import Arrays
from .fit import Fit

EXACT = 0.02
"""A part is found where it leaves at most this much of the difference: its roundings are repeated bit for bit, but for
a sum here and there that rounds the other way."""
ALIKE = 0.2
"""Or where it repeats at least this part of the outputs' numbers exactly: the others may depend on such a sum."""
SELDOM = 1e-3
"""What happens by chance in no more of all cases is no chance."""
SMALL = 0.05
"""Rounding of a part changes outputs by less than this part of their largest number."""


class NarrowPart(NamedTuple):
    """A part in less precision, beside other deviations: what it leaves of the difference, what of that of the others
    alone, and how much it repeats exactly, of the outputs and of the first point."""

    chosen: tuple[Candidate, ...]
    remaining: float
    left: float
    alike: float
    alike_first: float

    @property
    def rank(self) -> tuple[bool, float]:
        """Less is better."""
        return (not self.repeated, self.remaining)

    @property
    def repeated(self) -> bool:
        """Whether it is the cause beyond doubt."""
        return self.left <= EXACT or self.alike >= ALIKE


@dataclass
class Parts:
    """Runs with parts in less precision, each made once. `first` is the first point that differs."""

    fit: Fit
    candidates: Sequence[Candidate]
    first: str | None
    known: dict[tuple[Candidate, ...], NarrowPart | None] = field(default_factory=dict)

    def best(self, chosen: tuple[Candidate, ...] = (), dtype: str = "", *, rare: bool = True) -> NarrowPart | None:
        """The best beside these deviations, or the first that leaves next to nothing; `rare` ones too."""
        without = self.fit.ours if not chosen else self.fit.subject.deviating(chosen)
        if without is None or (chosen and self.fit.size(without) > SMALL):
            return None
        size, found = self.fit.size(without), None
        for candidate in in_time(steps(self.candidates, "trying part in less precision")):
            narrow = _format(candidate)
            if dtype not in ("", narrow) or not _could_be(size, narrow) or (candidate.rare and not rare):
                continue
            part = self._run((*chosen, candidate), without)
            if part is not None and (found is None or part.rank < found.rank):
                found = part
            if part is not None and part.left <= EXACT:
                break
        return found

    def repeat(self, candidates: Iterable[Candidate]) -> bool:
        """Whether one of these repeats the difference."""
        made = (self._run((candidate,), self.fit.ours) for candidate in candidates)
        return any(part is not None and part.repeated for part in made)

    def by_chance(self, dtype: str) -> bool:
        """Whether one of so many parts may well repeat all outputs by chance, these being so few numbers of the format:
        rounding that is r steps of it wide gives a number again in one of 2 r + 1 cases."""
        apart, expected = self.fit.ours, self.fit.subject.expected
        widths = [
            np.abs(apart[name] - theirs) / np.spacing(np.abs(theirs).astype(np.float64)) * 2.0 ** (DIGITS[dtype] - 53)
            for name, theirs in expected.items()
            if name.startswith("output/") and theirs.dtype.kind == "f"
        ]
        wide = np.concatenate([each.reshape(-1) for each in widths]) if widths else np.zeros(0)
        wide = wide[np.isfinite(wide) & (wide > 0)]
        if not wide.size:
            return True
        chance = len(self.candidates) * (1 + 2 * float(np.median(wide))) ** -float(wide.size)
        return bool(chance > SELDOM)

    def alone(self) -> list[NarrowPart]:
        """Those that have been run beside no other deviation."""
        return [part for part in self.known.values() if part is not None and len(part.chosen) == 1]

    def _run(self, chosen: tuple[Candidate, ...], without: Arrays) -> NarrowPart | None:
        if chosen not in self.known:
            made = self.fit.subject.deviating(chosen)
            remaining = float("inf") if made is None else self.fit.remaining(made)
            self.known[chosen] = None
            if made is not None and np.isfinite(remaining):
                left = remaining / max(self.fit.remaining(without), 1e-300)
                alike = (
                    self.fit.alike(made, without, DIGITS[_format(chosen[-1])], name) for name in (None, self.first)
                )
                self.known[chosen] = NarrowPart(chosen, remaining, left, *alike)
        return self.known[chosen]


def _format(candidate: Candidate) -> str:
    return next(name for name in DIGITS if f" in {name}" in candidate.variant)


def _could_be(size: float, dtype: str) -> bool:
    """Whether an error of this size could be that of a part in this format: from a thousandth of its spacing to a
    thousand spacings."""
    spacing = 2.0 ** -DIGITS[dtype]
    return spacing / 1000 <= size <= 1000 * spacing
