"""Deviations of positions: the grid, its axes, the frequencies and the order of Fourier features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import eq
from typing import Any

import numpy as np

from ...autograd.backend import xp
from ...autograd.core import Op, array_of
from ...models.positions import FourierPositions, TrainablePositions
from ...models.tracing import where
from .base import Candidate, Change, Exchange, Match, OpReplacement, Survey, exchanged

Bands = Callable[[int, tuple[int, ...], Any], np.ndarray]


def _rows(function: Callable[[int, float], Any]) -> Bands:
    """Frequencies of each axis from (number, resolution)."""
    return lambda k, resolution, dtype: np.stack([np.asarray(function(k, r), dtype) for r in resolution])


def _of_one_axis(choose: Callable[[tuple[int, ...]], Any]) -> Bands:
    return lambda k, resolution, dtype: np.stack([np.linspace(1.0, r / 2, k).astype(dtype) for r in choose(resolution)])


_FREQUENCIES: dict[str, Bands] = {
    "geometric from 1 to half the resolution": _rows(lambda k, r: np.geomspace(1.0, max(r / 2, 1e-9), k)),
    "up to the whole resolution": _rows(lambda k, r: np.linspace(1.0, r, k)),
    "geometric up to the whole resolution": _rows(lambda k, r: np.geomspace(1.0, r, k)),
    "without the first": _rows(lambda k, r: np.linspace(1.0, r / 2, k + 1)[1:]),
    "without the last": _rows(lambda k, r: np.linspace(1.0, r / 2, k, endpoint=False)),
    "whole numbers from 1": _rows(lambda k, r: np.arange(1, k + 1)),
    "whole numbers from 0": _rows(lambda k, r: np.arange(k)),
    "powers of 2": _rows(lambda k, r: 2.0 ** np.arange(k)),
    "from 0": _rows(lambda k, r: np.linspace(0.0, r / 2, k)),
    "without pi": _rows(lambda k, r: np.linspace(1.0, r / 2, k) / np.pi),
    "with 2 pi": _rows(lambda k, r: np.linspace(1.0, r / 2, k) * 2),
    "half of each": _rows(lambda k, r: np.linspace(1.0, r / 2, k) / 2),
    "up to half the resolution less 1": _rows(lambda k, r: np.linspace(1.0, (r - 1) / 2, k)),
    "up to the resolution less 1": _rows(lambda k, r: np.linspace(1.0, r - 1, k)),
    "up to a quarter of the resolution": _rows(lambda k, r: np.linspace(1.0, r / 4, k)),
    "from 1 / 2": _rows(lambda k, r: np.linspace(0.5, r / 2, k)),
    "up to half the resolution, rounded down": _rows(lambda k, r: np.linspace(1.0, r // 2, k)),
    "from the highest down": _rows(lambda k, r: np.linspace(r / 2, 1.0, k)),
    "transformer wavelengths": _rows(lambda k, r: 10000.0 ** (-np.arange(k) / max(k, 1))),
    "resolutions of the axes swapped": _of_one_axis(lambda resolution: resolution[::-1]),
    "the first axis' resolution for all": _of_one_axis(lambda resolution: (resolution[0],) * len(resolution)),
    "the last axis' resolution for all": _of_one_axis(lambda resolution: (resolution[-1],) * len(resolution)),
    "the largest resolution for all": _of_one_axis(lambda resolution: (max(resolution),) * len(resolution)),
}


def fourier_frequencies(found: Survey) -> Iterator[Candidate]:
    """Other frequencies than from 1 to half the resolution, evenly spaced with both ends."""
    if not found.steps & {"frequencies"}:
        return
    for name, bands in _FREQUENCIES.items():

        def changed(original: Any, k: int, resolution: tuple[int, ...], dtype: Any, bands: Bands = bands) -> Any:
            return bands(k, tuple(resolution), dtype)

        yield Candidate("fourier-frequencies", name, exchanged({"frequencies": changed}))
    yield Candidate("fourier-frequencies", "resolutions are the grid's own", Change(parts=_of_the_grid))


def _of_the_grid() -> Exchange:
    """Resolutions of each axis that are the grid's own."""
    grids: list[tuple[int, ...]] = []

    def encoding(original: Any, layer: Any, p: Any, index_dims: tuple[int, ...], **options: Any) -> Any:
        grids.append(tuple(index_dims))
        try:
            return original(layer, p, index_dims, **options)
        finally:
            grids.pop()

    def bands(original: Any, k: int, resolution: tuple[int, ...], dtype: Any) -> Any:
        return original(k, grids[-1] if grids and len(grids[-1]) == len(resolution) else resolution, dtype)

    return {FourierPositions.apply: encoding, "frequencies": bands}


