"""How close two large arrays are, on the host or on a device, in one pass over them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...autograd.backend import to_host, xp
from ..cases.compare import difference

_BLOCK = 1 << 15


class Close(NamedTuple):
    """How close two arrays are: the error as `difference` has it, and the root mean square, relative."""

    error: float
    relative: float


def closeness(mine: Any, theirs: Any) -> Close:
    """How far an array under test is from ours, both on one backend."""
    if mine.shape != theirs.shape or mine.dtype.kind != "f" or theirs.dtype.kind != "f" or not mine.size:
        return _whole_difference(mine, theirs)
    if not isinstance(mine, np.ndarray):
        return _on_device(mine, theirs)
    a, b = np.ascontiguousarray(mine).reshape(-1), np.ascontiguousarray(theirs).reshape(-1)
    largest = scale = square = size = 0.0
    for i in range(0, a.size, _BLOCK):  # parts stay in the processor's cache
        ours, apart = a[i : i + _BLOCK], a[i : i + _BLOCK] - b[i : i + _BLOCK]
        square += float(apart.dot(apart))
        size += float(ours.dot(ours))
        largest = max(largest, float(apart.max()), -float(apart.min()))
        scale = max(scale, float(ours.max()), -float(ours.min()))
    return _close(mine, theirs, largest, scale, square, size)


def _on_device(mine: Any, theirs: Any) -> Close:
    """The same of arrays on a device: all at once, and what comes of it read back in one piece."""
    library = xp(mine)
    apart = mine - theirs
    sums = [abs(apart).max(), abs(mine).max(), (apart * apart).sum(dtype=float), (mine * mine).sum(dtype=float)]
    return _close(mine, theirs, *map(float, to_host(library.stack([s.astype(float) for s in sums]))))


def _close(mine: Any, theirs: Any, largest: float, scale: float, square: float, size: float) -> Close:
    if not np.isfinite(square) or not np.isfinite(size):
        return _whole_difference(mine, theirs)
    return Close(largest / max(scale, 1.0), float(np.sqrt(square / max(size, 1e-300))))


def _whole_difference(mine: Any, theirs: Any) -> Close:
    error = difference(to_host(theirs), to_host(mine))
    return Close(error, error)
