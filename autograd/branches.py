"""Calls that need nothing of each other, which a backend may run at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def one_after_the_other(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of the calls, in order."""
    return [call() for call in calls]


run: Callable[[Sequence[Callable[[], Any]]], list[Any]] = one_after_the_other
"""How `side_by_side` runs them; kernels put theirs here."""


def side_by_side(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls of which none needs what another makes. What they read must be held by who calls this."""
    return run(calls)
