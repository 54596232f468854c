"""Functions that can be exchanged by name for the length of a `with`, to see what a model would then compute.

`diagnose` runs the reference with the deviations that ports have; nothing else should need this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any

from ..autograd.scoped import Entry

Replacement = Callable[..., Any]
"""Called with the original and its arguments. What the original calls is exchanged in turn, but for itself."""

_replacements: ContextVar[Mapping[str, tuple[Entry[Replacement], ...]]] = ContextVar(
    "_replacements", default=MappingProxyType({})
)


def variable(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a function that `varied` exchanges by this name."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            active = _replacements.get()
            if not active or not (stack := _live(active.get(name, ()))):
                return function(*arguments, **options)
            token = _replacements.set({**active, name: stack[:-1]})
            try:
                return stack[-1].value(wrapped, *arguments, **options)
            finally:
                _replacements.reset(token)

        return wrapped

    return decorate


@contextmanager
def varied(replacements: Mapping[str, Replacement]) -> Iterator[None]:
    """Within this context these replacements are called in place of the functions of these names."""
    active = _replacements.get()
    entries = {name: Entry(made) for name, made in replacements.items()}
    _replacements.set({**active, **{name: (*active.get(name, ()), entry) for name, entry in entries.items()}})
    try:
        yield
    finally:  # as in `autograd.scoped`: contexts may be left in any order
        for entry in entries.values():
            entry.left = True
        rest = {name: _live(stack) for name, stack in _replacements.get().items()}
        _replacements.set({name: stack for name, stack in rest.items() if stack})


def is_varied() -> bool:
    """Whether anything is exchanged: results must then not be kept for later."""
    return any(_live(stack) for stack in _replacements.get().values())


def _live(stack: tuple[Entry[Replacement], ...]) -> tuple[Entry[Replacement], ...]:
    return tuple(entry for entry in stack if not entry.left)
