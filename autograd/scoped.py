"""What `with` contexts set, in each thread (and each task) its own, however they are left.

A generator that is closed late leaves its contexts after those that were entered later, or in another thread. So a
context takes away what it has put there itself, and nothing else: the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")


class Scope(Generic[T]):
    """What one context has set. Once it is left, it counts no more, wherever it is still remembered."""

    __slots__ = ("left", "value")

    def __init__(self, value: T) -> None:
        self.value = value
        self.left = False


class Scoped(Generic[T]):
    """The values of the contexts under way, the innermost last."""

    def __init__(self, name: str) -> None:
        self.entries: ContextVar[tuple[Scope[T], ...]] = ContextVar(name, default=())

    def values(self) -> tuple[T, ...]:
        """All of them."""
        entries = self.entries.get()
        return tuple([entry.value for entry in entries if not entry.left]) if entries else ()

    @contextmanager
    def entered(self, value: T) -> Iterator[None]:
        """Within this context the value is the innermost one."""
        entry = Scope(value)
        self.entries.set((*self.entries.get(), entry))
        try:
            yield
        finally:
            entry.left = True
            self.entries.set(tuple(other for other in self.entries.get() if not other.left))


class Setting(Scoped[T]):
    """A value that contexts change: that of the innermost one, or the default."""

    def __init__(self, name: str, default: T) -> None:
        super().__init__(name)
        self.default = default

    def get(self) -> T:
        """The value here and now."""
        entries = self.entries.get()
        if not entries:
            return self.default
        return next((entry.value for entry in reversed(entries) if not entry.left), self.default)
