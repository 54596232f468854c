"""The one error that means "your input", as opposed to a mistake in this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """What was given cannot be used. The message says what was expected, what came, and what to do.

    The command line prints it as one line and exits with 2.
    """


@contextmanager
def input_errors(what: str) -> Iterator[None]:
    """Around computing with values that were given: what Python and the operations raise becomes an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{what}: {type(error).__name__}: {error}") from error


def listed(items: Iterable[object], most: int = 8, between: str = ", ") -> str:
    """The first ones, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more


def one_of(what: str, name: str, known: object) -> InputError:
    """The error for an unknown name: it lists the known ones, the closest first."""
    import difflib

    names = sorted(map(str, known))  # type: ignore[call-overload]
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return InputError(f"unknown {what} {name!r}{hint} Known: {', '.join(names)}")