def _orders(d: int, k: int, both: bool) -> dict[str, list[int]]:
    """Orders of the channels [x, sin, cos], by name: each says which of those channels comes where."""
    x = list(range(d))
    sin = np.arange(d, d + d * k).reshape(d, k)
    cos = sin + d * k if both else np.zeros((d, 0), int)
    s, c = sin.reshape(-1).tolist(), cos.reshape(-1).tolist()
    parts = {"position": x, "sines": s, "cosines": c} if both else {"position": x, "sines": s}
    named = {
        "[" + ", ".join(names) + "]": [channel for name in names for channel in parts[name]]
        for names in itertools.permutations(parts)
    }
    by_band = np.concatenate([sin[..., None], cos[..., None]], -1) if both else sin[..., None]  # (d, K, 2)
    pairs = by_band.reshape(-1).tolist()
    named["[position, sine and cosine of each band in turn]"] = x + pairs
    named["[sine and cosine of each band in turn, position]"] = pairs + x
    by_axis = [[x[a], *sin[a].tolist(), *cos[a].tolist()] for a in range(d)]
    named["[position, sines, cosines] of each axis in turn"] = [i for row in by_axis for i in row]
    named["[sines, cosines, position] of each axis in turn"] = [i for row in by_axis for i in (*row[1:], row[0])]
    named["[position, sines and cosines of each axis in turn]"] = x + [i for row in by_axis for i in row[1:]]
    named["[sines and cosines of each axis in turn, position]"] = [i for row in by_axis for i in row[1:]] + x
    named["[cosines, sines, position] of each axis in turn"] = [
        i for a in range(d) for i in (*cos[a].tolist(), *sin[a].tolist(), x[a])
    ]
    named["[position, cosines, sines] of each axis in turn"] = [
        i for a in range(d) for i in (x[a], *cos[a].tolist(), *sin[a].tolist())
    ]
    named["[position, each band in turn] of each axis in turn"] = [
        i for a in range(d) for i in (x[a], *by_band[a].reshape(-1).tolist())
    ]
    named["[each band in turn, position] of each axis in turn"] = [
        i for a in range(d) for i in (*by_band[a].reshape(-1).tolist(), x[a])
    ]
    named["axes in turn within each band"] = x + sin.T.reshape(-1).tolist() + cos.T.reshape(-1).tolist()
    named["axes in turn within each band, position last"] = named["axes in turn within each band"][d:] + x
    return named


