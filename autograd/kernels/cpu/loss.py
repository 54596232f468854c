"""Cross-entropy in place: probabilities are kept for the way back, where the definition takes exponentials again.

Memory traffic: forward reads the logits and writes probabilities, backward reads those and writes the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array
from ...ops.loss import Reduction, _reduce, _spread
from . import rows


def forward(
    logits: Array,
    targets: Array,
    *,
    class_weights: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Any:
    """As `ops.loss.cross_entropy`, for classes of one weight; what the definition refuses is left to it."""
    if class_weights is not None or not rows.fits(logits) or type(targets) is not np.ndarray:
        return NotImplemented
    if targets.shape != logits.shape[:-1] or targets.dtype.kind not in "iu":
        return NotImplemented
    classes, valid = logits.shape[-1], targets.reshape(-1) != ignore_index
    safe = np.where(valid, targets.reshape(-1), 0)
    if not 0 <= safe.min() <= safe.max() < classes:
        return NotImplemented
    x, each = rows.flat(logits), np.arange(len(safe))
    p = x - x.max(-1, keepdims=True)
    picked = p[each, safe]
    others = rows.sums(p)[:, 0] / classes if label_smoothing else 0
    np.exp(p, out=p)
    total = rows.sums(p)
    p /= total
    log_total = np.log(total[:, 0])
    losses = log_total - (1 - label_smoothing) * picked - label_smoothing * others
    losses = np.where(valid, losses, 0).astype(p.dtype, copy=False).reshape(targets.shape)
    return _reduce(losses, reduction, int(valid.sum())), (p, safe, valid, targets.shape)


def backward(
    g: Array, p: Array, safe: Array, valid: Array, shape: tuple[int, ...], label_smoothing: float, reduction: Reduction
) -> Any:
    """As the backward rule of `ops.loss.cross_entropy`."""
    share = _spread(g, reduction, int(valid.sum()))  # () or (...)
    dx = p - label_smoothing / p.shape[1] if label_smoothing else p.copy()
    dx[np.arange(len(safe)), safe] -= 1 - label_smoothing
    dx *= share.reshape(-1, 1)
    if not valid.all():
        dx[~valid] = 0
    return dx.reshape(*shape, p.shape[1]), None
