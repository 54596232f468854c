"""Inputs of the small models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mutants.models import Arrays

Rng = np.random.Generator


def normal(**shapes: tuple[int, ...]) -> Callable[[Rng], Arrays]:
    """Standard normal arrays of these shapes."""
    return lambda rng: {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def lengths(rows: tuple[int, ...], size: int) -> Any:
    """A mask (B, M), 1 in the first so many places of each row."""
    return (np.arange(size) < np.array(rows)[:, None]).astype(np.int64)


def masked(inputs: Callable[[Rng], Arrays], **masks: Any) -> Callable[[Rng], Arrays]:
    """The same inputs with masks."""
    return lambda rng: {**inputs(rng), **masks}


def tokens(vocabulary: int, shape: tuple[int, int], name: str = "inputs", kind: Any = np.int64) -> Any:
    """Token ids."""
    return lambda rng: {name: rng.integers(0, vocabulary, shape).astype(kind)}


def fourier(resolution: list[int], bands: int = 2) -> dict[str, Any]:
    """Arguments of a Fourier position encoding."""
    return {"concat_pos": True, "max_resolution": resolution, "num_bands": bands, "sine_only": False}
