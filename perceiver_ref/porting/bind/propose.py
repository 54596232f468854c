"""Configurations that a port of unknown size may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..cases import Case


@dataclass(frozen=True)
class Proposal:
    """A configuration, what was seen of it, and whether running it gave what the port recorded."""

    said: str
    text: str
    config: dict[str, Any]
    verified: bool


def propose(case: Case, seconds: float) -> list[Proposal]:
    """The likeliest first."""
    return []
