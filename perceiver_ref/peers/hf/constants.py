"""Constants that transformers' task classes fix in code, and that a case may have replaced in the class's source.

A case's `hard_coded_replacements` are pairs [old text, new text], such as ["num_bands=64", "num_bands=3"].
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from ...errors import InputError

_PAIR = re.compile(r"""["']?(\w+)["']?\s*[:=]\s*(\([^)]*\)|[^,()]+)""")


class Constants:
    """`constants(name, default)`: the value of a constant, replaced or not. `extra` holds what was only added."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.values: dict[tuple[str, Any], Any] = {}
        self.extra: dict[str, Any] = {}
        for pair in given.get("hard_coded_replacements", ()):
            if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(t, str) for t in pair)):
                raise InputError(f"hard_coded_replacements must hold pairs of texts, got {pair!r}")
            self._add(*pair)

    def __call__(self, name: str, default: Any) -> Any:
        if (name, default) in self.values:
            return self.values[name, default]
        if ("", default) in self.values:  # a bare value was replaced
            return self.values["", default]
        return self.extra.get(name, default)

    def _add(self, old: str, new: str) -> None:
        before, after = _parse(old), _parse(new)
        for name, value in after.items():
            if name in before:
                self.values[name, before[name]] = value
            else:
                self.extra[name] = value


def _parse(text: str) -> dict[str, Any]:
    """The `name=value` or `"name": value` pairs of a piece of source; a bare value has the name ""."""
    pairs = {name: _literal(value) for name, value in _PAIR.findall(text)}
    if pairs or text.lstrip().startswith("#"):
        return pairs
    return {"": _literal(text.strip().rstrip(","))}


def _literal(text: str) -> Any:
    """A Python literal, or a product of integers such as `8 * 32`."""
    try:
        if re.fullmatch(r"\s*\d+(\s*\*\s*\d+)+\s*", text):
            return math.prod(int(part) for part in text.split("*"))
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        raise InputError(f"hard_coded_replacements: {text!r} is not a literal value") from None
