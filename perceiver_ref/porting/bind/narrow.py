"""Alternatives of units narrowed by what gradients say: units that an identity ties become one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from .clock import clock
from .guesses import Choice, Unit
from .identities import Gradients, Identity, Product, meet
from .solve import overlap
from .sources import Source

_MOST = 3000
_BRUTE = 64


class Narrowing:
    """Identities with the port's gradients, to be applied to one guess after another."""

    def __init__(
        self,
        sums: Sequence[Identity],
        products: Sequence[Product],
        gradients: Gradients,
        unfelt: set[str],
        deadline: float,
    ) -> None:
        order = ("queries", "values", "gated", "norm")
        self.sums = sorted(sums, key=lambda row: order.index(row.kind))
        self.products, self.gradients = products, gradients
        self.unfelt, self.deadline = unfelt, deadline

    def narrow(self, units: Sequence[Unit], strict: bool) -> list[Unit] | None:
        """Units of fewer choices; None where an identity has no solution, unless not `strict`: then it is left out."""
        units = [self._without_gradient(unit) if set(unit.paths) <= self.unfelt else unit for unit in units]
        for identity in self.sums:
            if clock() > self.deadline:
                return None
            made = self._summed(units, identity)
            if made is None and strict:
                return None
            units = units if made is None else made
        units = _without_taken(units)
        for row in self.products:
            if clock() > self.deadline:
                return None
            made = self._multiplied(units, row)
            if made is None and strict and all(len(unit.choices) == 1 for unit in units):
                return None
            units = units if made is None else made
        return _without_taken(units)

    def _without_gradient(self, unit: Unit) -> Unit:
        """A parameter that changes nothing has no gradient."""
        if len(unit.choices) < 2 or not self.gradients.arrays:
            return unit
        largest = max(float(np.abs(a).max(initial=0.0)) for a in self.gradients.arrays.values())
        fits = []
        for choice in unit.choices:
            found = [self.gradients.of(source) for source in choice.values() if source.parts]
            if all(g is not None and float(np.abs(g).max(initial=0.0)) <= 1e-6 * largest for g in found) and found:
                fits.append(choice)
        return Unit(unit.paths, fits, unit.kind) if fits else unit

    def _summed(self, units: list[Unit], identity: Identity) -> list[Unit] | None:
        """None where there is no solution; the units as they are where the identity says nothing."""
        tied = [unit for unit in units if set(unit.paths) & set(identity.terms)]
        kept: list[list[Choice]] = []
        columns = []
        for unit in tied:
            rows, choices = [], []
            for choice in unit.choices:
                row = self._row(choice, identity)
                if row is not None:
                    rows.append(row)
                    choices.append(choice)
            if not rows:
                return units
            columns.append(np.stack(rows))
            kept.append(choices)
        if len(tied) == 1:
            scale = max(float(np.abs(column).max(initial=0.0)) for column in columns)
            limit = self.gradients.tolerance * max(scale, self._size(tied[0], identity))
            fits = [c for c, row in zip(kept[0], columns[0]) if float(np.abs(row).max(initial=0.0)) <= limit]
            return _replaced(units, tied, fits) if fits else None
        found = self._solutions(columns)
        if found is None:
            return units
        merged: list[Choice] = []
        for indices in found:
            parts = [kept[i][index] for i, index in enumerate(indices)]
            if not _clash(parts):
                merged.append({path: source for part in parts for path, source in part.items()})
        return _replaced(units, tied, merged) if merged else None

    def _solutions(self, columns: list[np.ndarray]) -> list[tuple[int, ...]] | None:
        count = int(np.prod([float(len(column)) for column in columns]))
        if count > _BRUTE:
            return meet(columns, self.gradients.tolerance, _MOST)
        made = []
        for row in itertools.product(*(range(len(column)) for column in columns)):
            parts = [column[i] for column, i in zip(columns, row)]
            size = sum(float(np.abs(part).max(initial=0.0)) for part in parts)
            if float(np.abs(sum(parts)).max(initial=0.0)) <= self.gradients.tolerance * size:
                made.append(row)
        return made

    def _row(self, choice: Choice, identity: Identity) -> np.ndarray | None:
        total: np.ndarray | None = None
        for path, source in choice.items():
            if path in identity.terms:
                term = self.gradients.term(identity.terms[path], source)
                if term is None:
                    return None
                total = term if total is None else total + term
        return total

    def _size(self, unit: Unit, identity: Identity) -> float:
        """How large the terms of a unit are, of which the sum is near zero."""
        sizes = [0.0]
        for path, source in unit.choices[0].items():
            if path in identity.terms and (term := self.gradients.term(identity.terms[path], source)) is not None:
                sizes.append(float(np.abs(term).max(initial=0.0)))
        return max(sizes)

    def _multiplied(self, units: list[Unit], row: Product) -> list[Unit] | None:
        """The unit with a sum of gradients and its weights, joined with the one that has a bias still open."""
        weights = {row.total, *(weight for weight, _ in row.readers)}
        whole = next((unit for unit in units if weights <= set(unit.paths)), None)
        if whole is None:
            if any(len(unit.choices) > 1 for unit in units if weights & set(unit.paths)):
                return units
            whole = next(unit for unit in units if row.total in unit.paths)
        known = {path: s for u in units if len(u.choices) == 1 for path, s in u.choices[0].items()}
        biases = {bias for _, bias in row.readers} - self.unfelt
        open_ = [unit for unit in units if unit is not whole and len(unit.choices) > 1 and biases & set(unit.paths)]
        if len(open_) > 1:
            return units
        merged: list[Choice] = []
        for real in (True, False):  # what the port may do without, only where nothing else will do
            for choice in whole.choices:
                for other in open_[0].choices if open_ else [{}]:
                    if (
                        real == all(source.parts for source in other.values())
                        and self._holds({**known, **choice, **other}, row)
                        and not clash(choice, other)
                    ):
                        merged.append({**choice, **other})
            if merged:
                break
        if not merged or len(merged) > _MOST:
            return None
        return _replaced(units, [whole, *open_], merged)

    def _holds(self, chosen: Mapping[str, Source], row: Product) -> bool:
        total = self.gradients.of(chosen[row.total])
        if total is None or not chosen[row.total].parts:
            return True
        made, size = total.copy(), float(np.abs(total).max(initial=0.0))
        for weight, bias in row.readers:
            if bias in self.unfelt:
                continue
            if bias not in chosen or not chosen[bias].parts or (gradient := self.gradients.of(chosen[bias])) is None:
                return True
            term = chosen[weight].value @ gradient
            made -= term
            size = max(size, float((np.abs(chosen[weight].value) @ np.abs(gradient)).max(initial=0.0)))
        return float(np.abs(made).max(initial=0.0)) <= self.gradients.tolerance * size