def fourier_order(found: Survey) -> Iterator[Candidate]:
    """The channels of Fourier features in another order."""
    if not found.steps & {"fourier_features", "axis_major"}:
        return
    for number, name in enumerate(_orders(2, 2, True)):

        def features(
            original: Any,
            positions: Any,
            num_bands: int,
            max_resolution: tuple[int, ...],
            number: int = number,
            **how: Any,
        ) -> Any:
            out = original(positions, num_bands, max_resolution, **how)
            if not how.get("concat_pos", True):
                return out
            return _ordered(out, len(max_resolution), num_bands, not how.get("sine_only", False), number)

        def by_axis(original: Any, out: Any, num_bands: int, number: int = number) -> Any:
            return _ordered(out, out.shape[-1] // (2 * num_bands + 1), num_bands, True, number)

        yield Candidate("fourier-order", name, exchanged({"fourier_features": features}))
        yield Candidate("fourier-order", name, exchanged({"axis_major": by_axis}))
    yield Candidate("fourier-order", "positions before the features", _positions_first(_is_input))
    modalities = dict.fromkeys(place for place in found.ops.get("concatenate", ()) if _is_input(place) and "." in place)
    for place in modalities:
        variant = f"positions before the features, in {place}"
        yield Candidate("fourier-order", variant, _positions_first(partial(eq, place)), rare=True)
    yield Candidate(
        "fourier-order", "cosines in the place of sines without positions", Change(parts=_without_positions)
    )


def _positions_first(match: Match) -> Change:
    """Inputs joined as [positions, features]; what is joined to them later, such as padding, stays behind them."""

    def ops_of(path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
        joined: set[str] = set()

        def run(op: Op, arguments: Any, static: Any) -> Any:
            parts, place = list(arguments[0]), where()
            if len(parts) == 2 and static.get("axis") == -1 and len(parts[0].shape) > 2 and place not in joined:
                joined.add(place)
                parts = parts[::-1] if match(place) else parts
            return op(parts, **static)

        return {"concatenate": run}

    return Change(ops=ops_of)


def _is_input(place: str) -> bool:
    return place.split(".")[0] == "input"


def _without_positions() -> Exchange:
    def features(original: Any, positions: Any, num_bands: int, max_resolution: tuple[int, ...], **how: Any) -> Any:
        out = original(positions, num_bands, max_resolution, **how)
        if how.get("concat_pos", True) or how.get("sine_only", False):
            return out
        half = out.shape[-1] // 2
        return out[..., np.roll(np.arange(2 * half), half)]

    return {"fourier_features": features}


def _ordered(features: Any, d: int, k: int, both: bool, number: int) -> Any:
    orders = list(_orders(d, k, both).values())
    if number >= len(orders):
        return features
    data = array_of(features)
    return data[..., xp(data).asarray(orders[number])]


_GRIDS: dict[str, Callable[[int], np.ndarray]] = {
    "without the end point": lambda n: -1 + 2 * np.arange(n) / n,
    "centres of the cells": lambda n: -1 + (2 * np.arange(n) + 1) / n,
    "from 0 to 1": lambda n: np.linspace(0, 1, n),
    "from 0 to 1 without the end point": lambda n: np.arange(n) / n,
    "from 1 to -1": lambda n: np.linspace(1, -1, n),
    "without the first point": lambda n: -1 + 2 * (np.arange(n) + 1) / n,
    "whole numbers": lambda n: np.arange(n).astype(float),
    "from -1/2 to 1/2": lambda n: np.linspace(-0.5, 0.5, n),
    "from -pi to pi": lambda n: np.linspace(-np.pi, np.pi, n),
    "centres of cells from 0 to 1": lambda n: (np.arange(n) + 0.5) / n,
    "from 0 to 2": lambda n: np.linspace(0, 2, n),
}


def _in_proportion(original: Any, index_dims: Any, dtype: Any = np.float64, *_: Any, **__: Any) -> Any:
    """The longest axis from -1 to 1, the others as far as their sizes go."""
    axes = [(np.linspace(-1, 1, n) * n / max(index_dims)).astype(dtype) for n in index_dims]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _in_its_steps(original: Any, index_dims: Any, dtype: Any = np.float64, *_: Any, **__: Any) -> Any:
    """The longest axis from -1 to 1, the others from -1 in steps as wide."""
    axes = [(-1 + 2 * np.arange(n) / max(max(index_dims) - 1, 1)).astype(dtype) for n in index_dims]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def position_grid(found: Survey) -> Iterator[Candidate]:
    """Grid points elsewhere than evenly from -1 to 1 with both ends; single points by the other rule."""
    if not found.steps & {"linear_positions", "subsampled_positions"}:
        return
    for name, axis in _GRIDS.items():

        def grid(original: Any, index_dims: Any, dtype: Any = np.float64, *_: Any, axis: Any = axis, **__: Any) -> Any:
            axes = [axis(n).astype(dtype) for n in index_dims]
            return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)

        yield Candidate("position-grid", name, exchanged({"linear_positions": grid}))

    yield Candidate(
        "position-grid", "in proportion to the longest axis", exchanged({"linear_positions": _in_proportion})
    )
    yield Candidate("position-grid", "in steps of the longest axis", exchanged({"linear_positions": _in_its_steps}))

    def by_the_other_rule(original: Any, indices: Any, index_dims: Any, rule: Any, dtype: Any) -> Any:
        return original(indices, index_dims, {"half_open": "grid", "grid": "half_open"}[rule], dtype)

    yield Candidate(
        "position-grid",
        "single points by the other rule",
        Change(parts=lambda: {"subsampled_positions": by_the_other_rule}),
    )


def position_axes(found: Survey) -> Iterator[Candidate]:
    """x and y swapped: in the coordinates, or in the order of points; also in a learned table."""
    if not found.steps & {"linear_positions", "subsampled_positions"} and not found.of_class(TrainablePositions):
        return

    def swapped(original: Any, *arguments: Any, **options: Any) -> Any:
        return np.ascontiguousarray(original(*arguments, **options)[..., ::-1])

    def other_order(original: Any, *arguments: Any, **options: Any) -> Any:
        grid = original(*arguments, **options)
        return np.ascontiguousarray(grid.swapaxes(0, 1)).reshape(grid.shape) if grid.ndim > 2 else grid

    def last_two(original: Any, *arguments: Any, **options: Any) -> Any:
        grid = original(*arguments, **options)
        return grid[..., [0, 2, 1]] if grid.shape[-1] == 3 else grid

    def first_two(original: Any, *arguments: Any, **options: Any) -> Any:
        grid = original(*arguments, **options)
        return grid[..., [1, 0, 2]] if grid.shape[-1] == 3 else grid

    def of_reversed_axes(original: Any, index_dims: Any, *arguments: Any, **options: Any) -> Any:
        grid = original(tuple(reversed(index_dims)), *arguments, **options)
        return np.ascontiguousarray(grid).reshape(*index_dims, len(index_dims))

    for name, function in (
        ("a grid of the axes in reverse", of_reversed_axes),
        ("coordinates in reverse", swapped),
        ("points column by column", other_order),
        ("the last two coordinates swapped", last_two),
        ("the first two coordinates swapped", first_two),
    ):
        yield Candidate("position-axes", name, exchanged({"linear_positions": function}))

    def points(original: Any, *arguments: Any, **options: Any) -> Any:
        return np.ascontiguousarray(original(*arguments, **options)[..., ::-1])

    yield Candidate(
        "position-axes",
        "coordinates in reverse, of single points too",
        Change(parts=lambda: {"linear_positions": swapped, "subsampled_positions": points}),
    )

    def table(original: Any, layer: Any, p: Any, index_dims: tuple[int, ...], **options: Any) -> Any:
        out = original(layer, p, index_dims, **options)
        if len(index_dims) != 2 or out.shape[0] != index_dims[0] * index_dims[1]:
            return out
        height, width = index_dims
        return out.reshape(width, height, -1).swapaxes(0, 1).reshape(out.shape)

    yield Candidate(
        "position-axes", "a learned table column by column", Change(parts=lambda: {TrainablePositions.apply: table})
    )
