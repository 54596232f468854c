"""A configuration for a port that states none: from its shapes, and what they do not tell by running.

Shapes leave a few guesses (`configurations`). Each is bound, and what is open in it, such as heads, is tried: on the
likeliest parameters by their outputs, and, where the port recorded values inside, by how many parameters they bind.
Only what `bind` verifies is proposed as such; fields of which other values verify as well are said to be undecided.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import InputError
from ...peers.reference import NAME
from ..cases import TOLERANCES, Case
from ..cases.compare import difference
from ..check import check_case
from .clock import clock
from .configurations import Guess, configured, guesses
from .maps import Map, read_source
from .target import RUNS, Target, To
from .translate import translate

_SLICES = 1.0, 5.0
"""Seconds that a binding is tried for: a right configuration is mostly bound at once, and a wrong one never."""
_GUESSES = 6
_SHARE, _RUNNING = 0.5, 0.7
"""Of the time, what one configuration may have, and of that, running all that is open together."""
_RUNS = 4_000
_CLEARLY = 10.0
"""So many times nearer to the port is a value to be taken in place of another that is within tolerance, too."""
Chosen = dict[str, Any]


@dataclass
class Candidate:
    """A configuration that the shapes allow, whether it was verified, and what else verified."""

    config: dict[str, Any]
    call: Mapping[str, Any]
    verified: bool = False
    message: str = "not tried"
    """Where it first fails, "" when verified."""
    undecided: dict[str, list[Any]] = field(default_factory=dict)
    """Field -> other values with which the reference gives what the port recorded, as well."""

    @property
    def to(self) -> To:
        """What `bind` takes."""
        kind = self.config["type"]
        return To(NAME, kind, {k: v for k, v in self.config.items() if k != "type"}, call=self.call)


@dataclass
class Proposal:
    """The candidates, the likeliest first, and the binding of the one that verified, or else of the nearest."""

    candidates: list[Candidate]
    binding: Any = None


def propose(case: Case, bind: Callable[..., Any], *, seconds: float) -> Proposal:
    """Configurations of ours that a port may have, by its shapes, bound by `bind` until one is verified.

    Raises `InputError` where its shapes are those of none of the models that are known here.
    """
    found = guesses(case)
    if not found:
        raise InputError(
            f"{case.name}: its shapes fit no PerceiverIO, PerceiverAR, PerceiverResampler or GatedCrossAttention of "
            "vectors or ids; say what it is with --to"
        )
    deadline = clock() + seconds
    proposal = Proposal([Candidate(configured(g, _first(g)), g.call) for g in found[:_GUESSES]])
    for each in _SLICES:
        searches = [_Search(case, bind, g, c, deadline, each) for g, c in zip(found, proposal.candidates)]
        begun = [search for search in searches if clock() < deadline and search.begin()]
        # what binds most as it is comes first; the sort keeps the order of the likeliest
        begun.sort(key=lambda search: (search.best.verified, search.most), reverse=True)
        for search in begun:
            if search.best.verified or clock() < deadline:
                made = search.run(min(deadline, clock() + _SHARE * seconds))
                if proposal.binding is None or made.verified:
                    proposal.binding = made
                if made.verified:
                    return proposal
    if proposal.binding is None:
        raise InputError(f"{case.name}: cannot tell its configuration from its shapes; say what it is with --to")
    return proposal


def _first(guess: Guess) -> Chosen:
    return {key: values[0] for key, values in guess.open.items()}


class _Search:
    """One guess, its open fields tried."""

    def __init__(
        self, case: Case, bind: Callable[..., Any], guess: Guess, candidate: Candidate, deadline: float, each: float
    ) -> None:
        self.bind, self.each = bind, each
        self.case, self.guess, self.candidate, self.deadline = case, guess, candidate, deadline
        self.chosen = _first(guess)
        self.best: Any = None
        self.most = -1

    def begin(self) -> bool:
        """Bind the likeliest of what is open; whether it can be run."""
        self._bound(self.chosen)
        return self.best is not None

    def run(self, deadline: float) -> Any:
        """The binding that verified, or the one with the most evidence."""
        self.deadline = deadline
        if self.best.verified:
            return self._settled()
        # values inside tell one field after the other; outputs alone only all of them together
        steps = (self._by_values, self._by_outputs) if self.case.trace else (self._by_outputs, self._by_values)
        return self._settled() if any(step() for step in steps) else self.best

    def _by_values(self) -> bool:
        """Whether fields changed one at a time, for as many parameters bound by values as can be, verify."""
        for key, values in self.guess.open.items():
            for value in values:
                if clock() > self.deadline:
                    return False
                if value != self.chosen[key] and self._bound({**self.chosen, key: value}):
                    return True
        return False

    def _bound(self, chosen: Chosen) -> bool:
        """Whether these fields verify; they are kept where more parameters are bound by values than before."""
        candidate = replace(self.candidate, config=configured(self.guess, chosen))
        left = self.deadline - clock()
        try:
            made = self.bind(self.case, candidate.to, seconds=max(min(self.each, left), 0.5))
        except InputError as error:
            self.candidate.message = str(error) if self.most < 0 else self.candidate.message
            return False
        evidence = sum(row.why.startswith("value") for row in made.rows)
        if made.verified or evidence > self.most:
            self.best, self.most, self.chosen = made, evidence, chosen
            self.candidate.config, self.candidate.message = candidate.config, made.message
        return bool(made.verified)

    def _by_outputs(self) -> bool:
        """Whether some choice gives the port's outputs with the parameters as they are guessed, and verifies."""
        return any(self._gives(chosen) and self._bound(chosen) for chosen in self._choices())

    def _choices(self) -> Iterator[Chosen]:
        """All choices, those first that change least."""
        keys, values = list(self.guess.open), list(self.guess.open.values())
        places = itertools.product(*(range(len(v)) for v in values))
        near = sorted(itertools.islice(places, 200_000), key=lambda place: (sum(i > 0 for i in place), sum(place)))
        until = clock() + _RUNNING * (self.deadline - clock())
        for place in near[:_RUNS]:
            if clock() > until:
                return
            yield {key: options[i] for key, options, i in zip(keys, values, place)}

    def _gives(self, chosen: Chosen) -> bool:
        to = replace(self.candidate, config=configured(self.guess, chosen)).to
        made: Map = self.best.map
        arrays = self.case.params | self.case.state
        try:
            inputs = {name: part.read(self.case.inputs) for name, part in made.inputs.items()}
            inputs = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in inputs.items()}
            target = Target(to, inputs, self.guess.call)
            params = {
                path: read_source(source, arrays, path).astype(np.float64) for path, source in made.parameters.items()
            }
            outputs = target.run(params, inputs, self.guess.call)
        except RUNS:
            return False
        limit = TOLERANCES[self.case.meta["dtype"]]["output"]
        ours = [np.asarray(value) for value in outputs.values()]
        theirs = [a for a in self.case.outputs.values() if a.dtype.kind == "f"]
        return any(_near(a, b, limit) for a in theirs for b in ours)

    def _settled(self) -> Any:
        """The verified binding, of the nearest of the values that verify; the others are undecided."""
        self.candidate.verified, self.candidate.message = True, ""
        error = _error(self.case, self.best.map)
        for key, values in self.guess.open.items():
            others = [value for value in values if value != self.chosen[key]]
            within: list[tuple[float, Any, Map]] = []
            for value in others:
                other = replace(self.candidate, config=configured(self.guess, {**self.chosen, key: value}))
                made = replace(self.best.map, to=other.to)
                apart = _error(self.case, made)
                if apart <= 1:
                    within.append((apart, value, made))
            nearest = min(within, key=lambda row: row[0], default=None)
            if nearest is not None and nearest[0] * _CLEARLY < error:
                within.append((error, self.chosen[key], self.best.map))
                error, self.chosen[key] = nearest[:2]
                self.best.map = nearest[2]
                self.candidate.config = configured(self.guess, self.chosen)
            alike = [v for e, v, _ in within if v != self.chosen[key] and e <= _CLEARLY * max(error, 1e-9)]
            if alike:
                self.candidate.undecided[key.removeprefix("+")] = alike
        return self.best


