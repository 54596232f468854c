"""Gradients of tables of which rows were picked: those of one row are laid side by side and added by one call.

Memory traffic: the rows, read and written in the order of their ids, and read again; the table's gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array
from ...ops.index import take
from . import rows

take_forward = take.definition.forward


def take_backward(g: Array, ids: Array, shape: tuple[int, ...], axis: int) -> Any:
    """As the backward rule of `ops.index.take`."""
    if axis % len(shape) or g.dtype not in rows.FLOATS or not g.size:
        return take.definition.backward(g, ids, shape, axis=axis)
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")
    sorted_ids = flat[order]
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1))
    table = np.zeros(shape, g.dtype)
    table[sorted_ids[starts]] = np.add.reduceat(g.reshape(flat.size, *shape[1:])[order], starts, 0)
    return table, None
