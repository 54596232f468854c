"""A text of a person's own: its bytes as token ids, the end of it held out, and simpler methods on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import InputError
from ...host.files import AnyPath, existing_file
from ...models.inputs.bytes import OFFSET, encode
from ..data import checksum
from ..recipes.ngrams import Trigrams

_LARGEST = 1 << 30
HELD_OUT = 0.1
"""The share of a text, its end, that is tested on, where no other text is given."""


@dataclass(frozen=True, eq=False)
class Text:
    """Byte ids to train on and to test on."""

    train: np.ndarray
    test: np.ndarray

    @cached_property
    def alphabet(self) -> np.ndarray:
        """The bytes that occur, in their order."""
        return np.unique(np.concatenate([self.train, self.test]) - OFFSET)

    def symbols(self, ids: np.ndarray) -> np.ndarray:
        """Ids as indexes of the alphabet."""
        made: np.ndarray = np.searchsorted(self.alphabet, ids - OFFSET)
        return made

    @cached_property
    def trigrams(self) -> Trigrams:
        """Of the text to train on."""
        return Trigrams.of(self.symbols(self.train), len(self.alphabet))

    def identity(self) -> dict[str, Any]:
        """What tells this text from others."""
        return {"bytes": len(self.train), "checksum": checksum([self.train, self.test])}


def read_text(path: AnyPath, test: AnyPath | None, length: int) -> Text:
    """The bytes of a file, of any encoding, for windows of `length`; `InputError` for one that is too short."""
    train = _bytes(path)
    if test is None:
        kept = len(train) - max(round(HELD_OUT * len(train)), 1)
        made = Text(train[:kept], train[kept:])
    else:
        made = Text(train, _bytes(test))
    for what, part in (("to train on", made.train), ("to test on", made.test)):
        if len(part) < 2 * length:
            raise InputError(
                f"{path}: {len(part):,} bytes {what} are less than two windows of {length}; give a longer text, or "
                "a smaller --length"
            )
    return made


def _bytes(path: AnyPath) -> np.ndarray:
    path = existing_file(path, "a text")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} has more than {_LARGEST >> 30} GiB; give a part of it")
    return encode(path.read_bytes())
