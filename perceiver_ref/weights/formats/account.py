"""What interpreting a pickle may cost: every instruction pays for its memory and its work before it is done.

A pickle can name what it holds again and again (its memo), so that a kilobyte of it can ask for gigabytes: one text
joined with itself, a container copied and copied. Two sums bound that, both stated as multiples of the file's size.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

DATA = 4
"""Bytes of text and arrays that calls may be given and make, for each byte of the file. Old pickles hold an array as
text: it is given to a call, made bytes, and made an array, which is three; a file holds each of them once."""
OBJECTS = 32
"""Bytes of containers and other objects, for each byte of the file: a tensor of PyTorch takes 250 bytes of a file and
2 KB of tuples, dicts and memo, which is eight."""
FREE_DATA, FREE_OBJECTS = 1 << 12, 1 << 24
"""What every file has beyond that, however small."""
MOST_OBJECTS = 1 << 29
"""However large the file: most of it is data, not objects."""
WIDE_TEXT = 1 << 24
"""Bytes of one text beyond which it must be Latin-1: one wider letter makes Python take 4 bytes for each of them."""

_OBJECT = 64
_ITEM, _ENTRY = 8, 100  # of a list or a tuple, and of a dict
_COSTS = {
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "LIST", "TUPLE", "DICT", "TUPLE1", "TUPLE2", "TUPLE3"), _OBJECT),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "SETITEM"), _ENTRY),
}
_REFERENCE = 16


class SpentError(Exception):
    """More is asked for than a file of this size may."""


class Account:
    """The two sums of a file of `size` bytes. Each method raises `SpentError` when one is used up."""

    def __init__(self, size: int) -> None:
        self._data = DATA * size + FREE_DATA
        self._objects = min(OBJECTS * size + FREE_OBJECTS, MOST_OBJECTS)

    def instruction(self, name: str) -> None:
        """An opcode."""
        self.objects(_COSTS.get(name, _REFERENCE))

    def entries(self, count: int) -> None:
        """Entries that are set in a dict."""
        self.objects(_ENTRY * count)

    def items(self, count: int) -> None:
        """Items that are put into a list or a tuple."""
        self.objects(_ITEM * count)

    def call(self, arguments: tuple[Any, ...]) -> None:
        """A call, before it is made: it may look at all that its arguments hold, and copy it."""
        for argument in arguments:
            self._handled(argument)
            if isinstance(argument, tuple):
                for part in argument:
                    self._handled(part)

    def made(self, value: Any) -> None:
        """What a call has made, or a state has filled."""
        self._handled(getattr(value, "array", value))

    def objects(self, size: int) -> None:
        """Bytes of objects."""
        self._objects -= size
        if self._objects < 0:
            raise SpentError("the same containers again and again")

    def _handled(self, value: Any) -> None:
        if isinstance(value, (str, bytes, bytearray, np.ndarray)):
            self._data -= value.nbytes if isinstance(value, np.ndarray) else _length(value)
            if self._data < 0:
                raise SpentError("the same data again and again")
        elif isinstance(value, dict):
            self.entries(len(value))
        elif isinstance(value, (list, tuple)):
            self.items(len(value))


def is_wide(text: bytes | bytearray | memoryview) -> bool:
    """Whether UTF-8 text is long and has letters beyond Latin-1."""
    return len(text) > WIDE_TEXT and int(np.frombuffer(text, np.uint8).max()) > 0xC3  # the first byte of U+00FF


def _length(value: str | bytes | bytearray) -> int:
    """Bytes beyond those that the shortest text has, as short ones are everywhere."""
    return max(sys.getsizeof(value) - 512, 0) if isinstance(value, str) else len(value)
