"""What an implementation gives the process that measures it, and how its results are summed up for comparing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
"""The clone."""
SAMPLED = 4096
"""Elements of each output that are compared, at even distances."""
BACKWARD_FLOPS = 3
"""Forward and backward, as a multiple of forward: each product's two gradients are products of its size."""

RATE = 1e-3
"""The learning rate of a training step."""


class MissingError(Exception):
    """This implementation cannot run here, and why."""


@dataclass(frozen=True)
class Spec:
    """What one process is to measure. `backend` is "numpy" (the CPU) or "cupy" (the GPU)."""

    case: str
    implementation: str
    quick: bool = False
    backend: str = "numpy"
    tf32: bool = False


@dataclass
class Built:
    """A model ready to run.

    `passes` compute once and return what `summaries` (by pass) make a vector of; `wait` returns when the device is
    done. `peak(call)` runs it and returns the bytes that it needed at most, above `held`, those of parameters and
    inputs. `flops` are those of a pass by the ledger's rule, where they are known.
    """

    passes: Mapping[str, Callable[[], Any]]
    summaries: Mapping[str, Callable[[Any], np.ndarray]]
    wait: Callable[[], None] = lambda: None
    peak: Callable[[Callable[[], None]], int] | None = None
    held: int = 0
    flops: Callable[[str], int] | None = None
    versions: dict[str, str] = field(default_factory=dict)


def sample(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """A vector of the outputs, in the order of their names."""
    parts = []
    for _, array in sorted(arrays.items()):
        flat = np.asarray(array).reshape(-1)
        parts.append(flat[:: max(1, math.ceil(flat.size / SAMPLED))].astype(np.float64))
    return np.concatenate(parts)


def with_gradients(outputs: np.ndarray, squares: float) -> np.ndarray:
    """The vector of outputs and the norm of all gradients together, which no renaming of parameters changes."""
    return np.append(outputs, math.sqrt(squares))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| as a share of max |b|; infinite where shapes differ or a value is not finite."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
