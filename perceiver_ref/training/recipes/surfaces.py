"""Points on surfaces of eight kinds, drawn uniformly by area: the data of the recipe `points`.

Each kind has proportions that vary from cloud to cloud. `M` points of `n` clouds at a time are (n, M, 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Rng = np.random.Generator


def unit_cloud(points: Array) -> Array:
    """Clouds (n, M, 3) moved to their mean and scaled, so that the furthest point is 1 away."""
    centred = points - points.mean(1, keepdims=True)
    furthest = np.linalg.norm(centred, axis=-1).max(-1)
    return np.asarray(centred / furthest[:, None, None])


def rotations(rng: Rng, n: int) -> Array:
    """Uniformly random rotations (n, 3, 3): unit quaternions uniform on their sphere."""
    q = rng.standard_normal((n, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def sphere(rng: Rng, n: int, points: int) -> Array:
    """Radius 1."""
    directions = rng.standard_normal((n, points, 3))
    return np.asarray(directions / np.linalg.norm(directions, axis=-1, keepdims=True))


def box(rng: Rng, n: int, points: int) -> Array:
    """Edges of 0.9 to 1.1."""
    edges = rng.uniform(0.9, 1.1, (n, 1, 3))
    a, b, c = np.moveaxis(edges, -1, 0)
    axis = _part(rng, points, [b * c, a * c, a * b])  # of the face's normal
    inside = rng.uniform(-0.5, 0.5, (n, points, 3))
    side = rng.choice([-0.5, 0.5], (n, points, 1))
    return edges * np.where(axis[..., None] == np.arange(3), side, inside)


def cylinder(rng: Rng, n: int, points: int) -> Array:
    """Radius 1 and height 2 to 4, with both discs."""
    height = rng.uniform(2, 4, (n, 1))
    part = _part(rng, points, [2 * height, np.ones((n, 1)), np.ones((n, 1))])  # areas / pi
    radius, angle = _disc(rng, n, points)
    z = np.select([part == 0, part == 1], [rng.uniform(-0.5, 0.5, (n, points)), 0.5], -0.5)
    return _round(np.where(part == 0, 1, radius), angle, height * z)


def cone(rng: Rng, n: int, points: int) -> Array:
    """A disc of radius 1 and an apex 2 to 3 above it."""
    height = rng.uniform(2, 3, (n, 1))
    part = _part(rng, points, [np.sqrt(1 + height**2), np.ones((n, 1))])  # areas / pi
    radius, angle = _disc(rng, n, points)  # the mantle unrolled is a part of a disc, too
    return _round(radius, angle, np.where(part == 0, height * (1 - radius), 0))


def torus(rng: Rng, n: int, points: int) -> Array:
    """A tube of radius 0.2 to 0.5 around a circle of radius 1."""
    return tube(rng, n, points, rng.uniform(0.2, 0.5, (n, 1)), np.zeros((n, 1)), np.ones((n, 1)))


def pyramid(rng: Rng, n: int, points: int) -> Array:
    """A square of edge 2 and an apex 1 to 1.6 above it; those of Giza are about 1.3 high."""
    height = rng.uniform(1, 1.6, (n, 1))
    part = _part(rng, points, [np.full((n, 1), 4.0), 4 * np.sqrt(1 + height**2)])
    x, y = rng.uniform(-1, 1, (2, n, points))
    # of a face: the share s of the way from the apex to its edge has a width proportional to it
    s, side = np.sqrt(rng.uniform(size=(n, points))), rng.integers(4, size=(n, points))
    cos, sin = np.array([1, 0, -1, 0])[side], np.array([0, 1, 0, -1])[side]
    face = [s * (cos - x * sin), s * (sin + x * cos), height * (1 - s)]
    return np.where((part == 0)[..., None], _stack(x, y, 0 * x), _stack(*face))


def capsule(rng: Rng, n: int, points: int) -> Array:
    """A cylinder of radius 1 and height 1.5 to 3 between two half-spheres."""
    height = rng.uniform(1.5, 3, (n, 1))
    part = _part(rng, points, [2 * height, np.full((n, 1), 4.0)])  # areas / pi
    ball = sphere(rng, n, points)
    ends = ball + _stack(0 * ball[..., 0], 0 * ball[..., 0], np.copysign(height / 2, ball[..., 2]))
    side = _round(np.ones((n, points)), _angle(rng, n, points), height * rng.uniform(-0.5, 0.5, (n, points)))
    return np.where((part == 0)[..., None], side, ends)


def helix(rng: Rng, n: int, points: int) -> Array:
    """A tube of radius 0.15 to 0.3 around 1.5 to 2.5 turns of radius 1, a turn 1 to 1.5 high; open at both ends."""
    radius, pitch = rng.uniform(0.15, 0.3, (n, 1)), rng.uniform(1, 1.5, (n, 1))
    return tube(rng, n, points, radius, pitch / math.tau, rng.uniform(1.5, 2.5, (n, 1)))


SURFACES: dict[str, Callable[[Rng, int, int], Array]] = {
    made.__name__: made for made in (sphere, box, cylinder, cone, torus, pyramid, capsule, helix)
}
"""Kind -> the function (rng, clouds, points) -> (clouds, points, 3); the labels are the order."""


def clouds(rng: Rng, labels: Array, points: int) -> Array:
    """One cloud (n, points, 3) of the kind of each label (n,), upright and as large as its kind's function makes it."""
    made = np.empty((len(labels), points, 3))
    for label, surface in enumerate(SURFACES.values()):
        chosen = np.flatnonzero(labels == label)
        made[chosen] = surface(rng, len(chosen), points)
    return made


