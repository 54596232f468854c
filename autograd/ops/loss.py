"""Losses. `reduction` is "mean", "sum" or "none"; integer targets are not differentiated."""

from __future__ import annotations

from typing import Any, Literal

from ..backend import Array, peak, to_host, xp
from ..core import op
from ..sums import average, total, wide_total

Reduction = Literal["mean", "sum", "none"]


@op(floats=True, labels=("targets",))
def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    class_weights: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Any:
    """-log softmax(logits)[target], with smoothed targets (Szegedy et al. 2016, arXiv 1512.00567, section 7).

        loss = (1 - s) w[target] (-log p[target]) + s mean over classes of w (-log p)          s = label_smoothing

    logits (..., V), targets (...) integers in [0, V) or equal to `ignore_index` -> 0-d, or (...) unreduced.
    `class_weights` are w (V,), 1 when not given. Ignored positions give 0 and no gradient; "mean" divides by the sum of
    w[target] over the others (NaN when that is 0).
    """
    library = xp(logits)
    targets = library.asarray(targets if library is xp(targets) else to_host(targets))
    if targets.shape != logits.shape[:-1] or targets.dtype.kind not in "iu":
        raise ValueError(f"targets must be integers of shape {logits.shape[:-1]}, got {targets.dtype}{targets.shape}")
    weights = class_weights
    if weights is not None and weights.shape != logits.shape[-1:]:
        raise ValueError(f"class_weights must be {logits.shape[-1:]}, one for each class, got {weights.shape}")
    valid = targets != ignore_index
    safe = library.where(valid, targets, 0)
    if safe.size and not 0 <= int(safe.min()) <= int(safe.max()) < logits.shape[-1]:
        raise IndexError(f"targets must be in [0, {logits.shape[-1]}) or {ignore_index}")
    shifted = logits - peak(logits, -1)
    log_p = shifted - library.log(total(library.exp(shifted), -1, keepdims=True))
    picked = 1.0 if weights is None else weights[safe]
    losses = -picked * library.take_along_axis(log_p, safe[..., None], -1)[..., 0]
    if label_smoothing:
        others = average(log_p if weights is None else weights * log_p, -1)
        losses = (1 - label_smoothing) * losses - label_smoothing * others
    losses = library.where(valid, losses, library.zeros((), logits.dtype))
    return _reduce(losses, reduction, _weight(valid, safe, weights)), (log_p, safe, valid, weights)


@cross_entropy.backward
def _(
    g: Array,
    log_p: Array,
    safe: Array,
    valid: Array,
    weights: Array | None,
    label_smoothing: float,
    reduction: Reduction,
) -> Any:
    library = xp(log_p)
    each = _spread(g, reduction, _weight(valid, safe, weights))  # () or (...)
    spread = label_smoothing / max(log_p.shape[-1], 1) * (1.0 if weights is None else weights)  # () or (V,)
    picked = (1 - label_smoothing) * (1.0 if weights is None else weights[safe][..., None])  # () or (..., 1)
    shares = picked + (label_smoothing if weights is None else spread.sum())
    gradient = library.exp(log_p) * shares - spread
    gradient -= picked * (library.arange(log_p.shape[-1]) == safe[..., None])
    return library.where(valid[..., None], gradient * each[..., None], library.zeros((), log_p.dtype)), None


def _weight(valid: Array, safe: Array, weights: Array | None) -> float:
    """What a mean of cross-entropies divides by."""
    return int(valid.sum()) if weights is None else float(wide_total(weights[safe] * valid))


@op(floats=True)
def binary_cross_entropy(logits: Array, targets: Array, *, reduction: Reduction = "mean") -> Any:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), without overflow.

    logits (...), targets (...) in [0, 1] -> 0-d, or (...) unreduced.
    """
    _same_shape(logits, targets)
    library = xp(logits)
    # max(x, 0) - x t + log(1 + exp(-|x|))
    losses = library.maximum(logits, 0) - logits * targets + library.log1p(library.exp(-abs(logits)))
    return _reduce(losses, reduction, losses.size), (logits, targets)


@binary_cross_entropy.backward
def _(g: Array, logits: Array, targets: Array, reduction: Reduction) -> Any:
    library = xp(logits)
    small = library.exp(-abs(logits))
    p = library.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    each = _spread(g, reduction, logits.size)
    return (p - targets) * each, -logits * each


@op(floats=True)
def squared_error(x: Array, y: Array, *, reduction: Reduction = "mean") -> Any:
    """(x - y)^2 for x and y of one shape."""
    _same_shape(x, y)
    difference = x - y
    return _reduce(difference * difference, reduction, difference.size), (difference,)


@squared_error.backward
def _(g: Array, difference: Array, reduction: Reduction) -> Any:
    dx = 2 * difference * _spread(g, reduction, difference.size)
    return dx, -dx


@op(floats=True)
def absolute_error(x: Array, y: Array, *, reduction: Reduction = "mean") -> Any:
    """|x - y| for x and y of one shape; the derivative where they are equal is 0."""
    _same_shape(x, y)
    difference = x - y
    return _reduce(abs(difference), reduction, difference.size), (difference,)


@absolute_error.backward
def _(g: Array, difference: Array, reduction: Reduction) -> Any:
    each = xp(difference).where(difference == 0, 0, _spread(g, reduction, difference.size))  # 0 also of an infinite g
    dx = xp(difference).sign(difference) * each
    return dx, -dx


def _same_shape(x: Array, y: Array) -> None:
    if x.shape != y.shape:
        raise ValueError(f"shapes must be equal, got {x.shape} and {y.shape}")


def _reduce(losses: Array, reduction: str, count: float) -> Array:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return total(losses)
    if reduction == "mean":
        return (wide_total(losses) / (count or xp(losses).nan)).astype(losses.dtype, copy=False)
    raise ValueError(f"unknown reduction {reduction!r}; known: mean, sum, none")


def _spread(g: Array, reduction: str, count: float) -> Array:
    """The gradient of each unreduced loss."""
    return g / (count or 1) if reduction == "mean" else g
