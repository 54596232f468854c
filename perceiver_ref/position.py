"""Position encodings: grids of positions in [-1, 1], their Fourier features, and trainable tables.

Perceiver, section 3.2 and appendix D; Perceiver IO, section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .autograd import backend as backends
from .autograd import ops
from .autograd.backend import Array
from .autograd.core import array_of
from .autograd.tree import Tree
from .conventions import DEEPMIND, Conventions, Grid, Subsampling
from .errors import InputError
from .layers import Linear
from .parameters import Module, Parameter, truncated_normal
from .resize import resize_bicubic
from .tracing import lazy_point, point
from .variation import is_varied, variable


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


@variable("linear_positions")
def linear_positions(
    index_dims: tuple[int, ...],
    dtype: Any = np.float64,
    grid: Grid = "compute",
    ends: tuple[float, float] = (-1.0, 1.0),
) -> np.ndarray:
    """Positions of every point of a grid, (*index_dims, len(index_dims)).

    index_dims -> each axis evenly spaced from -1 to 1, or between other `ends`, both included.
    """
    axes = [linspace(*ends, n, dtype, grid) for n in index_dims]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


@variable("frequencies")
def frequencies(num_bands: int, max_resolution: tuple[int, ...], dtype: Any) -> np.ndarray:
    """K numbers from 1 to half the resolution of each of A axes, evenly spaced with both ends: (A, K)."""
    return np.stack([linspace(1.0, r / 2, num_bands, dtype, "compute") for r in max_resolution])


@variable("fourier_features")
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


@variable("subsampled_positions")
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

    num_bands: int
    max_resolution: tuple[int, ...]
    concat_pos: bool = True
    sine_only: bool = False
    conventions: Conventions = DEEPMIND

    @property
    def channels(self) -> int:
        """Width of the encoding."""
        axes = len(self.max_resolution)
        return axes * (self.num_bands * (1 if self.sine_only else 2) + (1 if self.concat_pos else 0))

    def parameters(self) -> Tree:
        return {}

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
        if is_varied():
            return backends.xp(like).asarray(_grid_features.__wrapped__(self, index_dims, like.dtype))
        if backends.name(like) == "numpy":
            return _grid_features(self, index_dims, like.dtype)
        return _features_there(self, index_dims, like.dtype, like.device.id)


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
    positions = linear_positions(index_dims, dtype, encoding.conventions.grid).reshape(-1, len(index_dims))
    table = _features(encoding, positions)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=2)
def _features_there(encoding: FourierPositions, index_dims: tuple[int, ...], dtype: Any, device: int) -> Array:
    """The table on the current GPU: copying it there takes longer than a layer does."""
    return backends.module("cupy").asarray(_grid_features(encoding, index_dims, dtype))


@dataclass(frozen=True)
class TrainablePositions(Module):
    """A table with one trainable row for each position.

    `resize` is the table's own grid (height, width): inputs on another grid get the table resized bicubically to
    theirs. Without it they get the first rows.
    """

    size: int
    channels: int
    deviation: float = 0.02
    resize: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.resize is not None and math.prod(self.resize) != self.size:
            raise InputError(f"a table of {self.size} positions cannot be resized as a grid {self.resize}")

    def parameters(self) -> Tree:
        return {"table": Parameter((self.size, self.channels), truncated_normal(self.deviation))}

    def apply(self, p: Tree, index_dims: tuple[int, ...], *, like: Array, pos: Any = None) -> Any:
        """The rows of the table, one for each point, of shape (product of index_dims, channels). `pos` is ignored."""
        n = math.prod(index_dims)
        if self.resize is not None and index_dims != self.resize:
            if len(index_dims) != 2:
                raise InputError(f"positions are resized for images of (height, width), not for a grid {index_dims}")
            return point("positions", resize_bicubic(p["table"], self.resize, index_dims))
        if n > self.size:
            raise InputError(f"the input has {n} positions, but the model was made for at most {self.size}")
        return point("positions", p["table"] if n == self.size else p["table"][:n])


@dataclass(frozen=True)
class ProjectedPositions(Module):
    """An encoding, then a linear map to another width."""

    encoding: FourierPositions | TrainablePositions
    channels: int

    def _projection(self) -> Linear:
        return Linear(self.encoding.channels, self.channels)

    def parameters(self) -> Tree:
        return {"encoding": self.encoding.parameters(), "projection": self._projection().parameters()}

    def apply(self, p: Tree, index_dims: tuple[int, ...], *, like: Array, pos: Any = None) -> Any:
        """As the encoding, (..., channels)."""
        encoded = self.encoding.apply(p["encoding"], index_dims, like=like, pos=pos)
        return point("projected_positions", self._projection().apply(p["projection"], encoded))


Positions = FourierPositions | TrainablePositions | ProjectedPositions
