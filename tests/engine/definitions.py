"""What each op means, written again: loops over elements, SciPy, or another formula, in float64 on NumPy.

Nothing here is fast or shares code with the package; `op_cases` says which definition belongs to which op.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.special

Axis = int | tuple[int, ...] | None


def each(function: Callable[..., Any], dtype: Any = np.float64) -> Callable[..., np.ndarray]:
    """A broadcasting function of arrays that calls `function` on Python numbers, one element at a time."""

    def definition(*arrays: Any) -> np.ndarray:
        together = np.broadcast_arrays(*arrays)
        flat = [function(*(v.item() for v in values)) for values in zip(*(a.flat for a in together))]
        return np.array(flat, dtype).reshape(together[0].shape)

    return definition


def reduced(function: Callable[[Sequence[float]], float]) -> Callable[..., np.ndarray]:
    """A reduction that calls `function` on the list of elements that become one."""

    def definition(x: np.ndarray, axis: Axis = None, keepdims: bool = False) -> np.ndarray:
        axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        gone = sorted(a % x.ndim for a in axes) if x.ndim else []
        kept = [a for a in range(x.ndim) if a not in gone]
        lists = x.transpose(*kept, *gone).reshape(*(x.shape[a] for a in kept), math.prod(x.shape[a] for a in gone))
        out = np.array([function(lists[i].tolist()) for i in np.ndindex(lists.shape[:-1])])
        return out.reshape([1 if a in gone else n for a, n in enumerate(x.shape) if keepdims or a not in gone])

    return definition


def average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def relu(x: float) -> float:
    return x if x > 0 else 0.0


def logistic(x: float) -> float:
    return 0.5 + 0.5 * math.tanh(x / 2)


def gelu_erf(x: float) -> float:
    return x * float(scipy.special.ndtr(x))


def gelu_tanh(x: float) -> float:
    """(1 + tanh u) / 2 is the logistic function of 2 u."""
    return x * logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def softplus(x: float) -> float:
    return float(np.logaddexp(0, x))


def reshape(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.array(list(x.flat), np.float64).reshape(shape)


def transpose(x: np.ndarray, axes: tuple[int, ...] | None = None) -> np.ndarray:
    order = range(x.ndim)[::-1] if axes is None else [a % x.ndim for a in axes]
    out = np.empty([x.shape[a] for a in order])
    for index in np.ndindex(*x.shape):
        out[tuple(index[a] for a in order)] = x[index]
    return out


def concatenate(*arrays: np.ndarray, axis: int = 0) -> np.ndarray:
    first = [np.moveaxis(a, axis, 0) for a in arrays]
    rows = [row for a in first for row in a]
    return np.moveaxis(np.array(rows).reshape(len(rows), *first[0].shape[1:]), 0, axis)


def stack(*arrays: np.ndarray, axis: int = 0) -> np.ndarray:
    return np.moveaxis(np.array([a.tolist() for a in arrays]).reshape(len(arrays), *arrays[0].shape), 0, axis)


def split(x: np.ndarray, sizes: tuple[int, ...], axis: int = 0) -> tuple[np.ndarray, ...]:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return tuple(np.compress(owner == i, x, axis=axis) for i in range(len(sizes)))


def pad(x: np.ndarray, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> np.ndarray:
    out = np.full([before + n + after for n, (before, after) in zip(x.shape, widths)], value)
    for index in np.ndindex(*x.shape):
        out[tuple(i + before for i, (before, _) in zip(index, widths))] = x[index]
    return out


def getitem(x: np.ndarray, index: Any) -> np.ndarray:
    """Looks up the position of each picked element in the row-major list of elements."""
    positions = np.asarray(np.arange(x.size).reshape(x.shape)[index])
    return np.array([x.flat[p] for p in positions.flat]).reshape(positions.shape)


def take(table: np.ndarray, ids: np.ndarray, axis: int = 0) -> np.ndarray:
    """A product with one-hot rows."""
    one_hot = np.eye(table.shape[axis])[ids.astype(int)]
    picked = np.tensordot(one_hot, table, axes=(-1, axis))
    start = axis % table.ndim
    return np.moveaxis(picked, range(ids.ndim), range(start, start + ids.ndim))


def take_along_axis(x: np.ndarray, indices: np.ndarray, axis: int = -1) -> np.ndarray:
    axis %= x.ndim
    lead = np.broadcast_shapes(
        tuple(1 if a == axis else n for a, n in enumerate(x.shape)),
        tuple(1 if a == axis else n for a, n in enumerate(indices.shape)),
    )
    x = np.broadcast_to(x, (*lead[:axis], x.shape[axis], *lead[axis + 1 :]))
    indices = np.broadcast_to(indices, (*lead[:axis], indices.shape[axis], *lead[axis + 1 :]))
    out = np.empty(indices.shape)
    for place in np.ndindex(*indices.shape):
        out[place] = x[(*place[:axis], indices[place], *place[axis + 1 :])]
    return out


def matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows = "k" if x.ndim == 1 else "...nk"
    columns = "k" if y.ndim == 1 else "...km"
    kept = "..." if x.ndim > 2 or y.ndim > 2 else ""
    out = kept + ("n" if x.ndim > 1 else "") + ("m" if y.ndim > 1 else "")
    if not kept:
        rows, columns = rows.strip("."), columns.strip(".")
    return np.einsum(f"{rows},{columns}->{out}", x, y)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    return np.einsum("...d,de->...e", x, weight) + (0 if bias is None else bias)


def layer_norm(x: np.ndarray, scale: np.ndarray, offset: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """With the variance as the mean of squares less the square of the mean."""
    mean = x.mean(-1, keepdims=True)
    variance = (x**2).mean(-1, keepdims=True) - mean**2
    return (x - mean) * (variance + eps) ** -0.5 * scale + offset


def rms_norm(x: np.ndarray, scale: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """By the length of each row: its mean square is the squared length over D."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x * (length**2 / x.shape[-1] + eps) ** -0.5 * scale


