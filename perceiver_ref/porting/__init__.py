"""Checking another implementation's outputs, gradients and intermediate values against the reference.

check        whether a case agrees
execution    a rebuilt class run forward and backward, by the peer's names
compare/     where two dumps of intermediate values begin to differ
diagnosis/   why outputs differ: rounding, or which of the known deviations
deviations/  the table of deviations, forward and backward
gradients/   why gradients differ where outputs agree
rounding/    the errors that correct arithmetic makes
points       the table of traced points: docs/TRACE.md
report       a page for people, written by report_html
cases/       the vector format: cases of other implementations, and those that the package ships
export/      making cases of a model
pytest_plugin   tests of a port, one for each case
"""

from importlib import import_module
from typing import Any

from .check import Result, check_case, check_file
from .compare.dumps import Comparison, Dump, as_dump, compare_dumps, compare_files, read_dump
from .execution import Run, run
from .report import Report, ReportPoint, write_report

_DIAGNOSIS = ("Diagnosis", "diagnose", "diagnose_file")  # imported on first use: `check` needs none of the deviations

__all__ = [
    *_DIAGNOSIS,
    "Comparison",
    "Dump",
    "Report",
    "ReportPoint",
    "Result",
    "Run",
    "as_dump",
    "check_case",
    "check_file",
    "compare_dumps",
    "compare_files",
    "read_dump",
    "run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _DIAGNOSIS:
        return getattr(import_module(".diagnosis.diagnose", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
