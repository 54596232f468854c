"""`perceiver-ref compare`: two dumps of intermediate values, how their error grows, and where it begins."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..errors import listed
from ..porting.compare.dumps import Compared, Comparison, compare_files
from ..porting.measured import measured as with_measures
from ..porting.measures import Threshold
from ..porting.report import (
    Picture,
    Report,
    ReportParameter,
    ReportPoint,
    excerpt,
    picture,
    value_text,
    write_report,
)
from . import measured
from .main import MISMATCH, OK
from .mapping import peer_file
from .result import aligned, write_result
from .words import opened
from .words import verdict as word

_HOW = {
    "name": "by name",
    "translated": "by the peer's names for our points",
    "spelling": "by names spelled alike",
    "values": "by their values",
    "order": "by shape and order",
}
_LISTED = 4


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    command.add_argument("reference", metavar="REFERENCE", help="arrays by name, or a case: a file or folder")
    command.add_argument("candidate", metavar="CANDIDATE", help="what is held against it")
    peer_file(command)
    command.add_argument("--html", metavar="FILE", help="also write a page with a plot and the arrays where it begins")
    command.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="X",
        help="largest error that agrees (default: by the coarser dtype of each pair)",
    )
    measured.options(command)


def compare(given: argparse.Namespace) -> int:
    """`perceiver-ref compare`: 1 when a pair differs, outputs are missing or most arrays match nothing, else 0."""
    held = measured.limits(given)
    result = with_measures(compare_files(given.reference, given.candidate, given.tolerance), held)
    _print_matching(result)
    _print_table(result.pairs, every=given.measures)
    print("\nerror: max |candidate - reference| / max(max |reference|, 1); ratio: to the error before")
    print("NMSE: 10 log10(sum (candidate - reference)^2 / sum reference^2) in dB")
    if held:
        print(measured.held_to(held))
    print()
    for line in [*result.notes, *verdict(result)]:
        print(opened(line))
    if given.html:
        write_report(given.html, as_report(result))
    write_result(given.json, _json(result, held))
    return OK if result.passed else MISMATCH


def verdict(result: Comparison) -> list[str]:
    """What was found, in lines: the first says whether all agree."""
    first, before = result.first, result.before_first
    count, failed = len(result.pairs), sum(not pair.passed for pair in result.pairs)
    if first is None:
        worst = result.worst
        agree = f"{count} {_noun(count)} {'agrees' if count == 1 else 'agree'}"
        lines = [f"match: {agree}; the largest error is {worst.error:.1e}, at {_both(worst)}"]
        if result.alone:
            lines = [f"mismatch: {agree}, but most of the {result.alone}'s arrays match nothing"]
    else:
        lines = [f"mismatch: {failed} of {count} {_noun(count)} {'differs' if failed == 1 else 'differ'}"]
        lines.append(f"first divergence: {_both(first)}: {_why(first)}")
        if before is not None:
            lines.append(f"just before it, {_both(before)} agrees: error {before.error:.1e}")
        if first.how == "order":
            lines.append("it was matched by shape and order, not by name: see that the two are meant to be the same")
    if result.missing:
        if first is None:
            lines[0] = f"mismatch: {agree}, but others are missing"
        lines.append(f"missing in the candidate: {listed(result.missing, _LISTED)}")
    return lines


def as_report(result: Comparison) -> Report:
    """The comparison as a page."""
    shown = result.first or result.worst
    part = None if shown.candidate is None else excerpt(_both(shown), shown.reference, shown.candidate)
    renamed = any(pair.other != pair.name for pair in result.pairs)
    points = [
        ReportPoint(
            pair.name,
            pair.error,
            pair.tolerance,
            cells={
                **({"candidate's": pair.other} if renamed else {}),
                "shape": _shape(pair),
                "max abs": f"{pair.largest:.1e}",
                "NMSE": measured.text("nmse", pair.measures.get("nmse"), unit=False),
                "ratio": _ratio(pair),
            },
            note="; ".join([*_remarks(pair), *(words for _, words in pair.found)]),
        )
        for pair in result.pairs
    ]
    alone = [("reference", result.unmatched_reference), ("candidate", result.unmatched_candidate)]
    return Report(
        f"{result.reference.path} and {result.candidate.path}",
        result.passed,
        verdict(result),
        points,
        part,
        result.first.name if result.first else None,
        [
            *_matching(result),
            *(f"in the {side} alone: {', '.join(names)}" for side, names in alone if names),
            *result.notes,
        ],
        _picture(shown),
        [
            ReportParameter(
                pair.name.removeprefix("grad_param/"), pair.reference.shape, None, pair.error, not pair.passed
            )
            for pair in result.pairs
            if pair.name.startswith("grad_param/")
        ],
    )


def _picture(pair: Compared) -> Picture | None:
    if pair.candidate is None:
        return None
    return picture(_both(pair), pair.reference, pair.candidate, pair.tolerance, pair.heads)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0 or math.isinf(value):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return value


def _print_matching(result: Comparison) -> None:
    for line in _matching(result):
        print(line)
    for side, names in (("reference", result.unmatched_reference), ("candidate", result.unmatched_candidate)):
        if names:
            print(f"in the {side} alone: {listed(names, _LISTED)}")
    print()


def _matching(result: Comparison) -> list[str]:
    """How many arrays there are, and how they were matched."""
    sizes = [len(dump.entries) for dump in (result.reference, result.candidate)]
    counts = Counter(pair.how for pair in result.pairs)
    ways = ", ".join(f"{counts[how]} {said}" for how, said in _HOW.items() if counts[how])
    return [f"{sizes[0]} arrays in the reference, {sizes[1]} in the candidate; matched: {ways}"]


def _print_table(pairs: Sequence[Compared], *, every: bool) -> None:
    renamed = any(pair.other != pair.name for pair in pairs)
    head = (
        "point",
        *(("candidate's",) if renamed else ()),
        "shape",
        "max abs",
        "error",
        "NMSE",
        "ratio",
        "tolerance",
        "",
    )
    rows = [
        (
            pair.name,
            *((pair.other,) if renamed else ()),
            _shape(pair),
            f"{pair.largest:.1e}",
            f"{pair.error:.1e}",
            measured.text("nmse", pair.measures.get("nmse"), unit=False),
            _ratio(pair),
            f"{pair.tolerance:.0e}",
            "" if pair.passed else "differs",
        )
        for pair in pairs
    ]
    for row, pair in zip(aligned((head, *rows), left=2 if renamed else 1), (None, *pairs)):
        print("  ".join([*row[:-1], word(row[-1].strip())]).rstrip())
        for line in _below(pair, every=every) if pair else ():
            print(line)


def _below(pair: Compared, *, every: bool) -> list[str]:
    """What is printed below a row: remarks, measures of what differs or of all, and what the difference looks like."""
    made = [f"    {remark}" for remark in _remarks(pair)]
    if pair.missed:
        made.append(f"    misses {', '.join(pair.missed)}")
    if every or not pair.passed:
        made += measured.lines(pair.measures, every=every)
    return made + measured.looks_like(pair.found)


def _remarks(pair: Compared) -> list[str]:
    """What a row does not show: how it was found, dtypes that differ, layouts."""
    made = []
    if pair.how in ("order", "spelling", "values"):
        made.append(f"matched {_HOW[pair.how]}")
    if pair.dtypes[0] != pair.dtypes[1]:
        made.append(f"{pair.dtypes[0]} in the reference, {pair.dtypes[1]} in the candidate")
    if pair.note:
        made.append(pair.note)
    return made


def _why(pair: Compared) -> str:
    """What differs at a pair, with the values where it differs most."""
    if pair.candidate is None or pair.index is None:
        return pair.note
    a, b = pair.reference[pair.index], pair.candidate[pair.index]
    place = f"most at {list(pair.place or ())}, {value_text(b)} instead of {value_text(a)}"
    said = f"; {pair.note}" if pair.note else ""
    said += f"; misses {', '.join(pair.missed)}" if pair.missed else ""
    return f"error {pair.error:.1e}, tolerance {pair.tolerance:.0e}, {place}{said}"


def _both(pair: Compared) -> str:
    return pair.name if pair.other == pair.name else f"{pair.name} (the candidate's {pair.other})"


def _shape(pair: Compared) -> str:
    return "x".join(map(str, pair.shape)) or "scalar"


def _ratio(pair: Compared) -> str:
    return "-" if pair.ratio is None else f"{pair.ratio:.1e}"


def _noun(count: int) -> str:
    return "pair" if count == 1 else "pairs"


def _json(result: Comparison, held: list[Threshold]) -> dict[str, Any]:
    return {
        "reference": result.reference.path,
        "candidate": result.candidate.path,
        "verdict": "match" if result.passed else "mismatch",
        "first_divergence": result.first.name if result.first else None,
        "error": result.worst.error,
        "points": [
            {
                "name": pair.name,
                "candidate": pair.other,
                "matched": pair.how,
                "shape": pair.shape,
                "dtypes": pair.dtypes,
                "max_abs": pair.largest,
                "error": pair.error,
                "tolerance": pair.tolerance,
                "ratio": pair.ratio,
                "index": pair.place,
                "passed": pair.passed,
                "note": pair.note,
                "measures": pair.measures,
                "found": measured.found_json(pair.found),
                "missed": pair.missed or (),
            }
            for pair in result.pairs
        ],
        "unmatched": {"reference": result.unmatched_reference, "candidate": result.unmatched_candidate},
        "missing": result.missing,
        "thresholds": measured.limits_json(held),
        "notes": result.notes,
    }