def attention_weights(
    q: np.ndarray,
    k: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    mask: np.ndarray | None = None,
    scale: float | None = None,
    masked_rows: str = "zero",
) -> np.ndarray:
    """One query at a time, over the keys that it may attend to and no others."""
    shape = (q.shape[-2], k.shape[-2])
    extra = [x for x in (bias, mask) if x is not None]
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], *(x.shape[:-2] for x in extra))
    bias = np.broadcast_to(0.0 if bias is None else bias, (*lead, *shape))
    mask = np.broadcast_to(True if mask is None else mask, (*lead, *shape))
    q, k = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out = np.zeros((*lead, *shape))
    for *batch, n in np.ndindex(*lead, shape[0]):
        row = (*batch, n)
        allowed = np.flatnonzero(mask[row])
        if allowed.size:
            scores = np.array([scale * float(q[row] @ k[(*batch, m)]) + bias[(*row, m)] for m in allowed])
            out[(*row, allowed)] = scipy.special.softmax(scores)
        elif masked_rows != "zero" and shape[1]:
            out[row] = 1 / shape[1]
    return out


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: Any = None, **options: Any) -> np.ndarray:
    """Values are added up only where the weight is not 0, so that those which are not used may hold anything."""
    weights = attention_weights(q, k, bias, **options)
    lead = np.broadcast_shapes(weights.shape[:-2], v.shape[:-2])
    weights = np.broadcast_to(weights, (*lead, *weights.shape[-2:]))
    v = np.broadcast_to(v, (*lead, *v.shape[-2:]))
    out = np.zeros((*lead, weights.shape[-2], v.shape[-1]))
    for *batch, n in np.ndindex(*weights.shape[:-1]):
        for m in np.flatnonzero(weights[(*batch, n)]):
            out[(*batch, n)] += weights[(*batch, n, m)] * v[(*batch, m)]
    return out


def dropout(x: np.ndarray, rate: float, key: Any) -> np.ndarray:
    survives = np.random.default_rng(key).random(x.shape, np.float32) >= rate
    return np.where(survives, x / (1 - rate), 0.0)


def cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    class_weights: np.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> np.ndarray:
    """The cross-entropy with the smoothed one-hot distribution, position by position."""
    losses = np.zeros(targets.shape)
    weights = np.ones(logits.shape[-1]) if class_weights is None else class_weights
    counted = 0.0
    for place in np.ndindex(*targets.shape):
        if targets[place] == ignore_index:
            continue
        counted += weights[targets[place]]
        wanted = weights * label_smoothing / logits.shape[-1]
        wanted[targets[place]] += weights[targets[place]] * (1 - label_smoothing)
        losses[place] = -(wanted * scipy.special.log_softmax(logits[place])).sum()
    return summed(losses, reduction, counted)


