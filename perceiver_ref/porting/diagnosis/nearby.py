"""The search near the first point that differs: which kinds of deviation, made only there, set that point right.

A model has thousands of places where something may be wrong, but few ops lie between a traced point that is right and
the next. They are tried alone, from the results kept of everything before, and no further than the point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ...models.tracing import where
from ..deviations import Candidate, candidates
from ..deviations.base import layer_of
from ..subject import Subject


def causes_near(subject: Subject, point: str, gate: Mapping[str, float], *, exact: bool = True) -> Iterator[Candidate]:
    """Of each cause a deviation made only there that leaves at most `gate` at a traced point from right inputs.

    `point` is "trace/" and the peer's name. Where numbers are not `exact` to more than `gate`, all that do: the one
    that fits best may not be the first.
    """
    ours = subject.points[point.removeprefix("trace/")]
    before = list(subject.numbers).index(ours)
    layer = layer_of(ours)
    found = subject.survey.part(
        lambda used: used.passed <= before and (used.passed == before or layer_of(used.place) == layer)
    )
    places = {used.place for used in found.events}

    def here() -> bool:
        place = where()
        return place in places or layer_of(place) == layer

    tried: set[str] = {"dtype"}
    for candidate in candidates(found):
        if candidate.cause not in tried:
            variant = f"{candidate.variant.removesuffix(', everywhere')}, in {layer or 'the model'}"
            local = replace(candidate, variant=variant, here=here)
            if subject.reaches(local, gate):
                if exact:
                    tried.add(local.cause)
                yield local
