"""Checking another implementation's outputs, gradients and intermediate values against the reference."""

from .check import Result, check_case, check_file
from .execution import Run, run

__all__ = ["Result", "Run", "check_case", "check_file", "run"]