def binary_cross_entropy(logits: np.ndarray, targets: np.ndarray, reduction: str = "mean") -> np.ndarray:
    losses = each(lambda x, t: t * softplus(-x) + (1 - t) * softplus(x))(logits, targets)
    return summed(losses, reduction, losses.size)


def squared_error(x: np.ndarray, y: np.ndarray, reduction: str = "mean") -> np.ndarray:
    losses = each(lambda a, b: a * a - 2 * a * b + b * b)(x, y)
    return summed(losses, reduction, losses.size)


def absolute_error(x: np.ndarray, y: np.ndarray, reduction: str = "mean") -> np.ndarray:
    losses = each(lambda a, b: max(a, b) - min(a, b))(x, y)
    return summed(losses, reduction, losses.size)


def summed(losses: np.ndarray, reduction: str, count: float) -> np.ndarray:
    if reduction == "none":
        return losses
    total = math.fsum(losses.flat)
    return np.array(total if reduction == "sum" else total / count if count else math.nan)


def convolution(
    x: np.ndarray, weight: np.ndarray, strides: Any, padding: Any, dilation: Any = None, groups: int = 1
) -> np.ndarray:
    """Every output and every offset of the window by itself; an index outside the grid is padding, 0."""
    grid, window = x.shape[1:-1], weight.shape[:-2]
    weight = ungrouped(weight, groups)
    dilation = dilation or (1,) * len(grid)
    reach = [n + a + b - d * (k - 1) - 1 for n, (a, b), d, k in zip(grid, padding, dilation, window)]
    y = np.zeros((x.shape[0], *(r // s + 1 for r, s in zip(reach, strides)), weight.shape[-1]))
    for i in np.ndindex(*y.shape[1:-1]):
        for o in np.ndindex(*window):
            at = tuple(s * p + d * q - a for s, p, d, q, (a, _) in zip(strides, i, dilation, o, padding))
            if all(0 <= place < n for place, n in zip(at, grid)):
                y[(slice(None), *i)] += x[(slice(None), *at)] @ weight[o]
    return y


def transposed_convolution(
    x: np.ndarray, weight: np.ndarray, strides: Any, padding: Any, dilation: Any = None, groups: int = 1
) -> np.ndarray:
    """Every input spreads its window; what falls outside the kept outputs is lost."""
    grid, window = x.shape[1:-1], weight.shape[:-2]
    weight = ungrouped(weight, groups)
    dilation = dilation or (1,) * len(grid)
    sizes = zip(grid, strides, window, dilation, padding)
    kept = [(n - 1) * s + d * (k - 1) + 1 - a - b for n, s, k, d, (a, b) in sizes]
    y = np.zeros((x.shape[0], *kept, weight.shape[-1]))
    for i in np.ndindex(*grid):
        for o in np.ndindex(*window):
            at = tuple(s * p + d * q - a for s, p, d, q, (a, _) in zip(strides, i, dilation, o, padding))
            if all(0 <= place < n for place, n in zip(at, kept)):
                y[(slice(None), *at)] += x[(slice(None), *i)] @ weight[o]
    return y


def ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """The weight (*window, C, E) with a zero wherever an input and an output are of different groups."""
    inputs, outputs = weight.shape[-2], weight.shape[-1] // groups
    whole = np.zeros((*weight.shape[:-2], inputs * groups, outputs * groups))
    for i, j in np.ndindex(*whole.shape[-2:]):
        if i // inputs == j // outputs:
            whole[..., i, j] = weight[..., i % inputs, j]
    return whole


def max_pool(x: np.ndarray, window: Any, strides: Any, padding: Any, dilation: Any = None) -> np.ndarray:
    """The largest of the elements of each window that are inside the grid."""
    grid = x.shape[1:-1]
    dilation = dilation or (1,) * len(grid)
    reach = [n + a + b - d * (k - 1) - 1 for n, (a, b), d, k in zip(grid, padding, dilation, window)]
    outputs = [r // s + 1 for r, s in zip(reach, strides)]
    y = np.full((x.shape[0], *outputs, x.shape[-1]), -np.inf)
    for i in np.ndindex(*outputs):
        for o in np.ndindex(*window):
            at = tuple(s * p + d * q - a for s, p, d, q, (a, _) in zip(strides, i, dilation, o, padding))
            if all(0 <= place < n for place, n in zip(at, grid)):
                y[(slice(None), *i)] = np.maximum(y[(slice(None), *i)], x[(slice(None), *at)])
    return y
