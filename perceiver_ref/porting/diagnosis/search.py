"""The search for what explains a difference: single deviations, a part in less precision, rounding, several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ...host.budget import in_time, is_over
from ...host.progress import steps
from ..deviations import Candidate, candidates
from ..deviations.precision import everything
from ..exchange import exchanged_steps
from ..rounding.arithmetic import DIGITS, apart, arithmetic, rounded_tree
from ..rounding.grid import is_nearest, is_stored_in, on_grid
from ..subject import CANNOT_BE_RUN, EXPLAINED, NOTHING, Arrays, Cause, Subject
from ..subject.large import AGREES, LargeSubject
from .envelope import Roundings
from .few import Few, FewLatents
from .fit import Fit
from .formats import NARROW, Formats, is_autocast, name_of
from .hidden import hidden
from .nearby import causes_near
from .parts import SMALL, NarrowPart, Parts
from .screen import ROWS, Screen
from .several import Several
from .stretches import Stretches

PARTLY = 0.6
"""As `EXPLAINED`, for a part in less precision whose roundings are not repeated exactly, as float32's hardly can be,
where it is known to be a part: another deviation leaves it, or traced points before it agree."""
REPEATED = 0.1
"""As `PARTLY`, where rounding of everything is as likely: rounding of a part then repeats what was rounded."""
MOST = 3
"""So many deviations at once are looked for."""
CLOSE = 0.1
"""One that leaves so little of it is not compared with rare ones."""
MOSTLY = 0.5
"""A deviation that leaves rounding of the case's dtype explains at least half of what there was."""
ALIKE = 1.1
"""Explanations that leave rounding are as good as each other where they leave so nearly the same."""
_ENOUGH = 8
"""Of explanations from point to point so many are compared."""
_ROUNDED, _FOLLOWED = 0.02, 3
"""Beside a pair that leaves no more, a part in less precision is looked for, beside so many pairs"""
_WHOLE = {"bfloat16": ("bfloat16",), "float16": ("float16",), "float32": ("float32", "tf32")}


class _Score(NamedTuple):
    remaining: float
    chosen: tuple[Candidate, ...]


def _in_turn(chosen: Sequence[Candidate]) -> list[Candidate]:
    """Those that are everywhere first, of each cause the first, then of each the second, and so on."""
    place: dict[tuple[str, bool], int] = {}
    order: list[tuple[bool, int]] = []
    for candidate in chosen:
        late = not candidate.variant.endswith("everywhere")
        order.append((late, place.get((candidate.cause, late), 0)))
        place[candidate.cause, late] = order[-1][1] + 1
    return [chosen[i] for i in sorted(range(len(chosen)), key=lambda i: order[i])]


def _size(array: np.ndarray) -> float:
    """What errors are told in parts of."""
    return max(float(np.abs(array[np.isfinite(array)]).max(initial=0.0)), 1.0)