def _replaced(units: list[Unit], tied: Sequence[Unit], choices: list[Choice]) -> list[Unit]:
    """The tied units as one, at the place of the first."""
    if len(tied) == 1 and len(choices) == len(tied[0].choices):
        return units
    paths = tuple(path for unit in tied for path in unit.paths)
    merged = Unit(paths, choices, tied[0].kind if len(tied) == 1 else ())
    made: list[Unit] = []
    for unit in units:
        if unit is tied[0]:
            made.append(merged)
        elif not any(unit is other for other in tied):
            made.append(unit)
    return made


def clash(a: Choice, b: Choice) -> bool:
    """Whether two choices read the same elements."""
    for x in a.values():
        for y in b.values():
            if set(x.names) & set(y.names) and overlap(x, y):
                return True
    return False


def _clash(parts: Sequence[Choice]) -> bool:
    return any(clash(a, b) for a, b in itertools.combinations(parts, 2))


def _without_taken(units: list[Unit]) -> list[Unit]:
    """Where so many units share so many choices, the arrays of those are no choice of any other."""
    for _ in range(8):
        groups: dict[frozenset[object], list[Unit]] = {}
        for unit in units:
            used = frozenset(source.identity for choice in unit.choices for source in choice.values() if source.parts)
            groups.setdefault(used, []).append(unit)
        made, changed = list(units), False
        for rows in groups.values():
            if len(rows[0].choices) > len(rows) or len(rows) > _BRUTE:
                continue
            taken: dict[str, list[Source]] = {}
            for choice in rows[0].choices:
                for source in choice.values():
                    for name in source.names:
                        taken.setdefault(name, []).append(source)
            for i, unit in enumerate(made):
                if len(unit.choices) == 1 or any(unit.paths == row.paths for row in rows):
                    continue
                fits = [
                    choice
                    for choice in unit.choices
                    if not any(
                        overlap(source, other)
                        for source in choice.values()
                        for name in source.names
                        for other in taken.get(name, ())
                    )
                ]
                if fits and len(fits) < len(unit.choices):
                    made[i], changed = Unit(unit.paths, fits, unit.kind), True
        units = made
        if not changed:
            break
    return units
