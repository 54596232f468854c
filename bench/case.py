"""What a case is: one thing to measure, in some passes of some implementations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Sizes = Mapping[str, Any]
FORWARD, BOTH, STEP, IMPORT, COMMAND = "forward", "forward + backward", "step", "import", "command"
PASSES = (FORWARD, BOTH, STEP, IMPORT, COMMAND)


@dataclass(frozen=True)
class BenchCase:
    """One thing to measure.

    `kind` names the function of `subjects` that makes the model (or "command", "digits", "engine", "import"); `full`
    and `quick` are its arguments. `implementations` measure it, ours first. `gib`: memory that one of them needs at
    full size, by (implementation, pass); it is left out on a machine that has not so much.
    """

    name: str
    what: str
    kind: str
    full: Sizes
    quick: Sizes
    implementations: Sequence[str]
    passes: Sequence[str] = (FORWARD, BOTH)
    gib: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def sizes(self, quick: bool) -> Sizes:
        """The arguments of `kind`."""
        return self.quick if quick else self.full
