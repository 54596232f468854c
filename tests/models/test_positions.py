"""Position encodings: grids against `numpy.linspace`, Fourier features against their formula, tables row by row."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_close, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.autograd.core import Op
from perceiver_ref.autograd.handlers import handle
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.models.conventions import DIALECTS
from perceiver_ref.models.inputs import Preprocessed
from perceiver_ref.models.positions import (
    FourierPositions,
    TrainablePositions,
    fourier_features,
    linear_positions,
    linspace,
)
from perceiver_ref.models.queries import PositionQueries
from perceiver_ref.porting.exchange import exchanged_steps

both_grids = pytest.mark.parametrize("grid", ["float32", "compute"])
UNITS = 4
"""Units of rounding between two evaluations of one grid point: each takes at most three roundings of values up to 1."""


def direct_fourier_features(index_dims: tuple[int, ...], num_bands: int, max_resolution: tuple[int, ...]) -> np.ndarray:
    """[x, sin(pi f x), cos(pi f x)] for every point of a grid, rows first, by the paper's formula (points, d(2K+1))."""
    rows = []
    for index in np.ndindex(*index_dims):
        x = [-1 + 2 * i / (n - 1) if n > 1 else -1.0 for i, n in zip(index, index_dims)]
        angles = [
            math.pi * (1 + k * (r / 2 - 1) / (num_bands - 1) if num_bands > 1 else 1) * position
            for position, r in zip(x, max_resolution)
            for k in range(num_bands)
        ]
        rows.append([*x, *map(math.sin, angles), *map(math.cos, angles)])
    return np.array(rows)


@both_grids
@given(n=st.integers(2, 3000), dtype=st.sampled_from([np.float32, np.float64]))
def test_linspace_is_numpys_within_rounding_and_both_ends_are_exact(grid: str, n: int, dtype: type) -> None:
    ours = linspace(-1.0, 1.0, n, dtype, grid)
    precision = np.finfo(np.float32 if grid == "float32" else dtype).eps
    assert ours.dtype == dtype
    assert ours.shape == (n,)
    assert (ours[0], ours[-1]) == (-1, 1)
    assert np.abs(ours - np.linspace(-1, 1, n)).max() <= UNITS * precision
    assert (np.diff(ours) > 0).all()


@both_grids
def test_linspace_of_one_point_is_the_start(grid: str) -> None:
    assert linspace(-1.0, 1.0, 1, np.float32, grid).tolist() == [-1]


