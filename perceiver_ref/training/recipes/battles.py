"""Battles of two teams in four squads each: every unit is to point to the enemy that its squad should attack.

That is the enemy nearest to the squad's centre, which no unit knows alone: it follows from the places of all members.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UNITS = 48
SQUADS = 8
"""Of the first four squads is one team, of the others the other."""
CHANNELS = 2 + SQUADS


class Battles(NamedTuple):
    """B battles of `UNITS` units."""

    places: np.ndarray
    """(B, U, 2), float32: x and y, about -1 to 1"""
    squads: np.ndarray
    """(B, U), int64: from 0 to 7"""

    @property
    def units(self) -> np.ndarray:
        """(B, U, CHANNELS), float32: what is known of each unit, its place and its squad."""
        return np.concatenate([self.places, np.eye(SQUADS, dtype=np.float32)[self.squads]], -1)

    @property
    def enemies(self) -> np.ndarray:
        """(B, U, U), bool: whether unit j is an enemy of unit i."""
        team = self.squads // (SQUADS // 2)
        return np.asarray(team[:, :, None] != team[:, None, :])

    @property
    def targets(self) -> np.ndarray:
        """(B, U), int64: which unit each is to point to."""
        same = (self.squads[:, :, None] == self.squads[:, None, :]).astype(np.float32)
        centres = same @ self.places / same.sum(-1, keepdims=True)  # of each unit's squad
        return nearest_enemies(self, centres)


def battles(rng: np.random.Generator, count: int) -> Battles:
    """Squads of six units on average, each unit of any squad, spread around a place of the squad's own."""
    squads = rng.integers(SQUADS, size=(count, UNITS))
    squads[:, :SQUADS] = np.arange(SQUADS)  # none is empty
    camps = rng.uniform(-1, 1, (count, SQUADS, 2))
    places = np.take_along_axis(camps, squads[..., None], 1) + 0.5 * rng.standard_normal((count, UNITS, 2))
    return Battles(places.astype(np.float32), squads)


def nearest_enemies(given: Battles, points: np.ndarray) -> np.ndarray:
    """For each unit the enemy nearest to its point: points (B, U, 2) -> (B, U), int64."""
    squared = ((points[:, :, None] - given.places[:, None]) ** 2).sum(-1)
    return np.asarray(np.where(given.enemies, squared, np.inf).argmin(-1))
