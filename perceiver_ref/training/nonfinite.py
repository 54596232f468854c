"""Where a loss that is not finite comes from: the batch, or the first operation that makes a NaN or an infinity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..autograd import NonFiniteError, detect_nonfinite
from ..autograd.backend import to_host
from ..errors import one_line


def cause(batch: Mapping[str, Any], again: Callable[[], Any]) -> str:
    """In words that follow a semicolon, or "" where nothing is found; `again` computes the step once more."""
    if found := data_cause(batch):
        return found
    try:
        with detect_nonfinite(), np.errstate(all="ignore"):
            again()
    except NonFiniteError as error:
        return f"first: {one_line(error, 240)}"
    except Exception:  # what fails the second time was no cause
        return ""
    return ""


def data_cause(batch: Mapping[str, Any]) -> str:
    """Which array of a batch holds a NaN or an infinity, and in which row of it."""
    for name, array in batch.items():
        host = to_host(array)
        if host.dtype.kind == "f" and not np.isfinite(host).all():
            row = int(np.flatnonzero(~np.isfinite(host.reshape(len(host), -1)).all(1))[0]) if host.ndim else 0
            what = "a NaN" if np.isnan(host).any() else "an infinity"
            return f"{name!r} of its batch holds {what}, in row {row}"
    return ""
