"""Position encodings: grids of positions in [-1, 1], their Fourier features, and trainable tables.

Perceiver, section 3.2 and appendix D; Perceiver IO, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import ops
from ..autograd.backend import Array
from ..autograd.core import array_of
from ..autograd.handlers import Step, always, handlers
from ..autograd.tree import Tree
from ..errors import InputError
from ..host.memory import require
from .constraints import Count, NotNegative
from .conventions import DEEPMIND, Conventions, Grid, Subsampling
from .layers import Linear
from .module import Module, Parameter, part, truncated_normal
from .resize import resize_bicubic
from .tracing import lazy_point, point


def linspace(start: float, stop: float, n: int, dtype: Any, grid: Grid) -> np.ndarray:
    """n evenly spaced numbers with both ends, (n,): one value, `start`, when n is 1.

    The implementations agree in exact arithmetic and differ in the last bit, which sin(pi f x) multiplies by pi f:

    - "float32": `jax.numpy.linspace` evaluated step by step, (1 - t) start + t stop with t = i (1 / (n - 1)), each
      operation rounded to float32 whatever `dtype` is;
    - "compute": `torch.linspace`, start + i step up to the middle and stop - (n - 1 - i) step beyond it, each value
      rounded once to `dtype`.
    """
    i = np.arange(n)
    if n == 1:
        return np.full(1, start, dtype)
    if grid == "float32":
        t = i.astype(np.float32) * np.float32(1 / (n - 1))
        values = np.float32(start) * (1 - t) + np.float32(stop) * t
        values[-1] = stop
        return values.astype(dtype)
    # in float64 and rounded once: the fused multiply-add of float32
    step = float(np.dtype(dtype).type((stop - start) / max(n - 1, 1)))
    return np.where(i < n // 2, start + i * step, stop - (n - 1 - i) * step).astype(dtype)


@Step
def linear_positions(
    index_dims: tuple[int, ...],
    dtype: Any = np.float64,
    grid: Grid = "compute",
    ends: tuple[float, float] = (-1.0, 1.0),
) -> np.ndarray:
    """Positions of every point of a grid, (*index_dims, len(index_dims)).

    index_dims -> each axis evenly spaced from -1 to 1, or between other `ends`, both included.
    """
    _require(index_dims, len(index_dims), dtype)
    axes = [linspace(*ends, n, dtype, grid) for n in index_dims]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _require(index_dims: tuple[int, ...], channels: int, dtype: Any) -> None:
    """Positions are made whole: `InputError` where they do not fit into memory."""
    size = math.prod(index_dims) * channels * np.dtype(dtype).itemsize
    require(f"an encoding of {math.prod(index_dims):,} positions", size)


@Step
def frequencies(num_bands: int, max_resolution: tuple[int, ...], dtype: Any) -> np.ndarray:
    """K numbers from 1 to half the resolution of each of A axes, evenly spaced with both ends: (A, K)."""
    return np.stack([linspace(1.0, r / 2, num_bands, dtype, "compute") for r in max_resolution])


@Step
def fourier_features(
    positions: Any,
    num_bands: int,
    max_resolution: tuple[int, ...],
    *,
    concat_pos: bool = True,
    sine_only: bool = False,
) -> Any:
    """[x, sin(pi f x), cos(pi f x)] for K frequencies f from 1 to half the resolution of each axis.

    positions (..., A) in [-1, 1], max_resolution of A entries -> (..., C), where C = A K (1 or 2) plus A if
    `concat_pos`; the order is x by axis, then all sines axis by axis, then all cosines (Perceiver, appendix D).
    """
    if len(max_resolution) != positions.shape[-1]:
        axes = positions.shape[-1]
        raise InputError(f"positions have {axes} axes, but max_resolution {max_resolution} has {len(max_resolution)}")
    data = array_of(positions)
    bands = frequencies(num_bands, max_resolution, data.dtype)
    angles = ops.reshape(positions, shape=(*positions.shape, 1)) * backends.xp(data).asarray(bands)  # (..., A, K)
    angles = ops.reshape(angles, shape=(*positions.shape[:-1], bands.size)) * math.pi
    parts = [positions] if concat_pos else []
    parts += [ops.sin(angles)] if sine_only else [ops.sin(angles), ops.cos(angles)]
    return ops.concatenate(parts, axis=-1)


@Step
def subsampled_positions(indices: Array, index_dims: tuple[int, ...], rule: Subsampling, dtype: Any) -> np.ndarray:
    """Positions of the grid points with these flat, row-major indices: (n,) -> (n, axes).

    "half_open": -1 + 2 i / n, which never reaches 1 and is not the position that the full grid gives that point (what
    DeepMind's released decoder does); "grid": the full grid's own.
    """
    indices = backends.to_host(indices)
    size = math.prod(index_dims)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise InputError(f"points must be a 1-D integer array, got {indices.dtype} of {indices.shape}")
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise InputError(f"points must be in [0, {size}), got {indices.min()} to {indices.max()}")
    along = np.stack(np.unravel_index(indices, index_dims), axis=-1)  # (n, axes)
    if rule == "half_open":
        half_open: np.ndarray = (-1 + 2 * along / np.array(index_dims)).astype(dtype)
        return half_open
    axes = [linspace(-1.0, 1.0, n, dtype, "compute") for n in index_dims]
    return np.stack([axis[i] for axis, i in zip(axes, along.T)], axis=-1)


@dataclass(frozen=True)
class FourierPositions(Module):
    """Fourier features of a grid, or of positions given by the caller: no parameters, any size."""

    num_bands: Count
    max_resolution: tuple[int, ...]
    concat_pos: bool = True
    sine_only: bool = False
    conventions: Conventions = DEEPMIND

    @property
    def channels(self) -> int:
        """Width of the encoding."""
        axes = len(self.max_resolution)
        return axes * (self.num_bands * (1 if self.sine_only else 2) + (1 if self.concat_pos else 0))

    def apply(self, p: Tree, index_dims: tuple[int, ...], *, like: Array, pos: Any = None) -> Any:
        """The encoding of a grid, (product of index_dims, channels), in the dtype and library of `like`.

        pos (..., axes): positions in [-1, 1] to encode in place of the grid's -> (..., channels).
        """
        axes = len(self.max_resolution)
        if pos is not None:
            if pos.shape[-1] != axes:
                raise InputError(
                    f"positions must have {axes} coordinates, as {self.max_resolution}, got {pos.shape[-1]}"
                )
            return point("positions", _features(self, pos))
        if len(index_dims) != axes:
            raise InputError(
                f"positions have {axes} axes (max_resolution {self.max_resolution}), the input's grid is {index_dims}"
            )
        grid = self.conventions.grid
        shape = (*index_dims, axes)
        lazy_point("grid", shape, lambda: backends.xp(like).asarray(linear_positions(index_dims, like.dtype, grid)))
        return point("positions", self._table(index_dims, like))

    def _table(self, index_dims: tuple[int, ...], like: Array) -> Array:
        if are_handled():
            return backends.xp(like).asarray(_grid_features.__wrapped__(self, index_dims, like.dtype))
        if backends.name(like) == "numpy":
            return _grid_features(self, index_dims, like.dtype)
        return _features_there(self, index_dims, like.dtype, like.device.id)


def are_handled() -> bool:
    """Whether handlers are asked here, which may change what is made: it is not to be kept for other runs."""
    return any(not handler.watches and handler not in always for handler in handlers())


def _features(encoding: FourierPositions, positions: Any) -> Any:
    return fourier_features(
        positions,
        encoding.num_bands,
        encoding.max_resolution,
        concat_pos=encoding.concat_pos,
        sine_only=encoding.sine_only,
    )


@lru_cache(maxsize=2)  # a table of the papers' sizes takes up to 200 MB
def _grid_features(encoding: FourierPositions, index_dims: tuple[int, ...], dtype: Any) -> Array:
    _require(index_dims, encoding.channels, dtype)
    features = _features(encoding, linear_positions(index_dims, dtype, encoding.conventions.grid))
    table = ops.reshape(features, shape=(math.prod(index_dims), encoding.channels))
    table.flags.writeable = False
    return table


@lru_cache(maxsize=2)
def _features_there(encoding: FourierPositions, index_dims: tuple[int, ...], dtype: Any, device: int) -> Array:
    """The table on the current GPU: copying it there takes longer than a layer does."""
    return backends.module("cupy").asarray(_grid_features(encoding, index_dims, dtype))


@dataclass(frozen=True)
class TrainablePositions(Module):
    """A table with one trainable row for each position.

    An input must have as many positions, and where `grid` is the table's own, be on that. `resize` is the table's own
    grid (height, width), too, but inputs on another get the table resized bicubically to theirs. With `first_rows`
    inputs may be shorter, as text is, and get the first rows.
    """

    size: int
    channels: int
    deviation: NotNegative = 0.02
    resize: tuple[int, int] | None = None
    grid: tuple[int, ...] | None = None
    first_rows: bool = False

    def __post_init__(self) -> None:
        for own in (self.resize, self.grid):
            if own is not None and math.prod(own) != self.size:
                raise InputError(f"a table of {self.size} positions cannot be resized as a grid {own}")

    def parameters(self) -> Tree:
        return {"table": Parameter((self.size, self.channels), truncated_normal(self.deviation))}

    def apply(self, p: Tree, index_dims: tuple[int, ...], *, like: Array, pos: Any = None) -> Any:
        """The rows of the table, one for each point, of shape (product of index_dims, channels). `pos` is ignored."""
        n = math.prod(index_dims)
        if self.resize is not None and index_dims != self.resize:
            if len(index_dims) != 2:
                raise InputError(f"positions are resized for images of (height, width), not for a grid {index_dims}")
            return point("positions", resize_bicubic(p["table"], self.resize, index_dims))
        if self.first_rows and n > self.size:
            raise InputError(f"the input has {n} positions, but the model was made for at most {self.size}")
        if not self.first_rows and (n != self.size or (self.grid is not None and tuple(index_dims) != self.grid)):
            given, own = (" x ".join(map(str, grid)) for grid in (index_dims, self.grid or (self.size,)))
            raise InputError(
                f"the input has {given} positions, but the model has trained ones for {own}: give it such an input, or "
                "resize them with perceiver_ref.models.positions.interpolate(model) "
                "(transformers: interpolate_pos_encoding)"
            )
        return point("positions", p["table"] if n == self.size else p["table"][:n])


def interpolate(model: Any, grid: tuple[int, int] | None = None) -> Any:
    """The same model, whose trained positions are resized to the grid of any image (see `resize_bicubic`).

    `grid` (height, width) is that of the tables; without it their own, else a square. Parameters stay what they are.
    Raises `InputError` where a table is none of such a grid.
    """
    if isinstance(model, TrainablePositions):
        side = math.isqrt(model.size)
        own = grid or model.grid or (side, side)
        if len(own) != 2 or math.prod(own) != model.size:
            raise InputError(
                f"give interpolate the grid (height, width) of a table of {model.size} positions, not {own}"
            )
        return model if model.first_rows else replace(model, resize=(own[0], own[1]))
    if isinstance(model, Mapping):
        return {name: interpolate(part, grid) for name, part in model.items()}
    names = [name for name in ("preprocessor", "modalities", "positions", "encoding") if hasattr(model, name)]
    parts = {name: getattr(model, name) for name in names}
    changed = {name: interpolate(part, grid) for name, part in parts.items() if part is not None}
    return replace(model, **changed) if is_dataclass(model) and not isinstance(model, type) and changed else model


@dataclass(frozen=True)
class ProjectedPositions(Module):
    """An encoding, then a linear map to another width."""

    encoding: FourierPositions | TrainablePositions
    channels: int

    @part
    def projection(self) -> Linear:
        """The map."""
        return Linear(self.encoding.channels, self.channels)

    def apply(self, p: Tree, index_dims: tuple[int, ...], *, like: Array, pos: Any = None) -> Any:
        """As the encoding, (..., channels)."""
        encoded = self.encoding.apply(p["encoding"], index_dims, like=like, pos=pos)
        return point("projected_positions", self.projection.apply(p["projection"], encoded))


Positions = FourierPositions | TrainablePositions | ProjectedPositions
