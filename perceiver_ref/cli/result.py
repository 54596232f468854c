"""What a command found: aligned columns for people, and JSON for machines (docs/JSON.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..host.files import write_json


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[list[str]]:
    """The cells of a table filled up to the widths of its columns, text at the left in the first `left` of them."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [[f"{cell:{'<' if i < left else '>'}{widths[i]}}" for i, cell in enumerate(row)] for row in rows]


def write_result(path: str | None, found: Mapping[str, Any]) -> None:
    """Write what was found where --json asks for it, as version 1; a number that is not finite is null."""
    if path:
        write_json(path, {"version": 1, **_finite(found)})


_AS_IT_IS = (str, int, bool, type(None))


def _finite(value: Any) -> Any:
    if type(value) in _AS_IT_IS:  # most of a report; to ask whether it is a `Mapping` takes longer than all the rest
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return {key: _finite(part) for key, part in value.items()} if isinstance(value, Mapping) else value
