"""Embedding look-ups that can be recorded in a CUDA graph.

The definition reads the range of indices back to the host, which no recording may; while there is one, indices on the
device are taken as they are, and wrap where they are out of range.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array, recording
from ...ops.index import take


def take_forward(table: Array, ids: Array, *, axis: int = 0) -> Any:
    """As `ops.index.take`."""
    if not recording(ids) or ids.dtype.kind not in "iu":
        return NotImplemented
    ids = ids.astype(np.int64) % max(table.shape[axis], 1)
    return table.take(ids, axis=axis), (ids, table.shape)


take_backward = take.definition.backward
