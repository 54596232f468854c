"""Subjects and cases for the tests of export."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import perceiver_ref as pr
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.export.adversarial import ROWS
from perceiver_ref.porting.export.make import ExportOptions, make
from perceiver_ref.porting.export.pack import own_subject
from perceiver_ref.porting.export.small import small
from perceiver_ref.porting.export.subject import Exported


@cache
def subject_of(preset: str) -> Exported:
    """The small model of a preset."""
    model, sizes = small(pr.preset(preset))
    return own_subject(preset, preset, model, sizes, "")


def case_of(preset: str, row: str = "plain", **options: Any) -> Case:
    """A case of the small model of a preset."""
    (chosen,) = [r for r in ROWS if r.id == row]
    return make(subject_of(preset), chosen, ExportOptions(**options))


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
