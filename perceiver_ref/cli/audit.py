"""`perceiver-ref export --audit`: which known deviations the cases tell apart."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..host.progress import clear
from ..porting.audit import PLAINLY, CaseAudit, audited
from ..porting.audit.matrix import SECONDS
from ..porting.audit.table import HEAD, percent, remarks, report, rows
from ..porting.cases import Case, read_case
from ..porting.dumps import case_files, is_case
from .main import MISMATCH, OK
from .result import aligned, write_result

_OWN = ("out", "peer", "cls", "weights", "sizes", "inputs", "batch", "dialect", "cases")


def is_cases(name: str) -> bool:
    """Whether this is a folder, or a file of a case, and no configuration."""
    path = Path(name)
    return path.is_dir() or path.suffix == ".npz"


def stored(given: argparse.Namespace) -> Iterator[Case]:
    """The cases of a folder or file."""
    if given.full or given.probe or any(getattr(given, name) is not None for name in _OWN):
        raise InputError(f"{given.model} holds cases, which are audited as they are; leave out options that make some")
    place = Path(given.model)
    found = case_files(place) if place.is_dir() and not is_case(place) else [place]
    if not found:
        raise InputError(f"{given.model} holds no cases (.npz)")
    return map(read_case, found)


def audit(cases: Iterable[Case], given: argparse.Namespace, found: Mapping[str, Any] | None = None) -> int:
    """Print the audit of these cases; 1 when a deviation is not told apart. `found`: what else the report has."""
    names: list[str] = []

    def done(case: CaseAudit) -> None:
        names.append(case.name)
        clear()
        print(f"{case.name:<44}  {len(case.told):>5,} of {case.tried:>5,}  {case.seconds:6.1f} s", flush=True)

    print(f"{'case':<44}  deviations told apart, by more than {PLAINLY:g} tolerances")
    made = audited(cases, given.budget or SECONDS, gradients=given.gradients, done=done)
    print()
    for row in aligned([HEAD, *rows(made)]):
        print("  ".join(row).rstrip())
    for model in made.models.values():
        for line in remarks(model):
            print(f"{model.name}: {line}")
    print(f"\n{made.told:,} of {made.applicable:,} told apart ({percent(made)})")
    write_result(given.json, {**(found or {"folder": None, "cases": names}), "audit": report(made)})
    return OK if made.complete else MISMATCH
