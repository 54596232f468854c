"""Cross-entropy that never waits for the device.

The definition reads the labels' range and the number of valid ones back to the host. Labels given as NumPy arrays are
checked there, before they move; those already on the device are not read back, and one out of range gives NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array
from ...ops.loss import Reduction, _reduce, _spread, cross_entropy
from ...sums import wide_total
from .launch import LONGEST, fits
from .softmax import log_softmax_forward


def forward(
    logits: Array,
    targets: Array,
    *,
    class_weights: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Any:
    """As `ops.loss.cross_entropy`, with the range of labels on the device left to the result."""
    weights = class_weights
    if not _suits(logits, weights) or targets.shape != logits.shape[:-1] or targets.dtype.kind not in "iu":
        return NotImplemented
    import cupy

    classes = logits.shape[-1]
    valid = targets != ignore_index
    outside: Any = None
    if isinstance(targets, np.ndarray):
        safe = np.where(valid, targets, 0)
        if not 0 <= int(safe.min()) <= int(safe.max()) < classes:
            raise IndexError(f"targets must be in [0, {classes}) or {ignore_index}")
        safe, valid = cupy.asarray(safe), cupy.asarray(valid)
    else:
        outside = valid & ((targets < 0) | (targets >= classes))
        safe = cupy.where(valid & ~outside, targets, 0)
    log_p = log_softmax_forward(logits)[0]
    picked = 1.0 if weights is None else weights[safe]
    losses = -picked * cupy.take_along_axis(log_p, safe[..., None], -1)[..., 0]
    if label_smoothing:
        others = (log_p if weights is None else weights * log_p).mean(-1)
        losses = (1 - label_smoothing) * losses - label_smoothing * others
    losses = cupy.where(valid, losses, cupy.zeros((), logits.dtype))
    if outside is not None:
        losses = cupy.where(outside, cupy.full((), cupy.nan, logits.dtype), losses)
    if reduction == "mean":
        mean = wide_total(losses) / _weight(valid, safe, weights, logits.dtype)
        loss = mean.astype(logits.dtype)
    else:
        loss = _reduce(losses, reduction, 1.0)
    return loss, (log_p, safe, valid, weights)


def backward(
    g: Array,
    log_p: Array,
    safe: Array,
    valid: Array,
    weights: Array | None,
    label_smoothing: float,
    reduction: Reduction,
) -> Any:
    """As the backward rule of `ops.loss.cross_entropy`."""
    if not _suits(log_p, weights):
        return cross_entropy.definition.backward(
            g, log_p, safe, valid, weights, label_smoothing=label_smoothing, reduction=reduction
        )
    import cupy

    count: Any = 1.0
    if reduction == "mean":
        count = _weight(valid, safe, weights, log_p.dtype)
        count = cupy.where(count == 0, cupy.ones((), log_p.dtype), count)
    each = _spread(g, reduction, 1.0) / count  # () or (...)
    spread = label_smoothing / log_p.shape[-1] * (1.0 if weights is None else weights)  # () or (K,)
    picked = (1 - label_smoothing) * (1.0 if weights is None else weights[safe][..., None])  # () or (..., 1)
    total = picked + (label_smoothing if weights is None else spread.sum())
    gradient = cupy.exp(log_p) * total
    gradient -= spread
    gradient -= picked * (cupy.arange(log_p.shape[-1]) == safe[..., None])
    gradient *= each[..., None]
    return cupy.where(valid[..., None], gradient, cupy.zeros((), log_p.dtype)), None


def _suits(logits: Array, weights: Array | None) -> bool:
    if not (logits.ndim and fits(logits, weights) and logits.shape[-1] <= LONGEST):
        return False
    return weights is None or weights.shape == logits.shape[-1:]


def _weight(valid: Array, safe: Array, weights: Array | None, dtype: Any) -> Array:
    """What a mean of cross-entropies divides by: 0-d, on the device."""
    return valid.sum(dtype=dtype) if weights is None else (weights[safe] * valid).sum()
