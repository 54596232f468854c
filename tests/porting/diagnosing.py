"""`diagnose` and subjects on the library that `pytest --backend` names; files that use them take the fixture."""

from __future__ import annotations

from typing import Any

import pytest
import support

from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.diagnosis import diagnose as diagnosis
from perceiver_ref.porting.subject import Subject

on_backend = pytest.mark.usefixtures("backend")
"""Skips where the library cannot compute here"""


def diagnose(case: Case, path: str = "", **options: Any) -> diagnosis.Diagnosis:
    """As of `perceiver_ref.porting`."""
    return diagnosis.diagnose(case, path, **{"backend": support.BACKEND, **options})


def subject_of(case: Case) -> Subject:
    """A case under test."""
    return Subject(case, support.BACKEND)
