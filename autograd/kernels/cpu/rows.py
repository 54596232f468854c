"""Row kernels go over blocks that stay in a core's cache: each array is read from memory once and written once.

NumPy's functions each pass over their whole arguments. On a block those passes are passes over the cache,
and no array as large as the arguments is made on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...backend import Array
from . import threads

Blocks = Sequence[tuple[int, slice]]
"""Numbered blocks: the share of one thread."""

BLOCK = 1 << 15
"""Elements of a block of one thread: 128 KiB of float32, which fits a second-level cache of 1 MiB with its buffers."""

SHARED_BLOCK = 1 << 17
"""The same of several threads. Between two calls of NumPy a thread needs the interpreter's lock: where another has it,
waiting takes as long as the arithmetic of a small block. Calls that are longer meet less often."""

SMALL = 1 << 12
"""Arrays of at most so many elements go to the definition: the calls would cost more than the work."""

ALONE = 1 << 18
"""Work of at most so many elements stays on the calling thread."""

KEPT = 1 << 18
"""Results of at most so many elements are kept for the way back, where larger ones are made again."""

PIECE = 128
"""Elements that BLAS may add in few running sums: float32 loses 1e-7 of their sum where all are alike."""

SHORT = 32
"""Elements of a row for which a call of BLAS takes longer than its work."""

PRODUCTS = 4096
"""The same of products, which it adds in many: 5e-7."""

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
    """The rows of (rows, ...), cut into blocks of about equal size, as many for each thread that takes part."""
    if lines.size <= BLOCK:
        return [slice(0, len(lines))] if len(lines) else []
    parts = _parts(lines)
    most = parts * (BLOCK if parts == 1 else SHARED_BLOCK)
    step = max(1, -(-len(lines) // (parts * max(1, -(-lines.size // most)))))
    return [slice(start, min(start + step, len(lines))) for start in range(0, len(lines), step)]


def each(work: Callable[[Blocks], None], lines: Array) -> None:
    """`work` on every numbered block of rows: one call a thread, which may keep its buffers from block to block."""
    threads.spread(work, threads.cut(list(enumerate(blocks(lines))), _parts(lines)), lines.size)


def buffer(lines: Array, blocks: Blocks) -> Array:
    """Room for the largest of the blocks."""
    return np.empty((max(a.stop - a.start for _, a in blocks), *lines.shape[1:]), lines.dtype)


def sums(lines: Array) -> Array:
    """The sum of each row of contiguous (rows, D): (rows, 1). BLAS's fast running sums only of pieces of a row."""
    width = lines.shape[1]
    if width <= 2 * PIECE:
        return lines @ _ones(width, lines.dtype)
    if width % PIECE:
        return lines.sum(1, keepdims=True)
    pieces = lines.reshape(-1, PIECE) @ np.ones(PIECE, lines.dtype)
    return pieces.reshape(len(lines), -1).sum(1, keepdims=True)


@lru_cache
def _ones(width: int, dtype: Any) -> Array:
    return np.ones((width, 1), dtype)


def dots(x: Array, y: Array) -> Array:
    """The inner product of each row of x with that of y, (rows, 1), by BLAS, or for short rows by NumPy."""
    width = x.shape[1]
    if width <= SHORT:
        return np.einsum("nd,nd->n", x, y)[:, None]
    if width <= PRODUCTS:
        return (x[:, None, :] @ y[:, :, None])[:, 0]
    pieces = [np.vecdot(x[:, i : i + PRODUCTS], y[:, i : i + PRODUCTS]) for i in range(0, width, PRODUCTS)]
    return np.sum(pieces, 0)[:, None]


def _parts(lines: Array) -> int:
    return 1 if lines.size <= ALONE else threads.count()


def total(sums: Array, dtype: Any) -> Array:
    """The sum of the blocks' sums, added in float64 in the blocks' order."""
    whole = sums[0] if len(sums) == 1 else sums.sum(0, dtype=np.float64)
    return whole.astype(dtype)