@given(n=st.integers(2, 3000), ends=st.sampled_from([(-1.0, 1.0), (1.0, 112.0), (1.0, 0.5)]))
def test_the_compute_grid_is_symmetric_as_torchs_is(n: int, ends: tuple[float, float]) -> None:
    """`torch.linspace` counts down from the end beyond the middle, so the grid reads the same from both ends."""
    forward, backward = (linspace(*pair, n, np.float32, "compute") for pair in (ends, ends[::-1]))
    assert np.array_equal(forward[: n // 2], backward[::-1][: n // 2])


def test_the_two_grids_differ_in_the_last_bits() -> None:
    """Otherwise the option would be idle: at 224 points a float32 grid is off by about 1e-7 in float64."""
    single, double = (linspace(-1.0, 1.0, 224, np.float64, grid) for grid in ("float32", "compute"))
    assert 1e-8 < np.abs(single - double).max() < 2e-7


def test_linear_positions_of_an_image_are_row_then_column() -> None:
    grid = linear_positions((3, 2))
    assert grid.shape == (3, 2, 2)
    assert grid[2, 0].tolist() == [1, -1]
    assert grid[:, 0, 0].tolist() == [-1, 0, 1]


@given(
    dims=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    bands=st.integers(1, 5),
    data=st.data(),
)
def test_fourier_features_are_the_papers_formula(
    backend: str, dims: tuple[int, ...], bands: int, data: st.DataObject
) -> None:
    resolution = tuple(data.draw(st.integers(1, 300)) for _ in dims)
    direct = direct_fourier_features(dims, bands, resolution)
    positions = on(backend, linear_positions(dims).reshape(-1, len(dims)))
    # an angle of pi 150 is rounded by 1e-13, and its sine by as much
    assert_close(fourier_features(positions, bands, resolution), direct, tolerance=1e-12)
    d = len(dims)
    sines = fourier_features(positions, bands, resolution, sine_only=True)
    assert_close(sines, direct[:, : d + d * bands], tolerance=1e-12)
    alone = fourier_features(positions, bands, resolution, concat_pos=False)
    assert_close(alone, direct[:, d:], tolerance=1e-12)


@given(axes=st.integers(1, 3), bands=st.integers(1, 6), concat_pos=st.booleans(), sine_only=st.booleans())
def test_the_declared_width_is_the_width(
    backend: str, axes: int, bands: int, concat_pos: bool, sine_only: bool
) -> None:
    encoding = FourierPositions(bands, (4,) * axes, concat_pos, sine_only)
    table = encoding.apply({}, (2,) * axes, like=on(backend, np.zeros(0)))
    assert table.shape == (2**axes, encoding.channels)


@pytest.mark.parametrize(
    ("bands", "resolution", "channels"),
    [
        (64, (224, 224), 258),  # ImageNet: with 3 colours 261 input channels
        (64, (368, 496), 258),  # optical flow: with 64 features of the patches 322
        (32, (16, 56, 56), 195),  # video
    ],
)
def test_published_widths(bands: int, resolution: tuple[int, ...], channels: int) -> None:
    assert FourierPositions(bands, resolution).channels == channels


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_table_follows_dialect_and_dtype(backend: str, dialect: str, dtype: type) -> None:
    encoding = FourierPositions(4, (20, 30), conventions=DIALECTS[dialect])
    table = encoding.apply({}, (20, 30), like=on(backend, np.zeros(0, dtype)))
    assert table.dtype == dtype
    # float32 anywhere: positions are off by 1e-7, which sin(pi 15 x) multiplies by 47
    exact = dtype == np.float64 and DIALECTS[dialect].grid == "compute"
    assert_close(table, direct_fourier_features((20, 30), 4, (20, 30)), tolerance=1e-12 if exact else 2e-5)


def test_a_cached_table_cannot_be_changed() -> None:
    encoding = FourierPositions(2, (3,))
    table = encoding.apply({}, (3,), like=np.zeros(0))
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 7


def test_gradients_reach_the_positions(backend: str) -> None:
    positions = on(backend, normal(0, 5, 2))
    check_grads(lambda x: fourier_features(x, 3, (8, 6)), positions)


@given(used=st.integers(0, 6))
def test_trainable_positions_of_text_are_the_first_rows(backend: str, used: int) -> None:
    encoding = TrainablePositions(6, 3, first_rows=True)
    p = random_parameters(encoding)
    rows = encoding.apply(on(backend, p), (used,), like=on(backend, p["table"]))
    assert_close(rows, p["table"][:used], tolerance=0)


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        InputError, match=re.escape("positions have 2 axes (max_resolution (4, 4)), the input's grid is (4,)")
    ):
        FourierPositions(2, (4, 4)).apply({}, (4,), like=np.zeros(0))
    with pytest.raises(InputError, match="positions have 1 axes, but max_resolution"):
        fourier_features(np.zeros((3, 1)), 2, (4, 4))
    with pytest.raises(InputError, match="the input has 7 positions, but the model was made for at most 6"):
        TrainablePositions(6, 3, first_rows=True).apply({"table": np.zeros((6, 3))}, (7,), like=np.zeros(0))


def test_what_is_done_to_ops_does_not_stay_in_tables_of_grids() -> None:
    """A table is kept for later calls; one that an experiment on ops has changed is not, nor one from before taken."""
    positions = FourierPositions(3, (13, 29), conventions=DIALECTS["hf"])
    like, grid = np.zeros(1), (5, 7)

    def none(op: Op, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        out = op(*arguments, **options)
        return out * 0 if op.name == "sin" else out

    with handle(none):
        changed = positions.apply({}, grid, like=like)
    right = positions.apply({}, grid, like=like)
    with handle(none):
        again = positions.apply({}, grid, like=like)
    assert not changed[:, 2:8].any()
    assert not again[:, 2:8].any()
    assert_close(right, direct_fourier_features(grid, 3, (13, 29)), 1e-12)


@pytest.mark.parametrize("rows", [None, (1, 5)])
def test_what_an_exchanged_step_makes_is_not_kept(rows: tuple[int, int] | None) -> None:
    """Neither before nor after: the model's own positions, and then others, and its own again."""
    queries = PositionQueries(FourierPositions(2, (3, 5)), (3, 5))
    elements, like = Preprocessed(np.zeros((1, 15, 1)), np.zeros((1, 15, 1))), np.zeros(())

    def made() -> np.ndarray:
        return np.asarray(queries.apply({}, elements, like=like, rows=rows))

    own = made()
    with exchanged_steps({"linear_positions": lambda original, *a, **o: original(*a, **o) / 2}):
        assert np.abs(made() - own).max() > 0.1
    np.testing.assert_array_equal(made(), own)
