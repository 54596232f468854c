"""`perceiver-ref bind`: which of a port's arrays is which of the reference's, whatever their names."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from ..errors import listed, printable
from ..porting.bind.bind import SECONDS, Binding
from ..porting.bind.bind import bind as find
from ..porting.bind.maps import write_map
from ..porting.bind.propose import said
from ..porting.bind.target import read_to
from ..porting.cases import read_case
from .main import MISMATCH, OK
from .mapping import peer_file
from .result import aligned, write_result
from .seconds import seconds
from .words import opened

_SHOWN = 400


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    command.add_argument("case", metavar="CASE", help="a case file with the port's own names")
    command.add_argument(
        "--to",
        metavar="PRESET|CONFIG",
        help="what it is a port of: a preset, a configuration in JSON, or a case of another implementation "
        "(default: what its shapes allow is tried)",
    )
    command.add_argument("--out", metavar="F", help="the map to write, JSON, for --map of other commands")
    command.add_argument("--unverified", action="store_true", help="write the map even when it could not be verified")
    command.add_argument(
        "--seconds", type=seconds, default=SECONDS, metavar="S", help=f"of computing, to search (default: {SECONDS:g})"
    )
    peer_file(command)


def bind(given: argparse.Namespace) -> int:
    """`perceiver-ref bind`: 0 when a map is found and verified, 1 when not."""
    case = read_case(given.case)
    to = None if given.to is None else read_to(given.to)
    found = find(case, to, seconds=given.seconds, progress=_progress())
    if found.proposal is not None:
        print("\n".join(line for candidate in found.proposal.candidates for line in said(candidate)), end="\n\n")
    _print(found)
    write_result(given.json, _json(found))
    if given.out and (found.verified or given.unverified):
        write_map(given.out, found.map)
        print(f"the map is in {given.out}")
    elif given.out:
        print(f"no map is written to {given.out}; --unverified writes what was found, for diagnose")
    return OK if found.verified else MISMATCH


def _progress() -> Any:
    """One line that is written over, on a terminal."""
    if not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else "\r"
        print(f"{done} of {total} parameters bound", end=end, file=sys.stderr, flush=True)

    return show


def _print(found: Binding) -> None:
    rows = [("parameter of the reference", "of the port", "", "why")]
    rows += [(row.path, printable(row.source), row.status, printable(row.why)) for row in found.rows[:_SHOWN]]
    for row in aligned(rows, left=4):
        print("  ".join(row).rstrip())
    if len(found.rows) > _SHOWN:
        print(f"... and {len(found.rows) - _SHOWN} more")
    print()
    for kind, parts in (("inputs", found.map.inputs), ("outputs", found.map.outputs)):
        print(f"{kind}: " + (listed([f"{n} = {p.name}" for n, p in parts.items()], 8) or "none"))
    print(f"recorded values: {len(found.map.points)} are named values of the reference", end="")
    print(f"; of no name there: {listed(map(printable, found.unmatched), 6)}" if found.unmatched else "")
    if found.left_over:
        print(f"left over in the port: {listed(map(printable, found.left_over), 8)}")
    counts = Counter(row.status for row in found.rows)
    told = ", ".join(f"{counts[s]} {s}" for s in ("certain", "ambiguous", "by order", "unknown") if counts[s])
    if found.verified:
        print(opened(f"match: {told}; run with these parameters, the reference gives what the port recorded"))
    else:
        print(opened(f"mismatch: {told}; not verified: {printable(found.message)}"))


def _json(found: Binding) -> dict[str, Any]:
    return {
        "verified": found.verified,
        "message": found.message,
        "parameters": [vars(row) for row in found.rows],
        "left_over": found.left_over,
        "unmatched": found.unmatched,
        "proposed": [] if found.proposal is None else [vars(c) for c in found.proposal.candidates],
    }
