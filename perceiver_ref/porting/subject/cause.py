"""What explains a difference, and when it does."""

from __future__ import annotations

from dataclasses import dataclass

EXPLAINED = 0.01
"""A deviation is the cause when it leaves at most this part of the difference."""
NOTHING = 1e-6
"""What is left is nothing: float64 leaves less, and two deviations that both leave so little cannot be told apart."""


@dataclass(frozen=True)
class Cause:
    """A deviation with the variant that fits and what its explanation leaves of the difference, 0 to 1."""

    cause: str
    variant: str
    remaining: float