def _part(rng: Rng, points: int, areas: Sequence[Array]) -> Array:
    """Which part of the surface each point is on (n, points), each as likely as its area (n, 1)."""
    limits = np.cumsum(np.concatenate(areas, axis=1), axis=1)  # (n, parts)
    drawn = rng.uniform(size=(len(limits), points)) * limits[:, -1:]
    return np.asarray((drawn[..., None] >= limits[:, None, :-1]).sum(-1))


def _angle(rng: Rng, n: int, points: int) -> Array:
    return rng.uniform(0, math.tau, (n, points))


def _disc(rng: Rng, n: int, points: int) -> tuple[Array, Array]:
    """Radii and angles of points on the unit disc: the area within a radius grows with its square."""
    return np.sqrt(rng.uniform(size=(n, points))), _angle(rng, n, points)


def tube(rng: Rng, n: int, points: int, radius: Array, rise: Array, turns: Array) -> Array:
    """A tube around the curve (cos t, sin t, rise t), t from 0 to 2 pi `turns`; arguments are (n, 1).

    A curve of curvature k has the area element 1 - radius k cos(phi), where phi = 0 is the direction in which it bends.
    phi is uniform but for a reflection: what `cos(phi)` makes too likely goes to pi - phi.
    """
    t, phi = turns * _angle(rng, n, points), _angle(rng, n, points)
    speed = np.sqrt(1 + rise**2)
    kept = rng.uniform(size=(n, points)) < (1 - radius / speed**2 * np.cos(phi)) / 2
    phi = np.where(kept, phi, math.pi - phi)
    inwards = _stack(-np.cos(t), -np.sin(t), 0 * t)
    across = _stack(np.sin(t) * rise, -np.cos(t) * rise, np.ones_like(t)) / speed[..., None]  # binormal
    offset = np.cos(phi)[..., None] * inwards + np.sin(phi)[..., None] * across
    return np.asarray(_round(np.ones_like(t), t, rise * t) + radius[..., None] * offset)


def _round(radius: Array, angle: Array, z: Array) -> Array:
    """From cylindrical coordinates (n, M) to (n, M, 3)."""
    return _stack(radius * np.cos(angle), radius * np.sin(angle), z)


def _stack(x: Array, y: Array, z: Array) -> Array:
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1)
