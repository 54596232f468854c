"""The one error that means "your input", as opposed to a mistake in this package."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LINE = 200
"""Characters of the longest line that the command line prints about an error."""


class InputError(ValueError):
    """What was given cannot be used. The message says what was expected, what came, and what to do.

    The command line prints it as one line and exits with 2. `where` is the part of a model that it is about, dotted.
    """

    where = ""

    def inside(self, part: str) -> InputError:
        """The same, said of a part: `Encoder`'s own error about its layer names the layer first."""
        where = f"{part}.{self.where}" if self.where else part
        made = InputError(f"{where}: {str(self).removeprefix(f'{self.where}: ')}")
        made.where = where
        return made


@contextmanager
def input_errors(what: str) -> Iterator[None]:
    """Around computing with values that were given: what Python and the operations raise becomes an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{what}: out of memory{f' ({error})' if str(error) else ''}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{what}: {type(error).__name__}: {error}") from error


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxtuple = 3, 4, 6, 6
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shortened(value: object, bare: bool = False) -> str:
    """A value for a message, however long or deep it is: its `repr`, or with `bare` a text as it is, on one line."""
    if bare and isinstance(value, str):
        text = value if len(value) <= _REPR.maxstring else value[: _REPR.maxstring - 3] + "..."
        return printable(text)
    try:
        return printable(_REPR.repr(value))
    except (RecursionError, ValueError):  # such as a number of more digits than Python prints
        return f"a huge {type(value).__name__}"


def printable(text: str) -> str:
    """Text that came from a file: what a terminal would act on, such as an escape, is written as Python writes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(error: object, length: int = LINE) -> str:
    """An error's text for a line of at most `length` characters, printable; long paths lose their first folders."""
    text = printable(" ".join(_start(str(error), 100 * length).split()))
    if len(text) > length:
        text = " ".join(_short_path(word) for word in text.split(" "))
    return _start(text, length)


def _start(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _short_path(word: str) -> str:
    if len(word) <= 60 or "/" not in word:
        return word
    kept = word[-40:]
    return f"...{kept[kept.find('/') :]}" if "/" in kept else f"...{kept}"


def listed(items: Iterable[object], most: int = 8, between: str = ", ") -> str:
    """The first ones, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more


def one_of(what: str, name: str, known: object) -> InputError:
    """The error for an unknown name: it lists the known ones, the closest first where they are many."""
    import difflib

    names, name = sorted(map(str, known)), str(name)  # type: ignore[call-overload]
    close = difflib.get_close_matches(name[:LINE], names, n=1)
    if sum(map(len, names)) > LINE:  # a line has the first of them
        names.sort(
            key=lambda known: (not known.startswith(name), -difflib.SequenceMatcher(None, name[:LINE], known).ratio())
        )
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return InputError(f"unknown {what} {shortened(name)}{hint} Known: {', '.join(names)}")
