"""PyTorch's `interpolate`: every mode is a product with one matrix an axis, (outputs, inputs).

Places and weights are computed as PyTorch's code for the CPU does with fused multiply-adds, in float32 for all arrays
but float64 ones: rounding of a place near 300 moves the result by 1e-5, far beyond what the products round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import Tensor, array_of
from ...errors import InputError, one_of
from ...host.memory import require
from ...models.resize import arithmetic, cubic_weights, keys_kernel, places
from ..base import Option, Outputs
from .function import function

_AXES = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}
_SMALL_IMAGE = 128
"""Height and width of outputs up to which PyTorch takes other code for images, the gradient's."""
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
    kind, backwards = arithmetic(array_of(x).dtype), type(x) is Tensor
    for axis, (source, target, scale) in enumerate(zip(grid, targets, scales), 2):
        factor = None if o["recompute_scale_factor"] else scale
        corners = bool(o["align_corners"])
        require(f"the matrix that resizes an axis of {source} to {target}", 8 * source * target)
        matrix = _matrix(mode, source, target, factor, corners, o["antialias"], kind)
        back = matrix
        if mode.startswith("nearest"):
            back = _picked(_nearest_back(mode, source, target, factor), source)
            matrix = back if len(grid) == 2 and sum(targets) <= _SMALL_IMAGE else matrix
        elif backwards and mode == "bicubic" and not o["antialias"]:
            same = grid == tuple(targets)
            back = np.eye(source) if same else _cubic(source, target, factor, corners, kind, fused=False)
        elif backwards and o["antialias"] and source == target:  # the gradient's code leaves no axis out
            back = _smoothed(mode == "bicubic", source, target, _ratio(source, target, factor, corners, kind))
        x = _along(x, matrix, back, axis)
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


def _along(x: Any, matrix: np.ndarray, back: np.ndarray, axis: int) -> Any:
    """The product with `matrix` along an axis, whose gradient is that of the product with `back`."""
    data = array_of(x)
    order = (*(a for a in range(data.ndim) if a != axis), axis)
    home = tuple(order.index(a) for a in range(data.ndim))
    moved, library = ops.transpose(x, axes=order), xp(data)
    weights = library.asarray(np.ascontiguousarray(back.T), data.dtype)
    out = ops.matmul(moved, weights)
    if not np.array_equal(matrix, back):
        change = library.asarray(np.ascontiguousarray((matrix - back).T), data.dtype)
        out = ops.add(out, array_of(moved) @ change)
    return ops.transpose(out, axes=home)


def _matrix(
    mode: str, source: int, target: int, factor: float | None, corners: bool, antialias: bool, kind: Any
) -> np.ndarray:
    """Row i holds the weights of the inputs that output i is made of."""
    if mode.startswith("nearest"):
        return _picked(_nearest(mode, source, target, factor, kind), source)
    if mode == "area":
        i = np.arange(target)
        first, last = np.floor(i * source / target), np.ceil((i + 1) * source / target)
        inside = (np.arange(source) >= first[:, None]) & (np.arange(source) < last[:, None])
        return _averaging(inside)
    cubic = mode == "bicubic"
    if source == target and (antialias or not cubic):
        return np.eye(source)  # whatever scale_factor says, unlike in the other modes
    if antialias:
        return _smoothed(cubic, source, target, _ratio(source, target, factor, corners, kind))
    if cubic:
        return _cubic(source, target, factor, corners, kind)
    place = places(target, _ratio(source, target, factor, corners, kind), corners=corners)
    return _linear_weights(np.maximum(place, 0), source)


def _ratio(source: int, target: int, factor: float | None, corners: bool, kind: Any) -> Any:
    """How many inputs go to one output, a number of type `kind`."""
    if corners:
        return kind(source - 1) / kind(target - 1) if target > 1 else kind(0)
    return kind(source) / kind(target) if factor is None else kind(1 / factor)


def _cubic(
    source: int, target: int, factor: float | None, corners: bool, kind: Any, *, fused: bool = True
) -> np.ndarray:
    """The bicubic weights, in the gradient's code without fused multiply-adds."""
    place = places(target, _ratio(source, target, factor, corners, kind), corners=corners, fused=fused)
    return cubic_weights(place, source, fused=fused)


def _nearest(mode: str, source: int, target: int, factor: float | None, kind: Any) -> np.ndarray:
    """Which input each output is; it is floored in float32, in whatever type it was computed."""
    ratio = _ratio(source, target, factor, False, kind)
    place = places(target, ratio, corners=mode == "nearest")
    if mode == "nearest-exact":
        place = np.maximum(place, 0) + place.dtype.type(0.5)
    floored: np.ndarray = np.floor(place.astype(np.float32))
    return floored


def _nearest_back(mode: str, source: int, target: int, factor: float | None) -> np.ndarray:
    """Which input the gradient of each output goes to: by code of its own, always with a ratio in float32."""
    i = np.arange(target)
    if mode == "nearest" and target in (source, 2 * source):
        return i * source // target
    ratio = _ratio(source, target, factor, False, np.float32)
    place = i.astype(np.float32) * ratio if mode == "nearest" else ((i + 0.5) * float(ratio)).astype(np.float32)
    floored: np.ndarray = np.floor(place)
    return floored


def _picked(index: np.ndarray, source: int) -> np.ndarray:
    rows: np.ndarray = np.eye(source)[np.minimum(index, source - 1).astype(int)]
    return rows


def _linear_weights(place: np.ndarray, source: int) -> np.ndarray:
    """(outputs, source): the weights of the two neighbours of each place; the last input is its own neighbour."""
    base = np.minimum(np.floor(place), source - 1)
    after = np.clip(place - base, 0, place.dtype.type(1))
    rows, first = np.arange(len(place)), base.astype(int)
    matrix = np.zeros((len(place), source))
    np.add.at(matrix, (rows, first), place.dtype.type(1) - after)
    np.add.at(matrix, (rows, np.minimum(first + 1, source - 1)), after)
    return matrix


def _smoothed(cubic: bool, source: int, target: int, ratio: Any) -> np.ndarray:
    """The kernel stretched over the inputs of one output when shrinking, as Pillow does; its cubic has a = -0.5."""
    kind = type(ratio)
    half, stretch = kind(0.5), max(ratio, kind(1))
    centre = ratio * (np.arange(target).astype(kind) + half)
    reach = kind(2 if cubic else 1) * stretch
    first = np.maximum(np.trunc(centre - reach + half), 0)
    last = np.minimum(np.trunc(centre + reach + half), source)
    j = np.arange(source).astype(kind)
    inside = (j >= first[:, None]) & (j < last[:, None])
    distance = np.abs((j - centre[:, None] + half) * (kind(1) / stretch))
    near = np.minimum(distance, kind(2))
    kernel = keys_kernel(near, -0.5) if cubic else np.maximum(kind(1) - distance, kind(0))
    return _averaging(np.where(inside, kernel, kind(0)))


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
        align_corners=Option(bool),
        recompute_scale_factor=Option(bool),
        antialias=False,
    )
}
