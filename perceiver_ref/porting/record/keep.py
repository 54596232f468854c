"""What of an intermediate value is kept: all of it, or statistics and scattered samples.

A `Keep` turns the array of one point into what is written. Another way of keeping, such as a probe's, is another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..cases.summaries import summary


class Kept(NamedTuple):
    """What is kept of one point: an array, written under the point's own key, and a summary, which goes into
    `meta["summaries"]` by that key. None for what there is not."""

    array: np.ndarray | None
    summary: dict[str, Any] | None


class Keep(Protocol):
    """Called once for each point with its array, which it must not hold on to: the next call may overwrite it."""

    def __call__(self, array: np.ndarray) -> Kept:
        """What is kept of this array."""


def whole(array: np.ndarray) -> Kept:
    """All of it."""
    return Kept(array, None)


@dataclass(frozen=True)
class Summary:
    """Statistics, and `samples` elements from all over the array, in place of the array (`cases.summaries`)."""

    samples: int = 0

    def __call__(self, array: np.ndarray) -> Kept:
        return Kept(None, summary(array, self.samples))
