"""Points on surfaces: where they are, how dense, and in no order; the recipe's data, baseline and metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from support import ROUNDING, difference, normal, random_parameters

from perceiver_ref.training.recipes import points, surfaces
from perceiver_ref.training.recipes.points import Points, distances, nearest_mean, sample
from perceiver_ref.training.recipes.surfaces import SURFACES, clouds, rotations, unit_cloud

Chart = Callable[[np.ndarray, np.ndarray], tuple[Any, Any, Any]]
"""From the unit square, (u, v), to a part of a surface, once or several times over."""


class Surface(NamedTuple):
    """A second definition: charts that cover it, and what is 0 on it and nowhere else close by."""

    charts: list[Chart]
    is_on: Callable[[np.ndarray], np.ndarray]


def revolved(radius: Callable, z: Callable) -> Chart:
    """The curve (radius(u), z(u)) turned around the z axis."""
    return lambda u, v: (radius(u) * np.cos(math.tau * v), radius(u) * np.sin(math.tau * v), z(u) + 0 * v)


def disc(z: float) -> Chart:
    return revolved(lambda u: u, lambda u: z + 0 * u)


def flat(corner, first, second) -> Chart:
    """A parallelogram."""
    return lambda u, v: tuple(c + u * a + v * b for c, a, b in zip(corner, first, second))


def triangle(corner, second, third) -> Chart:
    return lambda u, v: tuple(c + u * ((1 - v) * a + v * b - c) for c, a, b in zip(corner, second, third))


def sphere(draw) -> Surface:
    chart = revolved(lambda u: np.sin(math.pi * u), lambda u: np.cos(math.pi * u))
    return Surface([chart], lambda p: np.linalg.norm(p, axis=-1) - 1)


def box(draw) -> Surface:
    edges = draw.uniform(0.9, 1.1, (1, 1, 3))[0, 0]
    sides = np.diag(edges)
    charts = [
        flat(sign * sides[i] / 2 - sides[j] / 2 - sides[k] / 2, sides[j], sides[k])
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
        for sign in (-1, 1)
    ]
    return Surface(charts, lambda p: (np.abs(p) - edges / 2).max(-1))


def cylinder(draw) -> Surface:
    height = draw.uniform(2, 4)
    side = revolved(lambda u: 1 + 0 * u, lambda u: height * (u - 0.5))
    beyond = lambda p: np.maximum(np.hypot(p[:, 0], p[:, 1]) - 1, np.abs(p[:, 2]) - height / 2)  # noqa: E731
    return Surface([side, disc(height / 2), disc(-height / 2)], beyond)


def cone(draw) -> Surface:
    height = draw.uniform(2, 3)
    mantle = revolved(lambda u: u, lambda u: height * (1 - u))
    beyond = lambda p: np.maximum(p[:, 2] / height - (1 - np.hypot(p[:, 0], p[:, 1])), -p[:, 2])  # noqa: E731
    return Surface([mantle, disc(0)], beyond)


def torus(draw) -> Surface:
    tube = draw.uniform(0.2, 0.5)
    chart = revolved(lambda u: 1 + tube * np.cos(math.tau * u), lambda u: tube * np.sin(math.tau * u))
    return Surface([chart], lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]) - 1, p[:, 2]) - tube)


def pyramid(draw) -> Surface:
    apex = (0, 0, draw.uniform(1, 1.6))
    corners = [(1, 1, 0), (-1, 1, 0), (-1, -1, 0), (1, -1, 0)]
    charts = [triangle(apex, a, b) for a, b in zip(corners, corners[1:] + corners[:1])]
    beyond = lambda p: np.maximum(p[:, 2] / apex[2] - 1 + np.abs(p[:, :2]).max(-1), -p[:, 2])  # noqa: E731
    return Surface([*charts, flat((-1, -1, 0), (2, 0, 0), (0, 2, 0))], beyond)


def capsule(draw) -> Surface:
    half = draw.uniform(1.5, 3) / 2
    side = revolved(lambda u: 1 + 0 * u, lambda u: half * (2 * u - 1))
    ends = [
        revolved(lambda u: np.sin(math.pi / 2 * u), lambda u, sign=sign: sign * (half + np.cos(math.pi / 2 * u)))
        for sign in (-1, 1)
    ]
    segment = lambda p: np.stack([p[:, 0], p[:, 1], p[:, 2] - np.clip(p[:, 2], -half, half)], -1)  # noqa: E731
    return Surface([side, *ends], lambda p: np.linalg.norm(segment(p), axis=-1) - 1)


def helix(draw) -> Surface:
    tube, pitch, turns = draw.uniform(0.15, 0.3), draw.uniform(1, 1.5), draw.uniform(1.5, 2.5)
    rise = pitch / math.tau

    def chart(u, v):
        # any two directions across the curve draw the same circle: this one starts at the curve's outside
        t, phi = math.tau * turns * u, math.tau * v
        out = (np.cos(t), np.sin(t), 0 * t)
        tangent = np.array([-np.sin(t), np.cos(t), rise + 0 * t]) / math.hypot(1, rise)
        other = np.cross(tangent, np.array(np.broadcast_arrays(*out)), axis=0)
        return tuple(
            c + tube * (np.cos(phi) * o + np.sin(phi) * w)
            for c, o, w in zip((np.cos(t), np.sin(t), rise * t), out, other)
        )

    def beyond(p):
        t = np.linspace(0, math.tau * turns, 20_001)
        curve = np.stack([np.cos(t), np.sin(t), rise * t], -1)
        return np.array([np.sqrt(((curve - q) ** 2).sum(-1).min()) for q in p]) - tube

    return Surface([chart], beyond)


DEFINED = (sphere, box, cylinder, cone, torus, pyramid, capsule, helix)


@pytest.mark.parametrize("kind", SURFACES)
def test_points_are_on_the_surface(kind: str) -> None:
    """To rounding; the helix to the distance from 20,001 points on its curve, 1e-3 apart: (1e-3 / 2)^2 / 2 / 0.15."""
    defined = {made.__name__: made for made in DEFINED}[kind]
    for seed in range(5):
        made = SURFACES[kind](np.random.default_rng(seed), 1, 300)
        error = np.abs(defined(np.random.default_rng(seed)).is_on(made[0])).max()
        assert error < (1e-6 if kind == "helix" else 1e-12)


@pytest.mark.parametrize("kind", SURFACES)
def test_points_are_uniform_by_area(kind: str) -> None:
    """Moments of the points against integrals over charts, whose area elements are of finite differences.

    Within five standard errors of 200,000 points: 1 to 3 parts in a thousand.
    """
    surface = {made.__name__: made for made in DEFINED}[kind](np.random.default_rng(3))
    made = SURFACES[kind](np.random.default_rng(3), 1, 200_000)[0]
    u, v = np.meshgrid(*[(np.arange(400) + 0.5) / 400] * 2, indexing="ij")
    at, area = [], []
    for chart in surface.charts:
        place = lambda a, b, chart=chart: np.stack(np.broadcast_arrays(*chart(a, b)), -1)  # noqa: E731
        du = (place(u + 1e-5, v) - place(u - 1e-5, v)) / 2e-5
        dv = (place(u, v + 1e-5) - place(u, v - 1e-5)) / 2e-5
        at.append(place(u, v).reshape(-1, 3))
        area.append(np.linalg.norm(np.cross(du, dv), axis=-1).ravel())
    at, area = np.concatenate(at), np.concatenate(area)
    for moment in (
        lambda p: p[:, 0],
        lambda p: p[:, 1],
        lambda p: p[:, 2],
        lambda p: p[:, 2] ** 2,
        lambda p: np.abs(p[:, 0]),
        lambda p: np.hypot(p[:, 0], p[:, 1]),
        lambda p: p[:, 0] * p[:, 1],
    ):
        expected = (moment(at) * area).sum() / area.sum()
        values = moment(made)
        assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(len(values))


def test_rotations_are_rotations_and_uniform() -> None:
    made = rotations(np.random.default_rng(0), 20_000)
    assert np.abs(made @ made.swapaxes(1, 2) - np.eye(3)).max() < 1e-12
    np.testing.assert_allclose(np.linalg.det(made), 1)
    # every axis is turned to a uniform point of the sphere, whose coordinates are uniform in [-1, 1]
    for coordinates in made.reshape(-1, 9).T:
        shares = np.histogram(coordinates, 10, (-1, 1))[0] / len(made)
        assert np.abs(shares - 0.1).max() < 5 * math.sqrt(0.1 * 0.9 / len(made))


def test_clouds_have_the_kinds_of_their_labels() -> None:
    labels = np.array([0, 4, 0, 7, 4])
    made = clouds(np.random.default_rng(0), labels, 50)
    assert made.shape == (5, 50, 3)
    is_sphere = np.abs(np.linalg.norm(made, axis=-1) - 1).max(-1) < 1e-12
    np.testing.assert_array_equal(is_sphere, labels == 0)


def test_a_unit_cloud_is_centred_and_as_large_as_the_unit_ball() -> None:
    made = unit_cloud(3 + 2 * normal(0, 4, 30, 3))
    assert np.abs(made.mean(1)).max() < 1e-12
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1).max(-1), 1)


def test_samples_are_balanced_and_fit_the_positions() -> None:
    made, labels = sample(np.random.default_rng(0), 64)
    assert made.shape == (64, points.POINTS, 3)
    assert made.dtype == np.float32
    largest = np.linalg.norm(made, axis=-1).max(-1)
    assert 0.8 <= largest.min() < largest.max() <= 1 + 1e-6
    assert np.bincount(labels).tolist() == [8] * 8


def test_no_test_cloud_is_trained_on() -> None:
    """Not those of the same seeds either: a cloud is 128 drawn points, so a common one means a common stream."""
    task = Points(0, 32)
    tested = {cloud.tobytes() for cloud in task.tests[0]}
    assert len(tested) == points.TESTED_ON
    for seed in range(3):
        for step in (0, 1, 2):
            trained = Points(seed, 32).batch(step)["points"]
            assert not tested & {cloud.tobytes() for cloud in trained}
    assert not tested & {cloud.tobytes() for cloud in sample(np.random.default_rng((0, 0, points._BASELINE)), 64)[0]}


def test_the_tests_are_the_same_for_all_seeds() -> None:
    np.testing.assert_array_equal(Points(0, 32).tests[0], Points(5, 8).tests[0])


def test_the_order_of_points_does_not_matter() -> None:
    model = points.model()
    params = random_parameters(model)
    made = sample(np.random.default_rng(0), 8)[0].astype(np.float64)
    shuffled = np.random.default_rng(1).permuted(made, axis=1)  # each coordinate by itself: another cloud
    moved = made[:, np.random.default_rng(1).permutation(points.POINTS)]
    logits = model.apply(params, made)
    assert difference(model.apply(params, moved), logits) < ROUNDING
    assert difference(model.apply(params, shuffled), logits) > 1e-3


def test_distances_do_not_change_with_rotation_and_order() -> None:
    made = sample(np.random.default_rng(0), 8)[0].astype(np.float64)
    turned = made @ rotations(np.random.default_rng(1), 8)
    moved = 0.5 + 3 * turned[:, np.random.default_rng(1).permutation(points.POINTS)]
    assert difference(distances(moved), distances(made)) < ROUNDING
    for row, cloud in zip(distances(made), made):
        centre = cloud.mean(0)
        plain = sorted(math.dist(point, centre) for point in cloud)
        np.testing.assert_allclose(row, np.array(plain) / plain[-1])


def test_the_nearest_mean_is_that_of_the_nearest_class() -> None:
    known, labels, asked = normal(0, 40, 3), np.arange(40) % 4, normal(1, 20, 3)
    expected = []
    for row in asked:
        gaps = [math.dist(row, known[labels == label].mean(0)) for label in range(4)]
        expected.append(gaps.index(min(gaps)))
    np.testing.assert_array_equal(nearest_mean(known, labels, asked), expected)


def test_the_baseline_is_above_chance_and_below_what_is_asked_for() -> None:
    (value,) = Points(0, 32).baselines().values()
    assert 2 / 8 < value < points.RECIPES[0].threshold


@pytest.mark.parametrize("wrong", [0, 1, 300])
def test_accuracy_is_the_share_of_test_clouds_that_are_recognised(monkeypatch, wrong: int) -> None:
    answers = {cloud.tobytes(): label for cloud, label in zip(*Points(0, 32).tests)}
    fooled = set(list(answers)[:wrong])

    class Knowing:
        def apply(self, params, clouds):
            guesses = [(answers[c.tobytes()] + (c.tobytes() in fooled)) % len(SURFACES) for c in clouds]
            return np.eye(len(SURFACES), dtype=np.float32)[guesses]

    monkeypatch.setattr(points, "model", Knowing)
    value = Points(0, 32).evaluate({"weight": np.zeros(1, np.float32)})["test_accuracy"]
    assert value == 1 - wrong / points.TESTED_ON


def test_confusions_count_what_each_kind_is_taken_for() -> None:
    header, *rows = points.confusions(np.array([0, 1, 1, 7, 0]), np.array([0, 0, 1, 7, 7])).splitlines()
    assert header.split() == list(SURFACES)
    counts = {row.split()[0]: [int(count) for count in row.split()[1:]] for row in rows}
    assert counts["sphere"] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert counts["helix"] == [1, 0, 0, 0, 0, 0, 0, 1]
    assert sum(map(sum, counts.values())) == 5


def test_every_kind_has_a_second_definition() -> None:
    assert [made.__name__ for made in DEFINED] == list(surfaces.SURFACES)
