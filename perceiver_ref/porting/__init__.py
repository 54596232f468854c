"""Checking another implementation's outputs, gradients and intermediate values against the reference.

record/      a call of a live model as a case
cases/       the vector format: cases of other implementations, those that the package ships, and running one
check        whether a case agrees
probed       whether samples and statistics agree: those of a probe, and those beside whole arrays
half         half precision in models that lose more to it than usual
tolerances   what each array is held to
compare/     where two dumps of intermediate values begin to differ
measures     how far one array is from another: a table of measures, and thresholds by them
patterns     what a difference looks like, in words (places: where it is; moved: along an axis; heads: how many)
measured     a comparison with measures and patterns
diagnosis/   why outputs differ: rounding, or which of the known deviations
deviations/  the table of deviations
rounding/    arithmetic in narrower formats
gradients/   why gradients differ where outputs agree
subject/     a case under test, run with and without deviations
report/      a page for people
export/      making cases of a model
"""

from importlib import import_module
from typing import Any

from .cases.execution import Run, run
from .check import Result, check_case, check_file
from .compare.dumps import Comparison, Dump, as_dump, compare_dumps, compare_files, read_dump
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
