"""An argument that is a time."""

from __future__ import annotations

import argparse

MOST = 86_400
"""A day: nobody waits for longer, and nan, inf and 1e400 are no times."""


def seconds(text: str) -> float:
    """The argument of --seconds and --budget: above 0, and at most a day."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0 and at most {MOST:,}, got {text!r}")
    return value
