"""Checking another implementation's outputs, gradients and intermediate values against the reference."""

from .check import Result, check_case, check_file
from .compare.dumps import Comparison, Dump, as_dump, compare_dumps, compare_files, read_dump
from .execution import Run, run
from .report import Report, ReportPoint, write_report

__all__ = [
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
