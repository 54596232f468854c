"""Checking another implementation's outputs, gradients and intermediate values against the reference."""

from .check import Result, check_case, check_file

__all__ = ["Result", "check_case", "check_file"]
