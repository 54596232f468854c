"""Measures on the command line: the option that prints them all, thresholds by any of them, and their lines."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap

from ..porting.measures import MEASURES, Threshold, thresholds

WIDTH = 100
"""Columns of the longest line of measures."""
_BRIEF = ("max_abs", "nmse", "cosine", "rtol", "beyond", "top1", "kl")
"""Those of an array that is wrong; the others follow from them, or with --measures."""


def options(command: argparse.ArgumentParser, *, by_thresholds: bool = True) -> None:
    """The options of a command that compares arrays."""
    command.add_argument("-v", "--measures", action="store_true", help="print every measure of every array")
    if not by_thresholds:
        return
    group = command.add_argument_group(
        "thresholds", "what every array must reach, instead of its tolerance (the exit code is 1 where one does not)"
    )
    for row in MEASURES.values():
        within = f"in {row.unit}" if row.unit == "dB" else "0 to 1" if row.unit == "%" or row.better == "higher" else ""
        ends = "most" if row.better == "lower" else "least"
        said = f"{row.said} of at {ends} X" + (f", {within}" if within else "")
        group.add_argument(row.option, type=_number, metavar="X", dest=_place(row.name), help=said)


def limits(given: argparse.Namespace) -> list[Threshold]:
    """The thresholds that are given."""
    chosen = {name: getattr(given, _place(name)) for name in MEASURES}
    return thresholds({name: value for name, value in chosen.items() if value is not None})


def limits_json(held: Sequence[Threshold]) -> dict[str, float]:
    """By the names of measures."""
    return {limit.measure.name: limit.limit for limit in held}


def held_to(held: Sequence[Threshold]) -> str:
    """What arrays are held to instead of tolerances, in a line."""
    return f"held to {' '.join(limit.said for limit in held)} instead of tolerances"


def lines(found: Mapping[str, float], indent: str = "    ", *, every: bool = False) -> list[str]:
    """Measures in lines that are short enough."""
    names = [name for name in found if every or name in _BRIEF]
    texts = [f"{MEASURES[name].said} {text(name, found[name])}" for name in names]
    joined = ", ".join(part.replace(" ", "\0") for part in texts)  # a measure and its value stay together
    made = wrap(joined, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
    return [line.replace("\0", " ") for line in made]


def text(name: str, value: float | None, *, unit: bool = True) -> str:
    """A value as it is printed, "-" for none."""
    if value is None:
        return "-"
    row = MEASURES[name]
    return f"{row.text(value)} {row.unit}" if unit and row.unit and not math.isnan(value) else row.text(value)


def looks_like(found: Iterable[tuple[str, str]], indent: str = "    ") -> list[str]:
    """What a difference looks like, in lines."""
    said = "; ".join(words for _, words in found)
    return wrap(f"looks like: {said}", WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ") if said else []


def found_json(found: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """The same for machines."""
    return [{"pattern": pattern, "said": said} for pattern, said in found]


def _place(name: str) -> str:
    return f"limit_{name}"


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"must be a number, got {text}")
    return value
