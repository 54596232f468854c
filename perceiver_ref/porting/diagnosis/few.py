"""The order in which deviations of a large case with few outputs are run: by what they do to a few of the latents.

Latents are many of one kind, and what comes out is a mean over them: a model with a few of them, taken from all over,
and with fewer of the blocks that share their weights, changes with a deviation much as the whole one does, at a
hundredth of the cost. What a deviation does is measured stretch by stretch, in the decoder, the self-attentions and the
encoder's cross-attention, and what it does in several of them is taken for the sum. Those that point at the difference,
and are of its size, are run in the whole model first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...autograd import tree
from ...autograd.backend import to_host, xp
from ...autograd.handlers import handle
from ...host.budget import is_spent
from ...host.progress import steps
from ...models.encoder import Encoder
from ...models.tracing import trace
from ..deviations import Candidate
from ..deviations.base import edited, is_cross
from ..subject import CANNOT_BE_RUN, Arrays
from ..subject.course import Course, Part
from ..subject.large import ROOM, LargeSubject
from ..subject.memo import Memo
from .screen import GROUP, Screen

LATENTS = 16
"""So many latents are taken,"""
MANY = 8
"""of at least so many times as many"""
BLOCKS = 2
"""So many blocks are run of those that share their weights: what they change points much the same way after a few."""
SURE = 0.5
"""A deviation that points so far is run as soon as it is found, where its size may be that of the difference,"""
SIZES = (1 / 3, 3.0)
"""which is within these factors."""
EXACT = 0.99
"""The same for what is in the decoder alone, which is run as it is in the whole model"""
WIDTH = 1.2
"""Of what is e^WIDTH times as large or small as the difference the score is e^-1/2 times what it is at its size: with
few latents what averages out over many is larger by up to four times."""
PIXELS = 1 << 13
"""Of more inputs than this every second, third and so on is taken where the first cross-attention is measured."""
MEASURE = 0.65
"""This part of the time is for measuring; the rest is for runs of the whole model"""
_SMALL = 1 << 22
"""Bytes of results that are kept of the run with few latents, but for what goes into the first attention"""
_LOOKS = 24
"""So many numbers along each axis tell a changed parameter from others"""
_IDLE = 1e-6
"""A change of less than this part of the outputs is float32's rounding"""
_MISSES, _AWAY = 2, 0.15
"""Of variants that differ in a number no further ones are measured when so many have a smaller cosine than that."""
_NUMBER = re.compile(r"\b\d[\d.e+-]*")
_END, _MIDDLE, _FIRST = "end", "middle", "first"
_STRETCHES = {
    "everywhere": (_FIRST, _MIDDLE, _END),
    "in the encoder": (_FIRST, _MIDDLE),
    "in self-attention": (_MIDDLE,),
    "in cross-attention": (_FIRST, _END),
    "in the decoder": (_END,),
    "in the encoder's cross-attention": (_FIRST,),
}
"""The label of a group of places -> where they are"""
_STANDS_FOR = {
    _END: ("in the decoder", "in cross-attention", "everywhere"),
    _MIDDLE: ("in self-attention", "in the encoder", "everywhere"),
    _FIRST: ("in the encoder's cross-attention",),
}
"""A stretch -> the labels of which the first that there is does there what the others do"""
_UNTOLD, _FEW_UNTOLD = "attention-scale", 2
"""Where logits grow many times larger each latent attends to a single other one, which among few is not the same: of
such a deviation few latents tell the size alone. So many of that size are run."""
Kind = tuple[str, str]
"""Of deviations that differ in their place alone: the cause, and the variant without the place"""


class Ranked(NamedTuple):
    """A deviation and how well what it does fits."""

    score: float
    cosine: float
    size: float
    candidate: Candidate


class Stretch(NamedTuple):
    """A run of the model from some place on, and what it gives without deviations."""

    part: Part
    ours: Arrays


