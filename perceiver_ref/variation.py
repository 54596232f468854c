"""Functions and layers that can be exchanged for the length of a `with`, to see what a model would then compute.

`diagnose` runs the reference with the deviations that ports have; nothing else should need this. A `variable` function
is known by its name, a layer's `apply` by the name of its class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any

Replacement = Callable[..., Any]
"""Called with the original and its arguments. What the original calls is exchanged in turn, but for itself."""

_replacements: ContextVar[Mapping[str, tuple[Replacement, ...]]] = ContextVar(
    "_replacements", default=MappingProxyType({})
)


def variable(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a function that `varied` exchanges by this name."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            active = _replacements.get()
            if not active or not (stack := active.get(name)):
                return function(*arguments, **options)
            token = _replacements.set({**active, name: stack[:-1]})
            try:
                return stack[-1](wrapped, *arguments, **options)
            finally:
                _replacements.reset(token)

        return wrapped

    return decorate


@contextmanager
def varied(replacements: Mapping[str, Replacement]) -> Iterator[None]:
    """Within this context these replacements are called in place of the functions and layers of these names."""
    active = _replacements.get()
    joined = {**active, **{name: (*active.get(name, ()), made) for name, made in replacements.items()}}
    token = _replacements.set(joined)
    try:
        yield
    finally:
        _replacements.reset(token)


def is_varied() -> bool:
    """Whether anything is exchanged: results must then not be kept for later."""
    return bool(_replacements.get())