def _near(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    if a.size != b.size or not a.ndim:
        return False
    if a.shape == b.shape and difference(a, b) <= limit:
        return True
    moved = np.swapaxes(a, -1, -2) if a.ndim > 1 else a
    return moved.shape == b.shape and difference(moved, b) <= limit


def _error(case: Case, made: Map) -> float:
    """The largest error of all that is compared, in tolerances; infinite where it cannot be run."""
    try:
        result = check_case(translate(case, made), case.name)
    except RUNS:
        return float("inf")
    if result.status == "error" or not result.agreements:
        return float("inf")
    worst = max(a.error / a.tolerance if a.tolerance else float("inf") for a in result.agreements)
    return worst if result.status == "pass" else max(worst, 2.0)


def said(candidate: Candidate) -> list[str]:
    """A candidate in a few lines: what it is, whether it was verified, what is undecided."""
    made = [f"{'verified' if candidate.verified else 'not verified'}: {_short(candidate.config)}"]
    made += [f"    {key}: {_values(values)} would do as well" for key, values in candidate.undecided.items()]
    if candidate.message:
        made.append(f"    {candidate.message}")
    return made


def _values(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _short(config: Mapping[str, Any]) -> str:
    """A configuration in one line, its conventions by what names them."""
    parts = []
    for key, value in config.items():
        if key == "type":
            continue
        if key == "conventions":
            parts.append(f"{value['activation']}, eps {value['norm_eps']:g}" + (", gated MLP" * value["gated_mlp"]))
        else:
            parts.append(f"{key} {_short(value) if isinstance(value, Mapping) else value}")
    return f"{config.get('type', '')}({', '.join(parts)})"
