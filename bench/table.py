"""The cells of the tables, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .implementations import IMPLEMENTATIONS
from .targets import Reached, outcomes

Cells = tuple[str, ...]
HEAD: Cells = (
    "case",
    "pass",
    "implementation",
    "time",
    "spread",
    "ours / it",
    "memory",
    "ours / it",
    "of product",
    "target",
)
EXPONENT_HEAD: Cells = ("axis", "pass", "implementation", "time", "FLOPs", "memory", "target")
RIGHT = {"time", "spread", "ours / it", "memory", "of product", "FLOPs"}


def main_table(result: Mapping[str, Any]) -> list[Cells]:
    """A line for every case, pass and implementation; a target stands in the line of what it is measured against."""
    notes = _notes(outcomes(result))
    lines: list[Cells] = []
    for row in result["rows"]:
        key = (row["case"], row["pass"], row["implementation"])
        label = IMPLEMENTATIONS[row["implementation"]].label
        if row.get("missing") or not row.get("seconds"):
            reason = row.get("missing") or "not measured"
            lines.append((row["case"], row["pass"], label, reason, "", "", "", "", "", ""))
            continue
        lines.append(
            (
                row["case"],
                row["pass"],
                label,
                seconds(row["seconds"]),
                f"± {(row['high'] - row['low']) / 2 / row['seconds']:.0%}",
                _ratio(row.get("ratio")),
                size(row.get("peak")),
                _ratio(row.get("memory_ratio")),
                "" if row.get("share") is None or row["implementation"] == "product" else f"{row['share']:.0%}",
                "; ".join(notes.get(key, [])),
            )
        )
    return lines


def exponent_table(result: Mapping[str, Any]) -> list[Cells]:
    """A line for every fitted axis, pass and implementation."""
    targets: dict[tuple[str, str, str], list[str]] = {}
    for outcome in outcomes(result):
        row = outcome.target
        if row.quantity in ("exponent", "memory exponent"):
            text = f"{'memory' if row.quantity == 'memory exponent' else 'time'} {row.text()}: {_verdict(outcome)}"
            targets.setdefault((row.case.removeprefix("scaling-"), row.name, row.implementation), []).append(text)
    return [
        (
            fit["axis"],
            fit["pass"],
            IMPLEMENTATIONS[fit["implementation"]].label,
            *("" if fit[key] is None else f"{fit[key]:.2f}" for key in ("seconds", "flops", "peak")),
            "; ".join(targets.get((fit["axis"], fit["pass"], fit["implementation"]), [])),
        )
        for fit in result["exponents"]
    ]


def _notes(found: Iterable[Reached]) -> dict[tuple[str, str, str], list[str]]:
    """(case, pass, implementation) -> what the targets say there."""
    notes: dict[tuple[str, str, str], list[str]] = {}
    for outcome in found:
        row = outcome.target
        if row.quantity in ("exponent", "memory exponent"):
            continue
        where = row.implementation if row.implementation != "ours" or not outcome.against else outcome.against
        what = {"share": "of product", "bytes": "with parameters", "seconds": "time"}.get(row.quantity, row.quantity)
        value = _value(outcome) if row.quantity in ("time", "memory", "bytes") else ""
        beside = row.implementation != "ours" and outcome.against  # a line of ours: it says against whom
        other = f" of {IMPLEMENTATIONS[outcome.against].label}'s" if beside else ""
        text = f"{what}{other} {row.text()}: {value}{_verdict(outcome)}"
        notes.setdefault((row.case, row.name, where), []).append(text)
    return notes


def _value(outcome: Reached) -> str:
    return f"{size(outcome.value)} " if outcome.target.quantity == "bytes" else f"{outcome.value:.2f} "


def _verdict(outcome: Reached) -> str:
    return "met" if outcome.met else "MISSED"


def seconds(value: float) -> str:
    """Three digits, in s, ms or µs."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def size(value: float | None) -> str:
    """Bytes in GiB or MiB."""
    if value is None:
        return ""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def as_text(head: Cells, lines: Sequence[Cells]) -> str:
    """Aligned columns. A reason in place of figures may run over the columns behind it."""
    full = [line for line in lines if any(line[4:])] or [head]
    widths = [max(len(line[i]) for line in (head, *full)) for i in range(len(head))]
    widths[:3] = [max(len(line[i]) for line in (head, *lines)) for i in range(3)]

    def aligned(line: Cells) -> str:
        if not any(line[4:]):
            return "  ".join([*(f"{c:<{w}}" for c, w in zip(line[:3], widths)), line[3]]).rstrip()
        cells = [f"{c:>{w}}" if h in RIGHT else f"{c:<{w}}" for c, w, h in zip(line, widths, head)]
        return "  ".join(cells).rstrip()

    return "\n".join(aligned(line) for line in (head, *lines))


def as_markdown(head: Cells, lines: Sequence[Cells]) -> str:
    """A pipe table."""
    rule = "|".join([" ---: " if name in RIGHT else " --- " for name in head])
    return "\n".join([_pipes(head), f"|{rule}|", *map(_pipes, lines)])


def _pipes(cells: Cells) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
