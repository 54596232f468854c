"""The key `hard_coded_replacements` of cases of classes whose sizes are constants of their source: [old, new] texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import InputError, one_of
from .base import positive

_NUMBER = re.compile(r"\d+")


def hard_coded(what: str, pairs: Any, known: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """The constants that replacements give, by name; those that none names are left out.

    `known`: a text of the source -> the names of the numbers in it, in order; the new text must be the same with other
    numbers, or, where the old is `name=...`, `name=number`, of that name. Raises `InputError` for another text, and for
    two values of one constant.
    """
    found: dict[str, int] = {}
    for pair in pairs or ():
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise InputError(f"hard_coded_replacements must hold pairs of texts, got {pair!r}")
        old, new = pair
        if old not in known:
            raise one_of(f"text of {what} in hard_coded_replacements", old, known)
        names, values = known[old], list(map(int, _NUMBER.findall(new)))
        name, is_assignment, _ = old.partition("=")
        if _NUMBER.sub("#", old) != _NUMBER.sub("#", new):
            names = (name,) if is_assignment and re.fullmatch(rf"{re.escape(name)}=\d+", new) else ()
        if not names:
            raise InputError(f"hard_coded_replacements of {what}: {new!r} cannot take the place of {old!r}")
        for name, value in zip(names, values):
            if found.setdefault(name, positive(name, value)) != value:
                raise InputError(f"hard_coded_replacements of {what}: {name} cannot be {found[name]} and {value}")
    return found
