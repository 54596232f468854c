"""docs/COVERAGE.md: which of the deviations that `diagnose` knows the cases of the pack and of the package tell apart.

In a clone, `python docs/make coverage` tries all of them on the pack and the packaged cases, which takes a quarter of
an hour (`--jobs N`: N models at a time); with `--reports F ...` the page is made of what `perceiver-ref export --audit
--json F` wrote.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from perceiver_ref.errors import InputError
from perceiver_ref.host.files import check_writable, read_json, write_text
from perceiver_ref.host.progress import showing, steps
from perceiver_ref.porting.audit import PLAINLY, audited
from perceiver_ref.porting.audit.matrix import model_of
from perceiver_ref.porting.audit.table import report
from perceiver_ref.porting.audit.trial import OF_FLOAT32
from perceiver_ref.porting.cases import PACKAGED, Case, read_case
from perceiver_ref.porting.deviations import CAUSES
from perceiver_ref.porting.export.make import ExportOptions
from perceiver_ref.porting.export.pack import pack
from perceiver_ref.porting.gradients.backward import GRADIENT_CAUSES

SECONDS = 300.0
"""For a case at most"""
OPERATIONS = "operations/"
"""How the names of models begin that are single operations"""

_INTRO = """\
# What the cases tell apart

Mutation testing of the vectors: every deviation that `diagnose` knows, in every variant and place, on every case. A
deviation counts for a model when it makes any of its cases compute otherwise. A case tells it apart when an output, or
for a wrong backward a gradient, is then off by more than {plainly:g} of its tolerances; a part in float32, whose
rounding is not so large, by more than {float32:g}. What is equal in exact arithmetic is counted as that, with a reason
below. `perceiver-ref export --audit` says the same of any model, configuration or folder of cases.

This page is made by `python docs/make coverage`.
"""
_ENOUGH = """\

## Cases that are enough

The fewest cases of each model that tell as much apart as all do, as far as a greedy choice finds them: first the one
that tells most apart, then the one that adds most.
"""
_SAME = """\

## One deviation by two names

Deviations of different causes that do the same to every case of a model, so that either may be named. An empty reason
means that a case is missing which tells them apart.
"""


def page(models: Sequence[Mapping[str, Any]]) -> str:
    """The page of what reports say of these models."""
    whole = [m for m in models if not m["model"].startswith(OPERATIONS)]
    single = [m for m in models if m["model"].startswith(OPERATIONS)]
    parts = [_INTRO.format(plainly=PLAINLY, float32=OF_FLOAT32), *_scores(models)]
    for title, chosen in (("Models", whole), ("Single operations", single)):
        for name, causes in (("outputs", CAUSES), ("gradients", GRADIENT_CAUSES)):
            parts += _matrix(f"{title}: {name}", chosen, list(causes))
    parts += [_ENOUGH, *_table(("model", "cases"), [(m["model"], _cover(m)) for m in models if m["cover"]])]
    parts += ["\n## What cannot be told apart\n", *_table(("model", "deviations", "reason"), list(_equal(models)))]
    parts += [_SAME, *_table(("causes", "sets", "models", "reason"), list(_same(models)))]
    return "\n".join([*parts, ""])


def _scores(models: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [(m["model"], str(len(m["cases"])), *_score([m])) for m in models]
    rows.append(("all", str(sum(len(m["cases"]) for m in models)), *_score(models)))
    head = ("model", "cases", "told apart", "to be told", "missed", "equal", "score")
    missed = [
        (m["model"], f"{d['cause']}: {d['variant']}", "-" if d["tolerances"] is None else f"{d['tolerances']:.2g}")
        for m in models
        for d in m["missed"]
    ]
    more = ["\n## Missed\n", *_table(("model", "deviation", "tolerances"), missed)] if missed else []
    return ["\n## Scores\n", *_table(head, rows), *more]


def _score(models: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    told, every = (sum(m[key] for m in models) for key in ("told", "applicable"))
    part = "100 %" if told == every else f"{min(100 * told / max(every, 1), 99.9):.1f} %"
    return str(told), str(every), *(str(sum(len(m[key]) for m in models)) for key in ("missed", "equal")), part


def _matrix(title: str, models: Sequence[Mapping[str, Any]], causes: Iterable[str]) -> list[str]:
    """Models x causes: the number of deviations that are told apart; "of" how many where some are not."""
    used = [cause for cause in causes if any(cause in m["causes"] for m in models)]
    shown = [m for m in models if any(cause in m["causes"] for cause in used)]
    if not used:
        return []
    rows = [(cause, *(_cell(m["causes"].get(cause)) for m in shown)) for cause in used]
    names = [m["model"].removeprefix(OPERATIONS) for m in shown]
    return [f"\n## {title}\n", *_table(("cause", *names), rows)]


def _cell(found: Mapping[str, int] | None) -> str:
    if found is None:
        return ""
    told, every = found["told"], found["applicable"]
    return str(told) if told == every else f"{told} of {every}"


def _cover(model: Mapping[str, Any]) -> str:
    return ", ".join(f"{c['case'].rpartition('/')[2]} ({c['adds']})" for c in model["cover"])


def _equal(models: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for m in models:
        found: dict[tuple[str, str], int] = {}
        for d in m["equal"]:
            key = (d["cause"], d["reason"])
            found[key] = found.get(key, 0) + 1
        for (cause, reason), count in found.items():
            yield m["model"], f"{cause} ({count})", reason


def _same(models: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for m in models:
        for s in m["same"]:
            causes = ", ".join(dict.fromkeys(d["cause"] for d in s["deviations"]))
            found.setdefault((causes, s["reason"]), []).append(m["model"])
    for (causes, reason), names in found.items():
        yield causes, str(len(names)), ", ".join(dict.fromkeys(names)), reason


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def packaged() -> Iterator[Case]:
    """The cases of the package."""
    return map(read_case, sorted(PACKAGED.rglob("*.npz")))


def reports(cases: Iterable[Case], jobs: int = 1) -> list[dict[str, Any]]:
    """What an audit says of each model that these cases are of; `jobs` models at a time."""
    models = list(by_model(cases).values())
    if jobs == 1:
        return [of_model(some) for some in steps(models, "model")]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(of_model, models))


def by_model(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Cases by the model that they are of."""
    models: dict[str, list[Case]] = {}
    for case in cases:
        models.setdefault(model_of(case), []).append(case)
    return models


def of_model(cases: Sequence[Case]) -> dict[str, Any]:
    """What an audit says of the one model that these cases are of."""
    made: dict[str, Any] = report(audited(cases, SECONDS))["models"][0]
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when the page is written, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python docs/make coverage", description=__doc__)
    parser.add_argument("--reports", nargs="+", type=Path, metavar="F", help="audits in JSON, in place of new ones")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many models at a time")
    parser.add_argument("--page", type=Path, default=Path("docs/COVERAGE.md"), metavar="F", help="page to write")
    given = parser.parse_args(arguments)
    try:
        check_writable(given.page)
        if given.reports:
            read = [read_json(path, "the report of an audit")["audit"] for path in given.reports]
            models = [model for made in read for model in made["models"]]
        else:
            with showing(True):
                models = reports([*pack(ExportOptions(trace=False)), *packaged()], given.jobs)
        write_text(given.page, page(models))
    except (InputError, KeyError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"{given.page}: {len(models)} models")
    return 0
