"""The time that a search may take: a search goes through its candidates as long as there is some left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
SECONDS = 25.0
"""By default, for a small case: with what is not search it ends within half a minute. Seconds of this thread: what else
a machine does changes no verdict."""
LARGE = 9.0
"""For a large one at least so many times what the run of the reference took"""


class Budget:
    """`seconds` from now; `stopped` once something was left out for want of time."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock, self.began, self.stopped = seconds, clock, clock(), False

    @property
    def over(self) -> bool:
        """Whether nothing is left; noted as a stop."""
        self.stopped = self.stopped or self.clock() - self.began >= self.seconds
        return self.stopped


_budget: ContextVar[Budget | None] = ContextVar("_budget", default=None)


@contextmanager
def spending(budget: Budget) -> Iterator[Budget]:
    """Within this context `in_time` stops when the budget is spent."""
    token = _budget.set(budget)
    try:
        yield budget
    finally:
        _budget.reset(token)


def is_over() -> bool:
    """Whether the budget around, if there is one, is spent."""
    budget = _budget.get()
    return budget is not None and budget.over


def is_spent(part: float) -> bool:
    """Whether this part of the budget around, if there is one, is spent."""
    budget = _budget.get()
    return budget is not None and budget.clock() - budget.began >= part * budget.seconds


def is_half_spent() -> bool:
    """Whether half of the budget around, if there is one, is spent: time to try what was found so far."""
    return is_spent(0.5)


def in_time(items: Iterable[T]) -> Iterator[T]:
    """The items, as long as there is time."""
    for item in items:
        if is_over():
            return
        yield item
