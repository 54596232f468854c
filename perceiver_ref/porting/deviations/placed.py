"""Deviations of where positions are added and how grids, points and times are encoded, in the newer families."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...models.attention import KeysValues
from ...models.resamplers import AttentionPool
from ...models.resize import keys_kernel, places
from ...peers.minicpmv import PlacedPool
from ...peers.shape2vecset.parts import PointEmbedding
from ...peers.transformers.edgetam import MemoryResampler, PlacedAttention
from .base import Candidate, Survey, exchanged

_CAUSE = "position-use"


def position_use(found: Survey) -> Iterator[Candidate]:
    """Positions of keys given to values, to neither, or taken from queries."""
    if found.of_class(PlacedAttention):
        for name, on_keys, on_values in (
            ("keys alone", True, False),
            ("values alone", False, True),
            ("neither keys nor values", False, False),
        ):
            change = exchanged({PlacedAttention.keys_values: _added_to(on_keys, on_values)})
            yield Candidate(_CAUSE, f"positions added to {name}", change)
    if _encoded(found):

        def answered(change: Callable[..., Any]) -> Callable[..., Any]:
            def run(original: Any, pool: Any, p: Tree, x: Any, **options: Any) -> Any:
                keys = options.pop("keys", None)
                x, keys = change(x, x if keys is None else keys)
                return original(pool, p, x, keys=keys, **options)

            return run

        for name, given in {
            "values, too": lambda x, keys: (keys, keys),
            "neither keys nor values": lambda x, keys: (x, x),
            "values in the place of keys": lambda x, keys: (keys, x),
        }.items():
            yield Candidate(_CAUSE, f"positions added to {name}", exchanged({AttentionPool.answered: answered(given)}))
    if "values_of" in found.steps:

        def with_places(original: Any, inner: Any, places: np.ndarray) -> Any:
            like = array_of(inner)
            return ops.add(inner, xp(like).asarray(places.astype(like.dtype)))

        yield Candidate(
            _CAUSE, "places of the grid added to values, times to keys", exchanged({"values_of": with_places})
        )
    if found.of_class(PlacedPool):

        def unplaced(original: Any, pool: Any, *arguments: Any, **options: Any) -> Any:
            return original(pool, *arguments, **{**options, "query_positions": None})

        yield Candidate(_CAUSE, "no positions added to queries", exchanged({AttentionPool.answered: unplaced}))


def _added_to(on_keys: bool, on_values: bool) -> Callable[..., Any]:
    def keys_values(original: Any, layer: Any, p: Tree, z: Any, *, positions: Any = None, **options: Any) -> Any:
        without = original(layer, p, z, **options)
        if positions is None:
            return without
        placed = original(layer, p, z, positions=positions, **options)
        return KeysValues((placed if on_keys else without).keys, (placed if on_values else without).values)

    return keys_values


def _encoded(found: Survey) -> bool:
    """Whether keys of a pool have positions of their own."""
    return bool(found.of_class(AttentionPool)) and "grid_sinusoids" in found.steps


def position_axes(found: Survey) -> Iterator[Candidate]:
    """Rows before columns in a table of sines, or columns before rows; points column by column."""
    if found.of_class(MemoryResampler):

        def columns_first(original: Any, model: Any, x: Any) -> Any:
            out = original(model, x)
            return xp(out).roll(out, model.channels // 2, axis=-1)

        change = exchanged({MemoryResampler.window_positions: columns_first})
        yield Candidate("position-axes", "positions of windows: columns before rows", change)
    if _encoded(found):

        def rows_first(original: Any, height: int, width: int, channels: int, dtype: Any) -> Any:
            return np.roll(original(height, width, channels, dtype), channels // 2, axis=-1)

        def by_columns(original: Any, height: int, width: int, channels: int, dtype: Any) -> Any:
            made = original(width, height, channels, dtype)
            return np.roll(made, channels // 2, axis=-1)

        def turned(original: Any, height: int, width: int, channels: int, dtype: Any) -> Any:
            table = original(height, width, channels, dtype).reshape(height, width, channels)
            return np.ascontiguousarray(table.swapaxes(0, 1)).reshape(-1, channels)

        for name, made in (
            ("the row before the column", rows_first),
            ("a grid of the axes in reverse", by_columns),
            ("points column by column", turned),
        ):
            yield Candidate("position-axes", f"sines of a grid: {name}", exchanged({"grid_sinusoids": made}))


def position_grid(found: Survey) -> Iterator[Candidate]:
    """Rows and columns counted otherwise."""
    if found.of_class(MemoryResampler):
        for name, made in {
            "from 0": lambda side: np.arange(side),
            "from 1/2": lambda side: np.arange(side) + 0.5,
            "from 2": lambda side: np.arange(side) + 2,
        }.items():

            def counted(original: Any, model: Any, side: int, made: Callable[[int], Any] = made) -> Any:
                return made(side)

            change = exchanged({MemoryResampler.places: counted})
            yield Candidate("position-grid", f"rows and columns of windows counted {name}", change)
    if _encoded(found):
        for name, by in (("from 1", 1.0), ("from 1/2", 0.5)):

            def moved(original: Any, places: Any, channels: int, dtype: Any, by: float = by) -> Any:
                return original(np.asarray(places, dtype) + dtype(by), channels, dtype)

            yield Candidate("position-grid", f"places counted {name}", exchanged({"sinusoids": moved}))


def fourier_order(found: Survey) -> Iterator[Candidate]:
    """Sines and cosines of points or places in another order."""
    if found.of_class(PointEmbedding):
        for name in _POINT_ORDERS:

            def features(original: Any, x: Any, basis: Any, name: str = name) -> Any:
                out = original(x, basis)
                return out[..., _POINT_ORDERS[name](basis.shape[1])]

            yield Candidate("fourier-order", name, exchanged({"point_features": features}))

        def by_frequency(original: Any, x: Any, basis: Any) -> Any:
            k = basis.shape[1]
            return original(x, basis[:, np.arange(k).reshape(-1, k // 3).T.reshape(-1)])

        def axes_apart(original: Any, x: Any, basis: Any) -> Any:
            k = basis.shape[1]
            return original(x, array_of(basis).reshape(3, 3, k // 3).swapaxes(1, 2).reshape(3, k))

        yield Candidate(
            "fourier-order", "axes in turn within each frequency", exchanged({"point_features": by_frequency})
        )
        yield Candidate(
            "fourier-order", "frequencies of an axis among those of others", exchanged({"point_features": axes_apart})
        )
    if _encoded(found):
        for name, turned in (
            ("cosines before sines", lambda half: np.roll(np.arange(2 * half), half)),
            ("sine and cosine of each frequency in turn", lambda half: np.arange(2 * half).reshape(2, half).T.ravel()),
        ):

            def places_of(original: Any, x: Any, channels: int, dtype: Any, turned: Any = turned) -> Any:
                return original(x, channels, dtype)[..., turned(channels // 2)]

            yield Candidate("fourier-order", name, exchanged({"sinusoids": places_of}))


def _in_turn(k: int) -> np.ndarray:
    return np.concatenate([np.arange(2 * k).reshape(2, k).T.reshape(-1), np.arange(2 * k, 2 * k + 3)])


def _by_axis(k: int) -> np.ndarray:
    sines = np.arange(k).reshape(3, -1)
    rows = [[*sines[a], *(sines[a] + k), 2 * k + a] for a in range(3)]
    return np.array([i for row in rows for i in row])


_POINT_ORDERS: dict[str, Callable[[int], np.ndarray]] = {
    "the point before its sines and cosines": lambda k: np.roll(np.arange(2 * k + 3), 3),
    "cosines before sines of points": lambda k: np.concatenate(
        [np.roll(np.arange(2 * k), k), np.arange(2 * k, 2 * k + 3)]
    ),
    "sine and cosine of each frequency of points in turn": _in_turn,
    "sines, cosines and point of each axis in turn": _by_axis,
}


def fourier_frequencies(found: Survey) -> Iterator[Candidate]:
    """Other frequencies of points or places."""
    if found.of_class(PointEmbedding):
        m_of: dict[str, Callable[[int], Any]] = {
            "powers of 2 times pi, in float64": lambda m: math.pi * 2.0 ** np.arange(m),
            "powers of 2": lambda m: 2.0 ** np.arange(m),
            "powers of 2 times 2 pi": lambda m: 2 * math.pi * 2.0 ** np.arange(m),
            "whole numbers times pi": lambda m: math.pi * np.arange(1, m + 1),
        }
        for name, of in m_of.items():

            def features(original: Any, x: Any, basis: Any, of: Callable[[int], Any] = of) -> Any:
                made = np.kron(np.eye(3), of(basis.shape[1] // 3))
                data = array_of(basis)
                return original(x, xp(data).asarray(made, data.dtype))

            yield Candidate("fourier-frequencies", name, exchanged({"point_features": features}))
    if _encoded(found):
        for name, waves in {
            "10000^(-i / (n - 1))": lambda n: 1e4 ** (-np.arange(n) / max(n - 1, 1)),
            "10000^(-2 i / n)": lambda n: 1e4 ** (-2 * np.arange(n) / n),
        }.items():

            def sines(original: Any, at: Any, channels: int, dtype: Any, waves: Any = waves) -> Any:
                angles = np.asarray(at, dtype)[..., None] * waves(channels // 2).astype(dtype)
                return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

            yield Candidate("fourier-frequencies", f"of places {name}", exchanged({"sinusoids": sines}))


def time_embedding(found: Survey) -> Iterator[Candidate]:
    """Times of frames counted otherwise, or those of frames without one."""
    if "time_sinusoids" not in found.steps:
        return
    for name, change in {
        "a frame without a time gets that of time 0": lambda times: np.maximum(times, 0),
        "one later": lambda times: np.where(times >= 0, times + 1, times),
        "left out": lambda times: np.full_like(times, -1),
    }.items():

        def times_of(original: Any, times: Any, channels: int, dtype: Any, change: Any = change) -> Any:
            return original(change(times), channels, dtype)

        yield Candidate("time-embedding", f"times of frames: {name}", exchanged({"time_sinusoids": times_of}))


def interpolation(found: Survey) -> Iterator[Candidate]:
    """Tables resized to another grid, or another number of frames, in another way."""
    if "resize_bicubic" in found.steps:
        for name, matrix in _MATRICES.items():

            def resized(original: Any, table: Any, source: Any, target: Any, matrix: Any = matrix) -> Any:
                rows, columns = (matrix(n, m) for n, m in zip(source, target))
                like = array_of(table)
                both = xp(like).asarray(np.kron(rows, columns), like.dtype)
                return ops.matmul(both, table)

            yield Candidate("interpolation", f"a table {name}", exchanged({"resize_bicubic": resized}))
    if "resize_linear" in found.steps:
        for name, matrix in _FRAMES.items():

            def stretched(original: Any, table: Any, target: int, matrix: Any = matrix) -> Any:
                like = array_of(table)
                return ops.matmul(xp(like).asarray(matrix(table.shape[0], target), like.dtype), table)

            yield Candidate("interpolation", f"embeddings of frames {name}", exchanged({"resize_linear": stretched}))


def _bicubic(a: float, *, corners: bool = False) -> Callable[[int, int], np.ndarray]:
    def matrix(n: int, m: int) -> np.ndarray:
        at = np.linspace(0, n - 1, m) if corners else places(m, np.float64(n) / m, corners=False)
        made = np.zeros((m, n))
        base = np.floor(at)
        for offset in range(-1, 3):
            taken = np.clip(base + offset, 0, n - 1).astype(int)
            np.add.at(made, (np.arange(m), taken), keys_kernel(np.abs(at - base - offset), a))
        return made

    return matrix


def _linear(*, corners: bool) -> Callable[[int, int], np.ndarray]:
    def matrix(n: int, m: int) -> np.ndarray:
        at = np.linspace(0, n - 1, m) if corners else np.clip(places(m, np.float64(n) / m, corners=False), 0, n - 1)
        made: np.ndarray = np.maximum(1 - np.abs(at[:, None] - np.arange(n)), 0)
        return made

    return matrix


def _nearest(n: int, m: int) -> np.ndarray:
    made: np.ndarray = np.eye(n)[np.floor(np.arange(m) * n / m).astype(int)]
    return made


_MATRICES: dict[str, Callable[[int, int], np.ndarray]] = {
    "resized bicubically with a = -0.5": _bicubic(-0.5),
    "resized bicubically with corners aligned": _bicubic(-0.75, corners=True),
    "resized bilinearly": _linear(corners=False),
    "resized bilinearly with corners aligned": _linear(corners=True),
    "resized by the nearest cell": _nearest,
}
_FRAMES: dict[str, Callable[[int, int], np.ndarray]] = {
    "clamped to the last": lambda n, m: np.eye(n)[np.minimum(np.arange(m), n - 1)],
    "repeated in turn": lambda n, m: np.eye(n)[np.arange(m) % n],
    "interpolated between centres": _linear(corners=False),
    "of the nearest": _nearest,
}
