"""How far long work is, and how long it will take: one line on stderr, where somebody looks at it.

    for file in steps(files, "checking"):
        ...

Code says what it goes through, whoever calls it; nothing is shown outside of `showing`, which commands enter. The line
comes after two seconds and goes when the work is done; on a terminal it is one line that changes, elsewhere (only when
asked for) a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0
"""Seconds before anything is shown."""
_BETWEEN = {True: 0.2, False: 5.0}
"""Seconds between two lines, on a terminal and elsewhere"""
_WIDTH = 79


class _Shown:
    """What is under way, outermost first: each (what, done, total or 0, start)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.began, self.last, self.dirty = clock, clock(), 0.0, False
        self.under_way: list[tuple[str, int, int, float]] = []
        self.terminal = sys.stderr.isatty()

    def show(self) -> None:
        now = self.clock()
        if now - self.began < PATIENCE or now - self.last < _BETWEEN[self.terminal]:
            return
        self.last = now
        text = ": ".join(_text(*work, now) for work in self.under_way)
        start, end = ("\r\x1b[K", "") if self.terminal else ("", "\n")
        sys.stderr.write(f"{start}{text[:_WIDTH]}{end}")
        sys.stderr.flush()
        self.dirty = self.terminal

    def clear(self) -> None:
        if self.dirty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.dirty = False


_shown: ContextVar[_Shown | None] = ContextVar("_shown", default=None)


@contextmanager
def showing(asked: bool = False, *, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Within this context progress is shown, if `asked` for or where stderr is a terminal."""
    if not asked and not sys.stderr.isatty():
        yield
        return
    made = _Shown(clock)
    token = _shown.set(made)
    try:
        yield
    finally:
        made.clear()
        _shown.reset(token)


def steps(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, one after the other, each a step of `what`; `total` of them, where their number is not known."""
    shown = _shown.get()
    if shown is None:
        yield from items
        return
    count = total if total is not None else len(items) if isinstance(items, Sized) else 0
    place, start = len(shown.under_way), shown.clock()
    try:
        for done, item in enumerate(items):
            shown.under_way[place:] = [(what, done, count, start)]
            shown.show()
            yield item
    finally:
        del shown.under_way[place:]


def counting(what: str) -> Callable[[], None]:
    """A function that counts a step whose number nobody knows; it does nothing where nothing is shown."""
    shown = _shown.get()
    if shown is None:
        return lambda: None
    place, start, done = len(shown.under_way), shown.clock(), 0

    def count() -> None:
        nonlocal done
        done += 1
        shown.under_way[place:] = [(what, done, 0, start)]
        shown.show()

    return count


def clear() -> None:
    """Take the line away, before something else is printed."""
    if (shown := _shown.get()) is not None:
        shown.clear()


def is_shown() -> bool:
    """Whether anybody looks."""
    return _shown.get() is not None


def _text(what: str, done: int, total: int, start: float, now: float) -> str:
    passed = now - start
    if not total:
        return f"{what} {done}, {duration(passed)} so far"
    left = f", {duration(passed / done * (total - done))} left" if done else ""
    return f"{what} {done + 1}/{total}{left}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
