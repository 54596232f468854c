"""The kill matrix: every known deviation on every case, and which of them a case tells apart.

As mutation testing measures tests, this measures cases. A deviation counts for a model when it makes any of its cases
compute otherwise; it is told apart when a case's outputs (for a wrong backward, gradients) then differ by more than
`PLAINLY` tolerances. What cannot be told, because it is equal in exact arithmetic, is listed with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ...errors import InputError
from ...host.progress import steps
from ..cases import Case
from ..deviations import CAUSES
from .alike import alike
from .cover import cover
from .equal import Attended, attended, merged, reason, same_reason
from .trial import NARROW, CaseUnderAudit, Clock, Key, Trial

SECONDS = 60.0
"""For a case at most, unless asked otherwise."""


@dataclass
class CaseAudit:
    """One case: how many deviations were tried on it, which it tells apart, and the seconds that took."""

    name: str
    tried: int = 0
    told: set[Key] = field(default_factory=set)
    skipped: list[Key] = field(default_factory=list)
    """Those that there was no time for"""
    sets: dict[Key, int] = field(default_factory=dict)
    """Deviations that it tells apart -> the number of those that do the same to it (`alike`)"""
    seconds: float = 0.0


@dataclass
class ModelAudit:
    """The cases of one model."""

    name: str
    cases: list[CaseAudit] = field(default_factory=list)
    largest: dict[Key, float] = field(default_factory=dict)
    """Deviations that make any case compute otherwise -> the largest difference, in tolerances"""
    idle: set[Key] = field(default_factory=set)
    """Of the table, but nothing in these cases for them to change"""
    attended: dict[str, Attended] = field(default_factory=dict)
    """What its attentions are, by place"""

    @property
    def told(self) -> set[Key]:
        """What any case tells apart."""
        return set().union(*(case.told for case in self.cases))

    def known(self, every: bool) -> set[Key]:
        """What need not be tried again: it is told apart, and from all deviations of other causes. `every`: only parts
        in less precision."""
        unsure = {key for keys in self.confused() if not same_reason(keys, self.attended) for key in keys}
        return {key for key in self.told if key[0] == NARROW or not every} - unsure

    @property
    def equal(self) -> dict[Key, str]:
        """What no case can tell apart, with the reason."""
        told = self.told
        found = {key: reason(key, self.attended, self.largest[key]) for key in self.largest if key not in told}
        return {key: words for key, words in found.items() if words}

    @property
    def missed(self) -> list[Key]:
        """What a case should tell apart and none does."""
        told, equal = self.told, self.equal
        return [key for key in self.largest if key not in told and key not in equal]

    @property
    def untried(self) -> list[Key]:
        """What there was no time for, in any case."""
        return [key for key in dict.fromkeys(k for c in self.cases for k in c.skipped) if key not in self.largest]

    @property
    def applicable(self) -> int:
        """The number of deviations that are to be told apart."""
        return len(self.largest) - len(self.equal)

    @property
    def score(self) -> float:
        """The part of them that is told apart, 0 to 1."""
        return len(self.told) / self.applicable if self.applicable else 1.0

    def causes(self) -> dict[str, tuple[int, int]]:
        """Cause -> (deviations told apart, deviations to be told apart), those of outputs first."""
        told, equal = self.told, self.equal
        found: dict[str, tuple[int, int]] = {}
        for key in self.largest:
            if key not in equal:
                known, every = found.get(key[0], (0, 0))
                found[key[0]] = (known + (key in told), every + 1)
        return found

    def cover(self) -> list[tuple[str, int]]:
        """A smallest set of cases that tells as much apart as all (`cover`)."""
        return cover({case.name: case.told for case in self.cases})

    def confused(self) -> list[list[Key]]:
        """Sets of deviations of different causes that no case tells from each other."""
        groups: dict[tuple[object, ...], list[Key]] = {}
        told = self.told
        for key in (key for key in self.largest if key in told):
            groups.setdefault((key[0] in CAUSES, *(case.sets.get(key, 0) for case in self.cases)), []).append(key)
        return [keys for keys in groups.values() if len({cause for cause, _ in keys}) > 1]


class Audit:
    """`add` cases, one after the other; `models` is what was found, by the model that they are of."""

    def __init__(self, seconds: float = SECONDS, *, gradients: bool = True, every: bool = True) -> None:
        self.seconds, self.gradients, self.every = seconds, gradients, every
        self.models: dict[str, ModelAudit] = {}

    def add(self, case: Case) -> CaseAudit:
        """Try every deviation on a case; but for parts in less precision, and without `every` of any kind, that a case
        of its model has told apart already. `InputError` for a case that cannot be run."""
        began = time.monotonic()
        try:
            under = CaseUnderAudit(case, gradients=self.gradients)
        except InputError as error:
            raise InputError(f"{case.name}: {error}") from error
        model = self.models.setdefault(model_of(case), ModelAudit(model_of(case)))
        known = model.known(self.every)
        model.attended = merged(model.attended, attended(under.subject))
        made, clock = CaseAudit(case.name), Clock(self.seconds)

        def wanted(key: Key) -> bool:
            return key not in known

        for kind in (under.forward, under.backward):
            self._note(model, made, list(kind(wanted, clock)))
        made.skipped = clock.skipped
        made.seconds = time.monotonic() - began
        model.cases.append(made)
        return made

    def _note(self, model: ModelAudit, case: CaseAudit, trials: list[Trial]) -> None:
        for trial, number in zip(trials, alike(trials)):
            case.tried += 1
            if not trial.touched:
                if trial.key not in model.largest:
                    model.idle.add(trial.key)
                continue
            model.idle.discard(trial.key)
            model.largest[trial.key] = max(model.largest.get(trial.key, 0.0), trial.tolerances)
            if number:
                case.told.add(trial.key)
                case.sets[trial.key] = number

    @property
    def told(self) -> int:
        """All that is told apart, added up over models."""
        return sum(len(model.told) for model in self.models.values())

    @property
    def applicable(self) -> int:
        """All that is to be told apart."""
        return sum(model.applicable for model in self.models.values())

    @property
    def complete(self) -> bool:
        """Whether everything is told apart, and nothing was left out for want of time."""
        return not any(model.missed or model.untried for model in self.models.values())


def audited(
    cases: Iterable[Case],
    seconds: float = SECONDS,
    *,
    gradients: bool = True,
    every: bool = True,
    done: Callable[[CaseAudit], None] = lambda case: None,
) -> Audit:
    """The audit of these cases; `done` is called after each."""
    made = Audit(seconds, gradients=gradients, every=every)
    for case in steps(cases, "case"):
        done(made.add(case))
    return made


def model_of(case: Case) -> str:
    """The model that a case is of: what its name says before the last part, an operation's own, or peer and class."""
    name = str(case.meta.get("case", ""))
    if name.startswith("operations/"):
        return f"operations/{case.meta['class']}"
    if "/" in name:
        return name.rpartition("/")[0]
    named = str(case.meta["class"]).partition(" (")[0]  # of several parts, which are listed in brackets
    return f"{case.meta['peer']}/{named.rpartition('.')[2]}"
