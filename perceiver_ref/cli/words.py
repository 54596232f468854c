"""Words that say whether something is right, in colour on a terminal that wants it (https://no-color.org)."""

from __future__ import annotations

import os
import sys

_GREEN, _RED, _RESET = "\x1b[32m", "\x1b[31m", "\x1b[0m"
_COLOURS = {
    "pass": _GREEN,
    "match": _GREEN,
    "rounding": _GREEN,
    "reached": _GREEN,
    "agrees": _GREEN,
    "fail": _RED,
    "error": _RED,
    "mismatch": _RED,
    "deviation": _RED,
    "unexplained": _RED,
    "differs": _RED,
    "missed": _RED,
}
"""Every word that is coloured. The words alone say it all: colour is never the only sign."""


def coloured() -> bool:
    """Whether stdout is a terminal, neither NO_COLOR nor TERM=dumb being set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def opened(line: str) -> str:
    """A line whose first word, before a colon, may have a colour."""
    word, colon, rest = line.partition(":")
    return f"{verdict(word)}{colon}{rest}"


def verdict(word: str, width: int = 0) -> str:
    """The word, filled up with spaces to a width, in its colour where colours are wanted."""
    colour = _COLOURS.get(word, "")
    rest = " " * (width - len(word))
    return f"{colour}{word}{_RESET}{rest}" if colour and coloured() else word + rest
