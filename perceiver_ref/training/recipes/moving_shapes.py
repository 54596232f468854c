"""Clips of a moving shape with its sound and its label, made from a random generator.

What is seen is a white shape on black that moves straight on and turns back at the borders. What is heard is a tone
that swells and fades: the shape decides its pitch, within a few per cent, and the speed how often it swells. The label
is the shape.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

FRAMES, SIDE, SAMPLES = 6, 16, 256
SHAPES = ("disc", "ring", "square", "diamond", "plus")
PITCHES = (8.0, 11.0, 15.0, 20.0, 27.0)
"""Of the shapes: cycles in a clip."""
DETUNED = 0.04
"""A pitch is off by at most this share of it."""
RADIUS = (3.0, 4.5)
FASTEST = 1.5
"""Pixels from one frame to the next."""


class Clips(NamedTuple):
    """float32, but for the labels."""

    video: np.ndarray
    """(B, FRAMES, SIDE, SIDE, 1) in [-1, 1], black is -1"""
    audio: np.ndarray
    """(B, SAMPLES, 1) in [-1, 1]"""
    labels: np.ndarray
    """(B,) int64: indices of SHAPES"""


def clips(rng: np.random.Generator, count: int) -> Clips:
    """So many random clips."""
    labels = rng.integers(len(SHAPES), size=count)
    radius, speed = rng.uniform(*RADIUS, count), rng.uniform(0, FASTEST, count)
    start, direction = rng.uniform(0, SIDE - 1, (count, 2)), rng.uniform(0, 2 * math.pi, count)
    steps = speed[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=-1)
    centres = turned_back(start[:, None] + np.arange(FRAMES)[:, None] * steps[:, None], radius[:, None, None])
    pitch = np.take(PITCHES, labels) * rng.uniform(1 - DETUNED, 1 + DETUNED, count)
    video = 2 * drawn(labels, centres, radius)[..., None] - 1
    audio = tone(pitch, beats(speed), rng.uniform(0, 2 * math.pi, count))[..., None]
    return Clips(video.astype(np.float32), audio.astype(np.float32), labels)


def turned_back(centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Positions on an endless line -> where something of this radius is that turns back at an image's borders."""
    room = SIDE - 1 - 2 * radius
    inside: np.ndarray = radius + room - np.abs(room - np.mod(centres - radius, 2 * room))
    return inside


def drawn(labels: np.ndarray, centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How white pixels are, (B, FRAMES, SIDE, SIDE): 1 inside, falling to 0 within a pixel across the shape's border.

    labels (B,), centres (B, FRAMES, 2) in pixels as (x, y), radius (B,).
    """
    x, y = (np.abs(np.arange(SIDE) - centres[..., axis, None]) for axis in (0, 1))
    x, y = x[..., None, :], y[..., :, None]
    r = radius[:, None, None, None]
    round_, long, short = np.hypot(x, y), np.maximum(x, y), np.minimum(x, y)
    outside = [
        round_ - r,
        np.abs(round_ - 0.7 * r) - 0.3 * r,
        long - 0.85 * r,
        (x + y - 1.2 * r) / math.sqrt(2),
        np.maximum(long - r, short - 0.35 * r),
    ]
    distance = np.select([labels[:, None, None, None] == k for k in range(len(SHAPES))], outside)
    covered: np.ndarray = np.clip(0.5 - distance, 0, 1)
    return covered


def beats(speed: np.ndarray) -> np.ndarray:
    """How often a clip swells and fades, 1 to 4 times."""
    many: np.ndarray = 1 + 3 * speed / FASTEST
    return many


def tone(pitch: np.ndarray, beats: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """All (B,), pitch and beats in cycles a clip -> samples (B, SAMPLES); the clip begins at a beat's loudest."""
    time = np.arange(SAMPLES) / SAMPLES
    loudness = (1 + np.cos(2 * math.pi * beats[:, None] * time)) / 2
    sound: np.ndarray = loudness * np.sin(2 * math.pi * pitch[:, None] * time + phase[:, None])
    return sound
