"""An audit as lines for people, as JSON and as tables of a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..deviations import CAUSES
from .equal import same_reason
from .matrix import Audit, ModelAudit
from .trial import Key

SHOWN = 12
"""Of what is missed so many are printed of a model"""
HEAD = ("model", "cases", "told apart", "missed", "equal", "score", "enough are")


def percent(model: ModelAudit | Audit) -> str:
    """The score; 100 % only where all is told apart."""
    told = model.told if isinstance(model.told, int) else len(model.told)
    part = told / model.applicable if model.applicable else 1.0
    return "100 %" if part == 1.0 else f"{min(100 * part, 99.9):.1f} %"


def rows(audit: Audit) -> list[tuple[str, ...]]:
    """A row a model, under `HEAD`."""
    return [
        (
            model.name,
            str(len(model.cases)),
            f"{len(model.told):,} of {model.applicable:,}",
            str(len(model.missed)),
            str(len(model.equal)),
            percent(model),
            str(len(model.cover())),
        )
        for model in audit.models.values()
    ]


def remarks(model: ModelAudit) -> Iterator[str]:
    """What is missed, what there was no time for, which names are not certain, and which cases are enough."""
    missed = sorted(model.missed, key=lambda key: -model.largest[key])
    for key in missed[:SHOWN]:
        yield f"not told apart: {said(key)} ({model.largest[key]:.2g} tolerances)"
    if len(missed) > SHOWN:
        yield f"and {len(missed) - SHOWN} more (--json has all)"
    if untried := model.untried:
        yield f"no time for {len(untried)}, such as {said(untried[0])}; give more with --budget"
    unsure = [keys for keys in model.confused() if not same_reason(keys, model.attended)]
    for keys in unsure[:3]:
        yield "the same in every case: " + "; ".join(said(key) for key in _by_cause(keys))
    if len(unsure) > 3:
        yield f"and {len(unsure) - 3} more such sets (--json has all)"


def said(key: Key) -> str:
    """A deviation in words."""
    return f"{key[0]} ({key[1]})"


def _by_cause(keys: Sequence[Key]) -> list[Key]:
    """One of each cause."""
    return list({cause: (cause, variant) for cause, variant in reversed(keys)}.values())[::-1]


def report(audit: Audit) -> dict[str, Any]:
    """The audit for machines."""
    return {
        "told": audit.told,
        "applicable": audit.applicable,
        "complete": audit.complete,
        "models": [_model(model) for model in audit.models.values()],
    }


def _model(model: ModelAudit) -> dict[str, Any]:
    return {
        "model": model.name,
        "told": len(model.told),
        "applicable": model.applicable,
        "score": model.score,
        "cases": [
            {"case": c.name, "tried": c.tried, "told": len(c.told), "skipped": len(c.skipped), "seconds": c.seconds}
            for c in model.cases
        ],
        "causes": {cause: {"told": told, "applicable": every} for cause, (told, every) in model.causes().items()},
        "missed": [{**_key(key), "tolerances": model.largest[key]} for key in model.missed],
        "equal": [{**_key(key), "reason": words} for key, words in model.equal.items()],
        "untried": [_key(key) for key in model.untried],
        "same": [
            {"reason": same_reason(keys, model.attended), "deviations": [_key(key) for key in keys]}
            for keys in model.confused()
        ],
        "cover": [{"case": case, "adds": adds} for case, adds in model.cover()],
    }


def _key(key: Key) -> dict[str, str]:
    return {"cause": key[0], "variant": key[1]}


def matrix(audit: Audit) -> tuple[list[str], list[list[str]]]:
    """Causes and, of each, what every model's cases tell apart: (models, rows). Outputs' causes come first."""
    found = [(model.name, model.causes()) for model in audit.models.values()]
    causes = list(dict.fromkeys(cause for _, own in found for cause in own))
    causes.sort(key=lambda cause: list(CAUSES).index(cause) if cause in CAUSES else len(CAUSES))
    return [name for name, _ in found], [[cause, *(_cell(own.get(cause)) for _, own in found)] for cause in causes]


def _cell(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return ""
    told, every = counts
    return str(told) if told == every else f"{told} of {every}"
