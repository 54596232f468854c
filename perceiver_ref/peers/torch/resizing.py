"""PyTorch's `interpolate`: every mode is a product with one matrix an axis, (outputs, inputs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.tensor import array_of
from ...errors import InputError, one_of
from ...resize import keys_kernel
from ..base import Outputs
from .function import function

_AXES = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}
_MODES = ("nearest", "nearest-exact", "area", *_AXES)


@ops.in_float32
def _interpolate(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    x, mode = given["input"], o["mode"]
    if mode not in _MODES:
        raise one_of("mode", str(mode), _MODES)
    grid = tuple(x.shape[2:])
    if _AXES.get(mode, len(grid)) != len(grid):
        raise InputError(f"mode {mode} needs {_AXES[mode]} axes after the channels, got the input {tuple(x.shape)}")
    targets, scales = _targets(grid, o)
    for axis, (source, target, scale) in enumerate(zip(grid, targets, scales), 2):
        ratio = source / target if scale is None or o["recompute_scale_factor"] else 1 / scale
        matrix = _matrix(mode, source, target, ratio, bool(o["align_corners"]), o["antialias"])
        x = _along(x, matrix, axis)
    return {"out": x}


def _targets(grid: tuple[int, ...], o: dict[str, Any]) -> tuple[Sequence[int], Sequence[float | None]]:
    """The size of each axis after, and the factor it was given by."""
    size, factor = o["size"], o["scale_factor"]
    if (size is None) == (factor is None):
        raise InputError("interpolate needs either size or scale_factor")
    if size is not None:
        return [size] * len(grid) if isinstance(size, int) else list(size), [None] * len(grid)
    factors = [factor] * len(grid) if isinstance(factor, (int, float)) else list(factor)
    return [int(n * f) for n, f in zip(grid, factors)], factors


def _along(x: Any, matrix: np.ndarray, axis: int) -> Any:
    """The product with `matrix` along an axis."""
    data = array_of(x)
    order = (*(a for a in range(data.ndim) if a != axis), axis)
    back = tuple(order.index(a) for a in range(data.ndim))
    weights = xp(data).asarray(np.ascontiguousarray(matrix.T), data.dtype)
    return ops.transpose(ops.matmul(ops.transpose(x, axes=order), weights), axes=back)


def _matrix(mode: str, source: int, target: int, ratio: float, corners: bool, antialias: bool) -> np.ndarray:
    """Row i holds the weights of the inputs that output i is made of; `ratio` inputs go to one output."""
    i = np.arange(target)
    if mode.startswith("nearest"):
        place = np.float32(i if mode == "nearest" else i + 0.5) * np.float32(ratio)  # float32, as PyTorch's
        return _picked(np.floor(place), source)
    if mode == "area":
        first, last = np.floor(i * source / target), np.ceil((i + 1) * source / target)
        inside = (np.arange(source) >= first[:, None]) & (np.arange(source) < last[:, None])
        return _averaging(inside)
    cubic = mode == "bicubic"
    if corners:
        ratio = (source - 1) / (target - 1) if target > 1 else 0.0
    if source == target and (antialias or not cubic):
        return np.eye(source)  # whatever scale_factor says, unlike in the other modes
    if antialias:
        return _smoothed(cubic, source, target, ratio)
    centre = i * ratio if corners else (i + 0.5) * ratio - 0.5
    if not cubic:
        centre = np.maximum(centre, 0)
    base = np.floor(centre)
    matrix = np.zeros((target, source))
    for offset in (-1, 0, 1, 2) if cubic else (0, 1):
        distance = np.abs(centre - base - offset)
        weights = keys_kernel(distance) if cubic else 1 - distance
        np.add.at(matrix, (i, np.clip(base + offset, 0, source - 1).astype(int)), weights)
    return matrix


def _picked(index: np.ndarray, source: int) -> np.ndarray:
    rows: np.ndarray = np.eye(source)[np.minimum(index, source - 1).astype(int)]
    return rows


def _smoothed(cubic: bool, source: int, target: int, ratio: float) -> np.ndarray:
    """The kernel stretched over the inputs of one output when shrinking, as Pillow does; its cubic has a = -0.5."""
    stretch = max(ratio, 1.0)
    centre, reach = ratio * (np.arange(target) + 0.5), (2 if cubic else 1) * stretch
    first = np.maximum(np.trunc(centre - reach + 0.5), 0)
    last = np.minimum(np.trunc(centre + reach + 0.5), source)
    j = np.arange(source)
    inside = (j >= first[:, None]) & (j < last[:, None])
    distance = np.abs((j + 0.5 - centre[:, None]) / stretch)
    kernel = keys_kernel(np.minimum(distance, 2), -0.5) if cubic else np.maximum(1 - distance, 0)
    return _averaging(np.where(inside, kernel, 0))


def _averaging(weights: np.ndarray) -> np.ndarray:
    """The rows scaled to sum to 1."""
    scaled: np.ndarray = weights / weights.sum(1, keepdims=True)
    return scaled


RESIZING = {
    "interpolate": function(
        _interpolate,
        ("input",),
        size=None,
        scale_factor=None,
        mode="nearest",
        align_corners=False,
        recompute_scale_factor=False,
        antialias=False,
    )
}
