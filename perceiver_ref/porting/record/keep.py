"""What of an intermediate value is kept: all of it, or statistics and scattered samples.

A `Keep` turns the array of one point into what is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ..cases.samples import Sampled, sampled


class Kept(NamedTuple):
    """What is kept of one point: an array, written under the point's own key, and samples, which are written under
    `sample/` and `statistics/` before that key. None for what there is not."""

    array: np.ndarray | None
    sampled: Sampled | None = None


class Keep(Protocol):
    """Called once for each point with its array, which it must not hold on to: the next call may overwrite it."""

    def __call__(self, array: np.ndarray) -> Kept:
        """What is kept of this array."""


def whole(array: np.ndarray) -> Kept:
    """All of it."""
    return Kept(array)


@dataclass(frozen=True)
class Samples:
    """Statistics, and `samples` elements from all over the array, in its place (`cases.samples`)."""

    samples: int = 0
    seed: int = 0

    def __call__(self, array: np.ndarray) -> Kept:
        return Kept(None, sampled(array, self.seed, self.samples))
