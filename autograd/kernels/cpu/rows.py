"""Row kernels go over blocks that stay in a core's cache: each array is read from memory once and written once.

NumPy's functions each pass over their whole arguments. On a block those passes are passes over the cache,
and no array as large as the arguments is made on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ...backend import Array
from . import threads

BLOCK = 1 << 15
"""Elements of a block: 128 KiB of float32, which fits a second-level cache of 1 MiB with its buffers."""

SMALL = 1 << 12
"""Arrays of at most so many elements go to the definition: the calls would cost more than the work."""

ALONE = 1 << 16
"""Work of at most so many elements stays on the calling thread."""

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def fits(x: Array, *vectors: Array) -> bool:
    """Whether a row kernel serves: x large, in float32 or float64, and the vectors of the last axis' length."""
    return x.size > SMALL and x.dtype in FLOATS and all(v.shape == x.shape[-1:] and v.dtype == x.dtype for v in vectors)


def flat(x: Array) -> Array:
    """(..., D) as (rows, D), C-contiguous."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def line(x: Array) -> Array:
    """All elements as (size,), C-contiguous: rows of one element."""
    return np.ascontiguousarray(x).reshape(-1)


def blocks(lines: Array) -> list[slice]:
    """The rows of (rows, ...), cut into blocks."""
    step = _step(lines)
    return [slice(start, min(start + step, len(lines))) for start in range(0, len(lines), step)]


def each(work: Callable[[Iterable[tuple[int, slice]]], None], lines: Array) -> None:
    """`work` on every numbered block of rows: one call a thread, which may keep its buffers from block to block."""
    numbered = list(enumerate(blocks(lines)))
    parts = 1 if lines.size <= ALONE else threads.count()
    threads.spread(work, threads.cut(numbered, parts))


def buffer(lines: Array) -> Array:
    """Room for one block."""
    return np.empty((min(_step(lines), len(lines)), *lines.shape[1:]), lines.dtype)


def _step(lines: Array) -> int:
    return max(1, BLOCK // max(int(lines[:1].size), 1))


def total(sums: Array, dtype: Any) -> Array:
    """The sum of the blocks' sums, added in float64 in the blocks' order: the same for any number of threads."""
    return sums.sum(0, dtype=np.float64).astype(dtype, copy=False)
