"""Watching one number of the evaluations: which was the best, and whether it is time to stop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Watch:
    """The number `name` of evaluations, of which the `better` ones are higher or lower; see `Settings`."""

    name: str
    better: Literal["higher", "lower"] = "lower"
    patience: int | None = None

    def values(self, lines: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
        """(step, value) of each line with an evaluation."""
        return [(line["step"], line["evaluation"][self.name]) for line in lines if self.name in _evaluated(line)]

    def best(self, lines: Iterable[Mapping[str, Any]]) -> tuple[int, float] | None:
        """(step, value) of the first best one; None where there is none that is a number."""
        sign = 1 if self.better == "lower" else -1
        found = [(step, value) for step, value in self.values(lines) if not math.isnan(value)]
        return min(found, key=lambda pair: sign * pair[1]) if found else None

    def over(self, lines: Iterable[Mapping[str, Any]]) -> bool:
        """Whether as many evaluations as there is patience for have come after the best one."""
        values, best = self.values(lines), self.best(lines)
        if self.patience is None or best is None:
            return False
        return sum(step > best[0] for step, _ in values) >= self.patience


def _evaluated(line: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = line.get("evaluation", {})
    return found
