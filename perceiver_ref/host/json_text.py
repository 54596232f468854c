"""JSON that comes from anywhere: its size, its depth and the memory that it takes are bounded before it is parsed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

LIMIT = 64 << 20
"""Bytes, or characters, of a text."""
DEPTH = 64
"""Levels of objects and lists: a configuration has six, and what walks through them calls itself for each."""
TIMES, FREE = 4, 16 << 20
"""The objects of a text may take `TIMES` its size, or `FREE` bytes where it is small: a configuration does, while
"[[],[]," and so on takes twenty times its size."""
_COSTS = {"{": 256, "[": 96, ",": 40, ":": 40}
"""Bytes that Python takes for what begins or stands beside such a letter."""


def parse(
    text: str | bytes,
    room: int = 0,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    *,
    limit: int = LIMIT,
) -> Any:
    """The value of a JSON text; `room` is the size of the file around it, where that is larger, which it may count on.

    Of more than `limit` bytes none is read: a configuration has far less, and what holds arrays as text may have more.
    `pairs` makes an object of its members (default: a dict). Raises `ValueError`, of one line, for anything else.
    """
    if len(text) > limit:
        raise ValueError(f"has more than {limit >> 20} MiB")
    if isinstance(text, str):
        counts = {letter: text.count(letter) for letter in _COSTS}
    else:
        counts = {letter: text.count(letter.encode()) for letter in _COSTS}
        if (
            len(text) > FREE and int(np.frombuffer(text, np.uint8).max()) > 0xC3
        ):  # the first byte of the last letter of Latin-1
            raise ValueError("a long text of wide letters")
    if sum(_COSTS[letter] * count for letter, count in counts.items()) > max(FREE, TIMES * max(len(text), room)):
        raise ValueError(f"far more lists and objects than {len(text):,} bytes of a configuration hold")
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(str(error).splitlines()[0].partition(";")[0]) from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Level by level, as a value that is too deep must not be walked by calls."""
    level = [value]
    for _ in range(DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def indented(value: Any) -> str:
    """What `json.dumps(value, indent=1, allow_nan=False)` gives, sooner: where that indents, it is not in C."""
    try:
        return _indented(value, "\n")
    except TypeError:  # keys that are no text, say
        return json.dumps(value, indent=1, allow_nan=False)


def _indented(value: Any, line: str) -> str:
    """`line` begins one at the value's depth. `TypeError` for what is rare in a report."""
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if (kind is float and math.isfinite(value)) or kind is int:
        return repr(value)
    if kind is bool or value is None:
        return _WORDS[value]
    deeper = line + " "
    if kind is dict:
        members = [f"{_quoted(name)}: {_indented(part, deeper)}" for name, part in value.items()]
        return "{" + deeper + ("," + deeper).join(members) + line + "}" if members else "{}"
    if kind is list or kind is tuple:
        parts = [_indented(part, deeper) for part in value]
        return "[" + deeper + ("," + deeper).join(parts) + line + "]" if parts else "[]"
    raise TypeError(kind)


_WORDS = {True: "true", False: "false", None: "null"}
_quoted = json.encoder.encode_basestring_ascii
