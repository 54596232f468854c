"""`perceiver-ref diagnose`: whether an implementation's outputs are right, and if not, why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..autograd.backend import module
from ..errors import InputError, listed
from ..porting.cases import write_case
from ..porting.diagnosis.diagnose import Diagnosis, diagnose_file
from ..porting.gradients.diagnose import GradientDiagnosis
from ..porting.report import Picture, Report, ReportParameter, ReportPoint, excerpt, picture, write_report
from ..porting.subject import Cause
from . import measured
from .main import MISMATCH, OK, on_backend
from .mapping import mapping, reader
from .places import excerpt_beside
from .result import aligned, write_result
from .seconds import seconds
from .words import opened

_LEAVES, _FORMS = 0.9, 4
"""Of the forms of lower precision that were tried, those that leave less than this are printed, and so many"""


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    command.add_argument(
        "case", metavar="CASE", help="a case whose outputs come from the implementation under test, or a reference case"
    )
    command.add_argument(
        "mine",
        metavar="MINE",
        nargs="?",
        help="outputs of the implementation under test, in place of CASE's; any format",
    )
    mapping(command)
    command.add_argument("--html", metavar="F", help="a page to write: verdict, growth of the error, where it begins")
    command.add_argument(
        "--excerpt", metavar="F", help=".npz to write where an unexplained difference begins (default: beside CASE)"
    )
    command.add_argument(
        "--budget",
        metavar="SECONDS",
        type=seconds,
        help="how long the search for a cause may take (default: 25, for a large model as long as a few runs of it)",
    )
    on_backend(command)
    measured.options(command, by_thresholds=False)


def diagnose(given: argparse.Namespace) -> int:
    """`perceiver-ref diagnose`: 0 for a match or rounding, 1 for a difference."""
    module(given.backend)
    found = diagnose_file(given.case, given.mine, budget=given.budget, backend=given.backend, read=reader(given.map))
    _print(found, every=given.measures)
    write_result(given.json, _json(found))
    if given.html:
        write_report(given.html, _report(found))
    if found.verdict == "unexplained":
        _write_excerpt(given, found)
    return OK if found.verdict in ("match", "rounding") else MISMATCH


def _write_excerpt(given: argparse.Namespace, found: Diagnosis) -> None:
    """Where the difference begins; that nobody asked for it beside CASE, it may fail to be written there."""
    path = Path(given.excerpt) if given.excerpt else excerpt_beside(given.mine or given.case)
    if found.excerpt_case is None:
        print("no excerpt is written: no operation of the reference makes that array by itself")
        return
    try:
        write_case(path, found.excerpt_case)
    except (InputError, OSError) as error:
        if given.excerpt:
            raise
        print(f"perceiver-ref diagnose: note: no excerpt ({error}); say where with --excerpt", file=sys.stderr)
    else:
        what = found.excerpt_case.meta["notes"]
        print(f"{path} is a case of where it begins ({what}): perceiver-ref check {path} says when it is right")


def _verdict(found: Diagnosis) -> list[str]:
    said = {
        "match": "the outputs are the reference's",
        "rounding": f"the outputs are the reference's but for rounding in {found.dtype}",
        "deviation": "the outputs differ, and this explains it: " + " and ".join(map(_said, found.explanation)),
        "unexplained": "the outputs differ, and no known deviation explains it",
    }
    backward = found.gradients
    if _is_backward(found):
        said["deviation"] = "the outputs are right, gradients are not: " + " and ".join(map(_said, found.explanation))
        said["unexplained"] = "the outputs are right, gradients are not, and no known deviation explains it"
    shown = found.first_divergence and not _is_backward(found)
    first = [f"first point that differs: {found.first_divergence}"] if shown else []
    error = f"error of the outputs: {found.error:.1e}{_limits(found.expected_rounding)}"
    lines = [f"{found.verdict}: {said[found.verdict]}", error, *first]
    return lines if backward is None else [*lines, *_gradients(backward)[_is_backward(found) :]]


def _limits(expected: Mapping[str, float]) -> str:
    """What rounding would make, where that was computed."""
    rounding = ", ".join(f"{error:.1e} in {dtype}" for dtype, error in expected.items())
    return f" (rounding makes up to {rounding})" if rounding else ""


def _is_backward(found: Diagnosis) -> bool:
    """Whether only gradients differ."""
    backward = found.gradients
    return backward is not None and backward.explanation == found.explanation and backward.step is not None


def _gradients(found: GradientDiagnosis) -> list[str]:
    under = f" with {' and '.join(found.under)}" if found.under else ""
    said = {
        "match": f"the gradients are the reference's{under}",
        "rounding": f"the gradients are the reference's{under} but for rounding in {found.dtype}",
        "deviation": f"the gradients differ from the reference's{under}: "
        + " and ".join(map(_said, found.explanation)),
        "unexplained": f"the gradients differ from the reference's{under}, and no known deviation explains it",
        "not checked": f"the gradients are not checked: they cannot be computed{under}"
        if under
        else "the gradients are not checked, as the outputs are not explained",
    }
    if found.verdict == "not checked":
        return [said[found.verdict]]
    lines = [said[found.verdict], f"error of the gradients: {found.error:.1e}{_limits(found.expected_rounding)}"]
    if found.step:
        lines.append(f"first divergence in backward: {found.first_divergence} ({found.step})")
    if found.affected:
        lines.append(f"wrong gradients: {listed(found.affected)}")
    return lines


def _report(found: Diagnosis) -> Report:
    """The result as a page."""
    points = [
        ReportPoint(
            p.name,
            p.error,
            roundings=p.rounding,
            units=p.units,
            cells={name.upper(): measured.text(name, p.measures.get(name), unit=False) for name in ("nmse",)},
            note="; ".join(words for _, words in p.found),
        )
        for p in found.points
    ]
    shown = found.excerpt
    begins = excerpt(str(shown["point"]), shown["reference"], shown["candidate"]) if shown else None
    first = f"trace/{found.first_divergence}" if found.first_divergence else None
    if _is_backward(found) and shown:
        first = str(shown["point"])
    others = [" and ".join(map(_said, causes)) for causes in found.others[:4]]
    notes = [*found.notes, *(f"Also possible: {other}" for other in others)]
    good = found.verdict in ("match", "rounding")
    wrong = set() if found.gradients is None else set(found.gradients.affected)
    return Report(
        f"Diagnosis of {found.path}",
        good,
        _verdict(found),
        points,
        begins,
        first,
        notes,
        _picture(found),
        [ReportParameter(*row, wrong=_is_wrong(row.name, wrong)) for row in found.parameters],
    )


def _picture(found: Diagnosis) -> Picture | None:
    shown = found.excerpt
    if not shown:
        return None
    return picture(str(shown["point"]), shown["reference"], shown["candidate"], found.tolerance, found.heads)


def _is_wrong(name: str, affected: set[str]) -> bool:
    return name in affected or f"grad_param/{name}" in affected


def _print(found: Diagnosis, *, every: bool) -> None:
    searched = [f"tried: {', '.join(found.tried)}"] if found.tried else []
    print("\n".join([*map(opened, _verdict(found)), *searched, *(f"note: {note}" for note in found.notes)]))
    if found.points and (every or found.verdict != "match"):
        _print_points(found, every=every)
    if found.verdict != "match" and (tried := _tried(found)):
        print("\nlower precision that was tried, and what it leaves of the difference:")
        for row in aligned([(variant, f"{100 * left:.3g} %") for variant, left in tried]):
            print(f"  {'  '.join(row)}")
    if found.others:
        print("\nalso possible, in this order:")
        for causes in found.others[:4]:
            print(f"  {' and '.join(map(_said, causes))}")


def _print_points(found: Diagnosis, *, every: bool) -> None:
    rows: list[tuple[str, ...]] = [("point", "error", "NMSE", "cosine", f"{found.unit} rounding", "in units of it")]
    for point in found.points:
        limit, units = point.rounding.get(found.unit), point.units.get(found.unit)
        told = ("", "") if limit is None or units is None else (f"{limit:.1e}", f"{units:.2g}")
        some = [measured.text(name, point.measures.get(name), unit=False) for name in ("nmse", "cosine")]
        rows.append((point.name, f"{point.error:.1e}", *some, *told))
    print()
    for row, line in zip((None, *found.points), aligned(rows, left=1)):
        print("  ".join(line).rstrip())
        if row is not None:
            below = [*(measured.lines(row.measures, every=True) if every else []), *measured.looks_like(row.found)]
            print("".join(f"{text}\n" for text in below), end="")


def _tried(found: Diagnosis) -> list[tuple[str, float]]:
    """The forms of lower precision that explain some of the difference."""
    return [(variant, left) for variant, left in found.formats if left < _LEAVES][:_FORMS]


def _said(cause: Cause) -> str:
    return f"{cause.cause} ({cause.variant}; {100 * (1 - cause.remaining):.4g} % of the difference)"


def _json(found: Diagnosis) -> dict[str, Any]:
    return {
        **_found(found),
        "unit": found.unit,
        "notes": found.notes,
        "stopped": found.stopped,
        "tried": found.tried,
        "gradients": None if found.gradients is None else _gradients_json(found.gradients),
        "parameters": [p._asdict() for p in found.parameters],
        "formats": [{"variant": variant, "remaining": left} for variant, left in found.formats],
        "points": [
            {
                "name": p.name,
                "error": p.error,
                "rounding": p.rounding,
                "units": p.units,
                "measures": p.measures,
                "found": measured.found_json(p.found),
            }
            for p in found.points
        ],
    }


def _gradients_json(found: GradientDiagnosis) -> dict[str, Any]:
    return {**_found(found), "step": found.step, "affected": found.affected, "under": found.under}


def _found(found: Diagnosis | GradientDiagnosis) -> dict[str, Any]:
    """What is said of outputs and of gradients alike."""
    return {
        "verdict": found.verdict,
        "first_divergence": found.first_divergence,
        "causes": found.causes,
        "explanation": [vars(cause) for cause in found.explanation],
        "others": [[vars(cause) for cause in causes] for causes in found.others],
        "error": found.error,
        "expected_rounding": found.expected_rounding,
        "dtype": found.dtype,
    }