class Search:
    """`run` gives the verdict; `others` are further explanations, `dtype` the format of the verdict "rounding"."""

    def __init__(self, subject: Subject, ours: Arrays, errors: dict[str, float], roundings: Roundings) -> None:
        self.subject, self.ours, self.errors, self.roundings = subject, ours, errors, roundings
        self.given = subject.case.meta["dtype"]
        noise: Mapping[str, float] = {} if self.given == "float64" else roundings.at(self.given)
        if subject.is_large and self.given in AGREES:  # whose own run is in that dtype, in perhaps the same order
            noise = {name: max(error, AGREES[self.given]) for name, error in noise.items()}
        self.first = next((n for n, e in errors.items() if e > max(1e-9, noise.get(n, 0.0))), None)
        self.fit = Fit(subject, ours, noise)
        found = candidates(subject.survey)
        self.found = [candidate for candidate in found if candidate.cause != "dtype"]
        narrow = [candidate for candidate in found if candidate.cause == "dtype"]
        self.formats = Formats(self.fit, roundings, [c for c in narrow if c.change.straight or is_autocast(c)])
        finer = [f" in {name}" for name, n in DIGITS.items() if n >= DIGITS.get(self.given, 53)]
        parts = [c for c in narrow if not c.change.straight and not any(name in c.variant for name in finer)]
        self.parts = Parts(self.fit, parts, self.first)
        self.several = Several(self.fit, self.found, self.parts)
        self.scores: list[_Score] = []
        self.others: list[list[Cause]] = []
        self.followed: list[tuple[Candidate, ...]] = []
        """Pairs beside which parts in less precision were run"""
        self.dtype: str | None = None
        self.untraced: set[tuple[Candidate, ...]] = set()
        """Deviations with which outputs come right, and points do not"""
        self.beside: dict[tuple[Candidate, ...], Mapping[str, float]] = {}
        """Limits of rounding in a model with these deviations"""
        self.noisy: dict[tuple[Candidate, ...], bool] = {}
        """Whether what they leave is no more than that"""
        self.counts: dict[int, int] = {}
        """By the number of deviations: how many runs"""
        self.weights: Candidate | None = None
        """The form that weights are stored in, where that is the rounding"""
        self.repeated: str | None = None
        """Of a large case: the format that was found where no deviation alone was sure"""

    def tried_formats(self) -> list[tuple[str, float]]:
        """Forms of lower precision that were run, and what each leaves of the difference, the least first."""
        return self.formats.tried()

    @property
    def tried(self) -> list[str]:
        """What was tried, in words."""
        words = {1: "deviations alone", 2: "pairs of deviations"}
        every = Counter(self.counts) + Counter(self.several.at_once.counted)
        return [f"{n} {words.get(number, 'three deviations at once')}" for number, n in every.items()]

    def first_divergence(self) -> str | None:
        """The peer's name of the first traced point that differs."""
        traced = self.first is not None and self.first.startswith("trace/")
        return self.first.removeprefix("trace/") if traced and self.first else None

    def run(self) -> tuple[str, list[Cause]]:
        """(verdict, explanation)."""
        if all(is_nearest(wanted, self.ours[n], self.given) for n, wanted in self.subject.expected.items()):
            return "match", []
        for dtype in ("float32", "float16", "bfloat16"):
            if all(is_stored_in(wanted, self.ours[n], dtype) for n, wanted in self.subject.expected.items()):
                return self._rounding(dtype)
        if self.fit.noise and self.roundings.holds(self.given, self.errors):
            return self._hidden(self.given) or self._narrow(self.given)
        whole = self._whole(later=("tf32",) if self.subject.is_large else ())
        if whole is not None:
            return self._hidden(whole) or self._narrow(whole)
        if (best := self._near()) is not None:
            return self._with_second(best)
        part: NarrowPart | None = None
        small = self.fit.size(self.ours) <= SMALL
        for rare in (False, True):
            best = self._single(rare)
            settled = rare or not self.fit.noise or (best is not None and best.remaining <= CLOSE)
            if best is not None and (settled or (self.subject.is_large and self._is_settled(best))):
                return self._with_second(best)
            if best is not None:  # a rare one may leave less of what rounding makes
                continue
            if self.repeated is not None:
                return self._narrow(self.repeated)
            if not rare and (stored := self._stored()) is not None:
                return stored
            part = self.parts.best(rare=rare) if small else None
            if part is not None and not self._begins(self.subject.deviating(part.chosen)):
                part = None
            if part is not None and part.repeated:
                return self._deviation(part)
        if (best := self._by_stretches()) is not None:
            return self._deviation()
        if (best := self._single_in_all()) is not None:
            return self._with_second(best)
        if part is not None and self._is_likely(part):
            return self._deviation(part)
        later = self.subject.is_large and self._could_be_tf32
        if (whole := whole or (self._whole() if later else None)) is not None:
            return self._narrow(whole)
        if self.roundings.holds("float32", self.errors):
            return self._rounding("float32")
        if self._is_within:  # closer than the stated precision, in whatever way
            return "match", []
        for chosen in in_time(steps(self.several, "trying several deviations")):
            if (self._try(chosen) and self.scores[-1].remaining <= NOTHING) or self._leaves_a_part(chosen):
                break
        if self.scores:
            return self._with_second(min(self.scores, key=lambda score: score.remaining))
        if self.subject.is_large and is_over():
            return "unexplained", []
        fitting = self.formats.fitting(self.errors)
        return ("unexplained", []) if fitting is None else self._rounding(fitting)

    def _rounding(self, dtype: str) -> tuple[str, list[Cause]]:
        self.dtype = dtype
        return "rounding", []

    def _narrow(self, dtype: str) -> tuple[str, list[Cause]]:
        """Rounding in this format, or of what fits better than everything in it."""
        if dtype == "float32":
            return self._rounding(dtype)
        stored = self._stored() if self.formats.is_of_weights(dtype) else None
        return stored or self._rounding(self.formats.better(dtype) or dtype)

    def _hidden(self, dtype: str) -> tuple[str, list[Cause]] | None:
        """A deviation whose errors are no larger than those of rounding."""
        if dtype not in NARROW or self.subject.is_large:
            return None
        found = hidden(self.fit, dtype, self.several)
        if found is None or self.formats.stored is not None:
            return None
        self.scores = [_Score(found[1], (found[0],))]
        return self._deviation()

    def _stored(self) -> tuple[str, list[Cause]] | None:
        """Weights stored in fewer bits: rounding in a format that libraries compute in, and a deviation in others."""
        if self.formats.stored is None:
            return None
        candidate, remaining = self.formats.stored
        if (name := name_of(candidate)) is not None:
            self.weights = candidate
            return self._rounding(name)
        self.scores = [_Score(remaining, (candidate,))]
        return self._deviation()

    @property
    def _is_within(self) -> bool:
        """Whether no error is larger than rounding in the case's own dtype makes it."""
        noise = self.fit.noise
        return bool(noise) and all(self.roundings.within(self.given, name) for name in self.errors)

    def _whole(self, later: Sequence[str] = ()) -> str | None:
        """A format that all numbers have, with errors as it makes, unless a part of the model in it explains them, and
        all of it does not; none of those that are for `later`."""
        names = [name for name in self.errors if self._computed(name)]
        for narrow, dtypes in _WHOLE.items():
            if not names or not all(on_grid(self.subject.expected[name], DIGITS[narrow]) for name in names):
                continue
            for dtype in dtypes:
                if dtype not in later and self.roundings.holds(dtype, self.errors):
                    traced = any(name.startswith("trace/") for name in names)
                    last = None if traced else self.parts.best((), narrow)
                    if last is None or not last.repeated or self.parts.by_chance(narrow):
                        return dtype
                    return dtype if self.parts.repeat(everything(self.subject.survey, narrow)) else None
        return None

    def _deviation(self, part: NarrowPart | None = None) -> tuple[str, list[Cause]]:
        """The best explanation so far; among equally good ones the shorter, and the first of the table.

        Of variants of one cause it is the one that leaves least, unless they leave nothing.
        """
        if part is not None:
            if len(part.chosen) == 1 and (name := name_of(part.chosen[0])) is not None:
                return self._rounding(name)
            self.scores = [_Score(part.remaining, part.chosen)]
        self.scores = [self._needed(score) for score in self.scores]
        floor = min(score.remaining for score in self.scores)
        as_good = max(10 * floor if floor <= EXPLAINED / 10 else ALIKE * floor, NOTHING)
        least: dict[tuple[str, ...], float] = {}
        for score in self.scores:
            kinds = tuple(c.cause for c in score.chosen)
            least[kinds] = min(max(score.remaining, NOTHING), least.get(kinds, np.inf))
        good = sorted(
            self.scores,
            key=lambda s: (
                0.0 if least[tuple(c.cause for c in s.chosen)] <= as_good else s.remaining,
                len(s.chosen),
            ),
        )
        best = tuple(c.cause for c in good[0].chosen)
        good.sort(key=lambda s: tuple(c.cause for c in s.chosen) == best and s.remaining > least[best])
        made = [[Cause(c.cause, c.variant, score.remaining) for c in score.chosen] for score in good]
        kept: list[list[Cause]] = []
        for causes in made:
            if [c.cause for c in causes] not in [[c.cause for c in other] for other in kept]:
                kept.append(causes)
        self.others = kept[1:]
        return "deviation", kept[0]

    def _needed(self, score: _Score) -> _Score:
        """An explanation without what it is as good without, such as the epsilon of a norm that is left out."""
        for candidate in score.chosen if len(score.chosen) > 1 and not self.subject.is_large else ():
            fewer = tuple(other for other in score.chosen if other is not candidate)
            made = self.subject.deviating(fewer)
            remaining = float("inf") if made is None else self.fit.remaining(made)
            if remaining <= max(score.remaining, NOTHING):
                return self._needed(_Score(remaining, fewer))
        return score

    def _explains(self, remaining: float, made: Arrays, chosen: tuple[Candidate, ...], *, traced: bool = True) -> bool:
        """Whether what is left is little, or rounding of the case's dtype; of outputs alone unless `traced`."""
        if remaining <= EXPLAINED:
            return True
        if not self.fit.noise or remaining > MOSTLY or self._is_within:
            return False
        return self._is_noise(made, chosen, traced=traced)

    def _try(self, chosen: tuple[Candidate, ...], gate: Mapping[str, float] | None = None) -> bool:
        """Note deviations that explain the difference."""
        self.counts[len(chosen)] = self.counts.get(len(chosen), 0) + 1
        known = self.parts.known.get(chosen)
        made = None if known is not None else self.subject.deviating(chosen, gate)
        if known is None and len(chosen) == 1 and not gate and not self.subject.is_large:
            self.several.note(chosen[0], made)
        if known is None and made is None:
            return False
        remaining = known.remaining if known is not None else self.fit.remaining(made or {})
        if len(chosen) == 2:
            self.several.note_pair(chosen, made, remaining)
        explained = (known is not None and known.repeated) or self._explains(remaining, made or {}, chosen)
        most = 2 if any(candidate.cause == "dtype" for candidate in chosen) else 1
        if len(chosen) > most and remaining > NOTHING and not self.fit.noise:
            explained = False  # so many come near to anything; what is right leaves nothing
        if explained and most == 2 and not self._begins(made or self.subject.deviating(chosen)):
            explained = False
        if explained:
            self.scores.append(_Score(remaining, chosen))
        return explained

    def _near(self) -> _Score | None:
        """One deviation, of a kind that sets the first point right where it is made only there: there, or wherever."""
        strict = self.fit.gate(self.first, self.errors, NOTHING)
        gate = self.fit.gate(self.first, self.errors)
        for local in in_time(self._local(strict)) if strict else ():
            for candidate in (*(c for c in self.found if c.cause == local.cause), local):
                if self._try((candidate,), gate) and self.scores[-1].remaining <= NOTHING:
                    return self.scores[-1]
            best = min(self.scores, key=lambda score: score.remaining, default=None)
            if best is not None and best.remaining <= EXPLAINED and self._leaves_rounding(best):
                return best  # a remainder that is rounding has no second cause
        return None

    def _local(self, gate: Mapping[str, float]) -> Iterator[Candidate]:
        return causes_near(self.subject, self.first or "", gate, exact=not self.fit.noise)

    def _single(self, rare: bool) -> _Score | None:
        """One deviation; where points are traced, such as sets the first of them right."""
        gate = self.fit.gate(self.first, self.errors)
        chosen = [c for c in self.found if c.rare == rare]
        if isinstance(self.subject, LargeSubject):
            chosen = _in_turn(chosen)
            if not rare:
                return self._screened(self._order(self.subject, chosen))
        tried = in_time(steps(chosen, f"trying {'rare ' if rare else ''}deviation"))
        for cause, of_cause in groupby(tried, lambda c: c.cause):
            for candidate in of_cause:
                if gate is None and not self.subject.is_large and self.several.note_far(candidate):
                    continue
                if self._try((candidate,), gate) and self.scores[-1].remaining <= NOTHING:
                    return self.scores[-1]
            own = [score for score in self.scores if score.chosen[0].cause == cause]
            if (
                own
                and (best := min(own, key=lambda score: score.remaining)).remaining <= EXPLAINED
                and self._leaves_rounding(best)
            ):
                return best
        return min(self.scores, key=lambda score: score.remaining, default=None)

    @property
    def _could_be_tf32(self) -> bool:
        """Whether errors are no larger than those of float32 with so many bits fewer. Where ours is computed as the run
        in float32 is, that has none."""
        limits, fewer = self.roundings.at("float32"), 2.0 ** (DIGITS["float32"] - DIGITS["tf32"])
        least = AGREES["float32"]
        return all(error <= fewer * max(limits.get(name, 0.0), least) for name, error in self.errors.items())

    @staticmethod
    def _order(subject: LargeSubject, chosen: Sequence[Candidate]) -> Screen | Few:
        """The order in which these are run: many rows of outputs tell by the last layers what all of the model does."""
        _, rows = subject.course.sampled(len(subject.course.steps) - 1)
        few = FewLatents.of(subject) if rows <= ROWS else None
        return Screen(subject, chosen) if few is None else Few(few, Screen(subject, chosen, 1), chosen)

    def _screened(self, screen: Screen | Few) -> _Score | None:
        """As `_single`, of a large case: those first that do to the last layers what the difference looks like."""
        looked = False
        for candidate in in_time(screen):
            if not screen.sure and not looked:
                looked = True
                whole = self._whole() if self._could_be_tf32 else None
                if whole is not None and self.roundings.repeats(whole):
                    self.repeated = whole
                    break
            if self._try((candidate,)):
                best = self.scores[-1]
                if best.remaining <= NOTHING or self._is_settled(best):
                    return best
            made = self.subject.deviating((candidate,))
            screen.told(made, float("inf") if made is None else self.fit.remaining(made))
        return min(self.scores, key=lambda score: score.remaining, default=None)

    def _by_stretches(self) -> _Score | None:
        """Several, where points are traced, each judged where it is; what leaves nothing of the outputs, too, or a part
        in less precision whose rounding is repeated at every point."""
        if self.fit.noise or self.subject.is_large or self.first_divergence() is None:
            return None
        self.several.by_stretches = True
        stretches = Stretches(self.fit, self.found, self.parts, self.several.at_once)
        for chosen in in_time(stretches):
            made = self.subject.deviating(chosen)
            remaining = float("inf") if made is None else self.fit.remaining(made)
            if remaining <= (PARTLY if chosen[-1].cause == "dtype" else NOTHING):
                self.scores.append(_Score(remaining, chosen))
                stretches.confirmed = True
            if len(self.scores) == _ENOUGH or (self.scores and chosen[-1].cause == "dtype"):
                break
        return min(self.scores, key=lambda score: score.remaining, default=None)

    def _single_in_all(self) -> _Score | None:
        """As `_single`, where the first point does not come right, but the outputs do."""
        for effect in self.several.effects if self.fit.gate(self.first, self.errors) is not None else ():
            chosen = (effect.candidate,)
            if effect.remaining > (MOSTLY if self.fit.noise else EXPLAINED):
                continue
            made = self.subject.deviating(chosen)
            if made is not None and self._explains(effect.remaining, made, chosen, traced=False):
                self.scores.append(_Score(effect.remaining, chosen))
                self.untraced.add(chosen)
        return min(self.scores, key=lambda score: score.remaining, default=None)

    def _with_second(self, best: _Score) -> tuple[str, list[Cause]]:
        if self.subject.is_large and self._leaves_rounding(best):
            return self._deviation()
        if best.remaining > NOTHING and self.fit.noise:
            for candidate in in_time(
                self.found
            ):  # a variant that is rare may fit better than the one that explains enough
                if candidate.rare and candidate.cause == best.chosen[0].cause:
                    self._try((candidate,))
            best = min(self.scores, key=lambda score: score.remaining)
        while best.remaining > NOTHING and len(best.chosen) < MOST and not self._leaves_rounding(best):
            self._second(best)
            more = min(self.scores, key=lambda score: score.remaining)
            if len(more.chosen) <= len(best.chosen):
                break
            best = more
        return self._deviation()

    def _leaves_rounding(self, best: _Score) -> bool:
        """Whether what an explanation leaves is no more than rounding of the case's dtype: there is no second then."""
        if self.subject.is_large and best.chosen in self.noisy:
            return self.noisy[best.chosen]
        made = self.subject.deviating(best.chosen) if self.fit.noise else None
        return made is not None and self._is_noise(made, best.chosen, traced=best.chosen not in self.untraced)

    def _is_settled(self, best: _Score) -> bool:
        """Whether no other is looked for beside one of a large case: it leaves next to nothing, or most of what it
        leaves is rounding that its own model makes many times as large as ours does."""
        return (best.remaining <= EXPLAINED or best.chosen in self.beside) and self._leaves_rounding(best)

    def _is_noise(self, made: Arrays, chosen: tuple[Candidate, ...], *, traced: bool = True) -> bool:
        """Whether all errors that deviations leave are rounding's: of the right model, or else of one with them, whose
        numbers may be larger."""
        errors = {n: e for n, e in self.subject.errors(made).items() if traced or n.startswith("output/")}
        if all(e <= self.fit.noise.get(name, 0.0) for name, e in errors.items()):
            self.noisy[chosen] = True
            return True
        if chosen not in self.beside:
            self.beside[chosen] = self._roundings_beside(made, chosen)
        limits = {name: max(self.fit.noise.get(name, 0.0), self.beside[chosen].get(name, 0.0)) for name in errors}
        self.noisy[chosen] = all(error <= limits[name] for name, error in errors.items())
        return self.noisy[chosen]

    def _roundings_beside(self, made: Arrays, chosen: tuple[Candidate, ...]) -> Mapping[str, float]:
        """The limits of rounding in a model with deviations, in the units of errors: the right model's numbers."""
        if self.subject.is_large:  # room for what the run takes; the search is near its end
            self.subject.memo.kept.clear()
        try:
            limits = Roundings(self.subject, made, chosen).at(self.given)
        except CANNOT_BE_RUN:
            return {}
        return {name: limit * _size(made[name]) / _size(self.ours[name]) for name, limit in limits.items()}

    def _second(self, best: _Score) -> None:
        """What the best leaves may be a second deviation, of precision or of another kind; what two leave, a third."""
        causes = {candidate.cause for candidate in best.chosen}
        part = self.parts.best(best.chosen) if "dtype" not in causes else None
        if part is not None and part.repeated:
            self.scores = [_Score(part.remaining, part.chosen)]
            return
        least = REPEATED * best.remaining if len(best.chosen) == 1 else NOTHING
        others = [candidate for candidate in self.found if candidate.cause not in causes]
        for candidate, known in self.several.at_once.beside(best.chosen, others):
            if known is not None and self.fit.remaining(known) > 2 * least:  # sums in another order leave a little less
                continue
            made = self.subject.deviating((*best.chosen, candidate))
            remaining = float("inf") if made is None else self.fit.remaining(made)
            if remaining <= least:
                self.scores.append(_Score(remaining, (*best.chosen, candidate)))
            if remaining <= NOTHING:
                return
        likely = len(best.chosen) == 1
        if part is not None and likely and part.remaining <= PARTLY * min(score.remaining for score in self.scores):
            self.scores = [_Score(part.remaining, part.chosen)]

    def _leaves_a_part(self, chosen: tuple[Candidate, ...]) -> bool:
        """Whether what a pair leaves is the rounding of a part in less precision, repeated: looked at beside few."""
        left = self.several.left.get(chosen, np.inf)
        if self.fit.noise or not NOTHING < left <= _ROUNDED or len(self.followed) == _FOLLOWED:
            return False
        if self.subject.is_large or any(candidate.cause == "dtype" for candidate in chosen):
            return False
        self.followed.append(chosen)
        part = self.parts.best(chosen, rare=False)
        if part is None or not part.repeated:
            return False
        self.scores = [_Score(part.remaining, part.chosen)]
        return True

    def _is_likely(self, part: NarrowPart) -> bool:
        """Whether a part that does not repeat the roundings fits better than everything in less precision."""
        if not part.remaining <= (PARTLY if self._begins_late() else REPEATED):
            return False
        for dtype in ("float32", "bfloat16", "float16"):
            params, inputs = (rounded_tree(t, DIGITS[dtype]) for t in (self.subject.params, self.subject.inputs))
            with arithmetic(dtype), exchanged_steps({"fourier_features": apart}):
                whole = self.subject.compute(params, inputs)
            if self.fit.remaining(whole) <= 3 * part.remaining:
                return False
        return True

    def _begins(self, made: Arrays | None) -> bool:
        """Whether the first traced point that differs is nearer with a part in less precision: where it is not, what
        comes right after it is by chance."""
        if self.first_divergence() is None or self.first is None:
            return True
        return made is not None and self.subject.errors(made)[self.first] <= PARTLY * self.errors[self.first]

    def _begins_late(self) -> bool:
        """Whether traced points before the first that differs agree to the last digits."""
        names = list(self.errors)
        before = names[: names.index(self.first)] if self.first in names else []
        return any(name.startswith("trace/") and self._computed(name) for name in before)

    def _computed(self, name: str) -> bool:
        """Whether rounding could change a point at all: parameters passed on are exact in any case.

        A large case's own run is in float32, in perhaps the same order of sums: there what differs is computed.
        """
        if self.subject.is_large:
            return self.errors.get(name, 0.0) > 1e-9
        return self.roundings.at("float32").get(name, 0.0) > 1e-9
