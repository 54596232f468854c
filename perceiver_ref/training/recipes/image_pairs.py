"""Textured image pairs under smooth motion, whose optical flow is known exactly.

A texture is a continuous function T of the plane, a sum of plane waves. The second frame is T itself and the first is T
seen through the motion u, so that a pixel x of the first frame is found at x + u(x) in the second:

    frame2(x) = T(x)          frame1(x) = T(x + u(x)) = frame2(x + u(x))

Nothing is interpolated. Points and motions are in pixels, in the order (x, y): x to the right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

WAVES = 16
"""In a texture."""
WAVELENGTHS = (8.0, 24.0)
"""Of these waves in pixels, drawn evenly on a logarithmic scale: nothing is finer than the first."""
TRANSLATION, BENDING = 1.5, 0.7
"""The largest coefficient in pixels of the constant motion, and of each of the others."""


@dataclass(frozen=True)
class Textures:
    """Sums of plane waves, a colour channel c of pair b being sum over k of cosines[b, k, c] cos(w[b, k] . x) and the
    same of sines: no channel tells of the others, and each has variance 1 on average."""

    waves: np.ndarray
    """(B, WAVES, 2): w, in radians a pixel"""
    cosines: np.ndarray
    """(B, WAVES, 3)"""
    sines: np.ndarray
    """(B, WAVES, 3)"""

    def at(self, points: np.ndarray) -> np.ndarray:
        """points (B or 1, n, 2) -> colours (B, n, 3)."""
        angles = points @ self.waves.swapaxes(-1, -2)
        colours: np.ndarray = np.cos(angles) @ self.cosines + np.sin(angles) @ self.sines
        return colours


def draw_textures(rng: np.random.Generator, count: int) -> Textures:
    """So many random textures, in float32."""
    shortest, longest = np.log(WAVELENGTHS)
    lengths = np.exp(rng.uniform(shortest, longest, (count, WAVES)))
    angles = rng.uniform(0, 2 * math.pi, (count, WAVES))
    waves = 2 * math.pi / lengths[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    cosines, sines = rng.standard_normal((2, count, WAVES, 3)) / math.sqrt(WAVES)
    return Textures(waves.astype(np.float32), cosines.astype(np.float32), sines.astype(np.float32))


def motion(coefficients: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Smooth motions: translation, a linear map (turning, growing, shearing) and half a wave along each axis.

    coefficients (B, 2, 5) in pixels, points (n, 2), size (height, width) of the images -> (B, n, 2).
    """
    x, y = (2 * points / (np.array(size[::-1], points.dtype) - 1) - 1).T  # -1 to 1 over the image
    shapes = np.stack([np.ones_like(x), x, y, np.sin(math.pi * x) / 2, np.sin(math.pi * y) / 2])
    moved: np.ndarray = (coefficients @ shapes).swapaxes(-1, -2)
    return moved


def draw_coefficients(rng: np.random.Generator, count: int) -> np.ndarray:
    """Those of so many random motions, (count, 2, 5), float32."""
    largest = np.array([TRANSLATION, *[BENDING] * 4])
    drawn: np.ndarray = (rng.uniform(-1, 1, (count, 2, 5)) * largest).astype(np.float32)
    return drawn


def pixels(size: tuple[int, int]) -> np.ndarray:
    """The points of an image's pixels, row by row: (height * width, 2), float32."""
    y, x = np.indices(size, np.float32)
    points: np.ndarray = np.stack([x.ravel(), y.ravel()], axis=-1)
    return points


def image_pairs(rng: np.random.Generator, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Frames (count, 2, height, width, 3), and the flow of the first (count, height * width, 2); float32."""
    textures, coefficients, points = draw_textures(rng, count), draw_coefficients(rng, count), pixels(size)
    flow = motion(coefficients, points, size)
    first, second = textures.at(points + flow), textures.at(points[None])
    return np.stack([first, second], axis=1).reshape(count, 2, *size, 3), flow