class FewLatents:
    """The model with a few latents. `middle` and `first` are runs from the first self-attention and cross-attention
    on, None where the model has none; `whole` is all of it."""

    def __init__(self, subject: LargeSubject, encoder: Encoder, path: str) -> None:
        self.subject = subject
        rows = np.linspace(0, encoder.latents - 1, LATENTS).astype(int)
        blocks = encoder.blocks
        if encoder.shared_blocks == "all":
            blocks = min(blocks, max(BLOCKS, encoder.cross_attends))

        def fewer(part: Any) -> Any:
            return part.with_fields(latents=LATENTS, blocks=blocks) if isinstance(part, Encoder) else part

        self.model = subject.rebuilt.model.map_parts(fewer)
        self.params = edited(subject.params, lambda name, a: a[rows] if name == path else a)
        self.course = Course()
        ours, known = self._recorded()
        self.whole = Stretch(self._part(0, {}), ours)
        attentions = [step.place for step in self.course.steps if step.op == "attention"]
        middle = self._from(next((place for place in attentions if not is_cross(place)), None), known)
        first = self._from(next((place for place in attentions if is_cross(place)), None), known)
        self.middle = None if middle is None else Stretch(middle, ours)
        self.first = None if first is None else Stretch(first, self._begun(first))

    @classmethod
    def of(cls, subject: LargeSubject) -> FewLatents | None:
        """The model of a subject with few latents; None where it is not made so, or has few."""
        encoders = subject.survey.of_class(Encoder)
        if len(encoders) != 1 or encoders[0].latents < MANY * LATENTS:
            return None
        shape = (encoders[0].latents, encoders[0].channels)
        paths = [n for n, a in subject.survey.paths.items() if n.split("/")[-1] == "latents" and a.shape == shape]
        made = cls(subject, encoders[0], paths[0]) if len(paths) == 1 else None
        return made if made is not None and made.whole.ours else None

    def _recorded(self) -> tuple[Arrays, dict[int, Any]]:
        """Run once: the outputs, and what steps made, by their number, where it is small or before all attention."""
        kept: dict[int, Any] = {}
        began = False

        def run(op: Any, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
            nonlocal began
            out = op(*arguments, **static)
            step = self.course.steps[-1]
            began = began or is_cross(step.place)
            size = sum(a.nbytes for a in (out if isinstance(out, tuple) else (out,)))
            if size <= _SMALL or not began:
                kept[len(self.course.steps) - 1] = out
            return out

        with self.course.recording(lambda: 0), handle(run), trace(frozenset()), np.errstate(all="ignore"):
            outputs = self.subject.run(self.params, self.subject.inputs, self.model)
        return self._compared({f"output/{name}": to_host(array) for name, array in outputs.items()}), kept

    def _part(self, begin: int, known: Mapping[int, Any]) -> Part:
        own = self.course.steps
        needed = self.course.needed(range(begin, len(own)), known)
        used = {source for i in needed for source in own[i].sources}
        chosen = {i: made for i, made in known.items() if i in used}
        return Part(own, needed, self.subject.dtype, begin, known=chosen)

    def _from(self, place: str | None, known: Mapping[int, Any]) -> Part | None:
        """The run from the layer of an attention on, from what is known before it."""
        if place is None:
            return None
        layer = place.rpartition(".")[0]
        begin = next(i for i, step in enumerate(self.course.steps) if step.place.startswith(layer))
        return self._part(begin, {i: made for i, made in known.items() if i < begin})

    def _begun(self, part: Part) -> Arrays:
        """What a part gives of fewer inputs. What leads to keys and values is kept, for other queries."""
        if not self.subject.survey.masked and not self.subject.survey.biased:
            part.known = {i: _fewer_rows(made) for i, made in part.known.items()}
        memo = Memo(ROOM // 4)
        for _, array in tree.leaves(self.params):
            memo.distinct(array)
        for made in part.known.values():
            for array in made if isinstance(made, tuple) else (made,):
                memo.distinct(array)
        part.kept = memo.record
        ours = self.made(part) or {}
        part.kept = memo.replay
        return ours

    def made(self, part: Part, *chosen: Candidate) -> Arrays | None:
        """The outputs that do not have latents as rows, with deviations; None where they do not fit."""
        outputs = self.subject.ending(part, *chosen, model=self.model, params=self.params)
        return None if outputs is None else self._compared(outputs)

    def _compared(self, outputs: Arrays) -> Arrays:
        expected = self.subject.expected
        return {name: a for name, a in outputs.items() if name in expected and a.shape == expected[name].shape}


@dataclass
class Few:
    """Iterating gives all candidates in their order, as `Screen` does; `measured` counts what was looked at."""

    model: FewLatents
    screen: Screen
    candidates: Sequence[Candidate]
    sure: bool = True
    """As of `Screen`"""
    measured: int = 0
    changes: dict[str, dict[Kind, np.ndarray]] = field(default_factory=dict)
    """By stretch what each kind of deviation does there"""
    alone: dict[Candidate, np.ndarray] = field(default_factory=dict)
    """What those do that are in no group of places"""

    def __post_init__(self) -> None:
        self.names = list(self.model.whole.ours)
        subject = self.model.subject
        ours = self._row(subject.ours)
        self.wanted = _apart(self._row(subject.expected) - ours, ours)
        self.kinds: dict[Kind, dict[str, Candidate]] = {}
        self.given: set[int] = set()
        self.run: list[tuple[Kind, str]] = []
        """Those that were given"""
        for candidate in self.candidates:
            kind, label = self._kind_of(candidate)
            self.kinds.setdefault(kind, {}).setdefault(label, candidate)

    def __iter__(self) -> Iterator[Candidate]:
        few = self.model
        end = Stretch(self.screen.part, few.subject.ours) if is_cross(self.screen.last) else None
        for name, stretch in ((_END, end), (_MIDDLE, few.middle), (_FIRST, few.first)):
            self.changes[name] = {}
            if stretch is not None:
                self._measure(name, stretch)
                yield from self._sure()
        for labels in steps(list(self.kinds.values()), "looking at few latents"):
            if "" in labels and not is_spent(MEASURE):
                change = self._change(few.whole, labels[""])
                if change is not None:
                    self.alone[labels[""]] = change
        self.sure = False
        for ranked in self._untold():
            yield self._give(ranked.candidate)
        while best := self._ranked():
            yield self._give(best[0].candidate)
        for candidate in self.candidates:
            if id(candidate) not in self.given:
                yield self._give(candidate)

    def _measure(self, name: str, stretch: Stretch) -> None:
        """What each kind of deviation does in a stretch; of variants that differ in a number the largest first."""
        misses: dict[Kind, int] = {}
        same: dict[Any, np.ndarray | None] = {}
        for kind in steps(self._in_families(), f"looking at the {name} of few latents"):
            if is_spent(MEASURE):
                return
            candidate, family = self._standing_for(name, kind, self.kinds[kind]), _family(kind)
            if candidate is None or misses.get(family, 0) >= _MISSES:
                continue
            key = _looks(candidate, self.model.params)
            change = same[key] if key in same else self._change(stretch, candidate)
            if key is not None:
                same[key] = change
            if change is not None:
                self.changes[name][kind] = change
                away = self._cosine(change) < _AWAY
                misses[family] = misses.get(family, 0) + 1 if away and family != kind else 0

    def _in_families(self) -> list[Kind]:
        """All kinds, those that differ in a number together and in reverse."""
        families: dict[Kind, list[Kind]] = {}
        for kind in self.kinds:
            families.setdefault(_family(kind), []).insert(0, kind)
        return [kind for family in families.values() for kind in family]

    def _standing_for(self, stretch: str, kind: Kind, labels: Mapping[str, Candidate]) -> Candidate | None:
        """The candidate of a kind that does in this stretch what all do that are there."""
        chosen = list(_STANDS_FOR[stretch])
        if stretch == _FIRST and kind not in self.changes[_MIDDLE]:
            chosen.append("in the encoder")
            if kind not in self.changes[_END]:
                chosen.append("everywhere")
        return next((labels[label] for label in chosen if label in labels), None)

    def _change(self, stretch: Stretch, candidate: Candidate) -> np.ndarray | None:
        """What a deviation does to the outputs, without what is along them; None where it does nothing or is none."""
        self.measured += 1
        ours = self._row(stretch.ours)
        if stretch.part is self.screen.part:
            made = self.model.subject.ending(stretch.part, candidate)
        else:
            made = self.model.made(stretch.part, candidate)
        if made is None or any(name not in made for name in self.names):
            return None
        row = self._row(made)
        if row.shape != ours.shape or not np.isfinite(row).all():
            return None
        change = _apart(row - ours, ours)
        return change if float(np.linalg.norm(change)) > _IDLE * float(np.linalg.norm(ours)) else None

    def _row(self, made: Mapping[str, np.ndarray]) -> np.ndarray:
        parts = []
        for name in self.names:
            scale = max(float(np.abs(self.model.subject.expected[name]).max(initial=0.0)), 1.0)
            parts.append(made[name].astype(np.float64).reshape(-1) / scale)
        return np.concatenate(parts)

    def _cosine(self, change: np.ndarray) -> float:
        size = float(np.linalg.norm(change) * np.linalg.norm(self.wanted))
        return float(change @ self.wanted) / size if size else 0.0

    def _rank(self, candidate: Candidate, change: np.ndarray) -> Ranked:
        size = float(np.linalg.norm(change)) / max(float(np.linalg.norm(self.wanted)), 1e-300)
        cosine = self._cosine(change)
        apart = np.log(max(size, 1e-300)) / WIDTH
        return Ranked(cosine * float(np.exp(-(apart**2) / 2)), cosine, size, candidate)

    def _ranked(self) -> list[Ranked]:
        """Those that are not given yet and point at the difference, the best first; none that does what one did."""
        return sorted((r for r in self._known() if r.score > 0), key=lambda r: -r.score)

    def _untold(self) -> list[Ranked]:
        """Scales of logits that may be as large as it takes, those that are everywhere first."""
        found = [r for r in self._known() if r.candidate.cause == _UNTOLD and SIZES[0] < r.size < SIZES[1]]
        return sorted(found, key=lambda r: not r.candidate.variant.endswith("everywhere"))[:_FEW_UNTOLD]

    def _known(self) -> Iterator[Ranked]:
        """Those of which it is known what they do, but for what was given; and for what does the same, once all is
        measured."""
        run = [] if self.sure else [c for c in itertools.starmap(self._change_of, self.run) if c is not None]
        for kind, labels in self.kinds.items():
            for label, candidate in labels.items():
                early = _MIDDLE not in self.changes and _STRETCHES.get(label) != (_END,)
                if early or id(candidate) in self.given:
                    continue
                change = self._change_of(kind, label)
                if change is not None and not any(_is_same(change, other) for other in run):
                    yield self._rank(candidate, change)

    def _change_of(self, kind: Kind, label: str) -> np.ndarray | None:
        """What a deviation does, as far as it is known."""
        parts = [self.changes.get(stretch, {}).get(kind) for stretch in _STRETCHES.get(label, ())]
        known = [change for change in parts if change is not None]
        return sum(known[1:], known[0]) if known else self.alone.get(self.kinds[kind][label])

    def _sure(self) -> Iterator[Candidate]:
        """Those of which a run is worth its time at once: of the end alone, which is run as it is, what is all of the
        difference."""
        least = SURE if _MIDDLE in self.changes else EXACT
        while best := self._ranked():
            if best[0].cosine < least or not SIZES[0] < best[0].size < SIZES[1]:
                return
            yield self._give(best[0].candidate)

    def told(self, made: Arrays | None, remaining: float) -> None:
        """As of `Screen`: nothing is learned of it."""

    def _give(self, candidate: Candidate) -> Candidate:
        self.given.add(id(candidate))
        kind, label = self._kind_of(candidate)
        if self.kinds[kind][label] is candidate:
            self.run.append((kind, label))
        return candidate

    @staticmethod
    def _kind_of(candidate: Candidate) -> tuple[Kind, str]:
        """What it is, and the label of where: none where that is no group of places."""
        group = GROUP.search(candidate.variant)
        if group is None or group.group(1) not in _STRETCHES:
            return (candidate.cause, candidate.variant), ""
        return (candidate.cause, GROUP.sub("", candidate.variant)), group.group(1)


def _is_same(change: np.ndarray, other: np.ndarray) -> bool:
    return float(np.linalg.norm(change - other)) <= _IDLE * float(np.linalg.norm(other))


def _fewer_rows(made: Any) -> Any:
    """Of an array with very many rows every second, third and so on."""
    if isinstance(made, tuple) or made.ndim < 2 or made.shape[-2] <= PIXELS:
        return made
    return xp(made).ascontiguousarray(made[..., :: -(-made.shape[-2] // PIXELS), :])


def _looks(candidate: Candidate, params: Any) -> Any:
    """What tells a change of parameters alone from others, by a few of their numbers; None for any other change."""
    change = candidate.change
    if change.params is None or change.parts is not None or change.ops is not None:
        return None
    try:
        changed = dict(tree.leaves(change.params(params)))
    except CANNOT_BE_RUN:
        return None
    looks = []
    for path, array in tree.leaves(params):
        if (made := changed.get(path)) is not array and made is not None:
            few = made[tuple(slice(None, None, max(size // _LOOKS, 1)) for size in made.shape)]
            looks.append((path, made.shape, to_host(few).tobytes()))
    return tuple(looks)


def _family(kind: Kind) -> Kind:
    """The same of all variants that differ in a number."""
    return kind[0], _NUMBER.sub("", kind[1])


def _apart(change: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """A change without its part along our outputs: whatever breaks the model takes that away."""
    own = float(ours @ ours)
    return change - ours * (float(ours @ change) / own) if own else change
