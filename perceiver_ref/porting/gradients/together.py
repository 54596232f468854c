"""Two wrong rules that are at work in every wrong gradient, as where all layers have the same weights.

The one whose changes point where the difference does is likely to be one of the two, however large they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from .backward import Wrong, scaled
from .target import Target

_ELEMENTS = 512
"""So many elements stand for all"""
_CLOSE = 1e-6
"""Numbers in float32 are the same when they differ by less."""
_WIDE = re.compile(r"(everywhere|in self-attention|in cross-attention|and its like|shared parameters)$")


class Together:
    """`add` what each rule gives alone; `likeliest` are those to be tried with another."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.until = min((ready_of(target, name) for name in target.affected), default=0)
        """A walk as far as this has all wrong gradients"""
        rng = np.random.default_rng(0)
        self.chosen: dict[str, np.ndarray] = {}
        share = max(_ELEMENTS // max(len(target.affected), 1), 1)
        for name in target.affected:
            size = target.expected[name].size
            self.chosen[name] = rng.choice(size, min(share, size), replace=False)
        self.seen: set[bytes] = set()
        self.wrongs: list[Wrong] = []
        self.rows: list[np.ndarray] = []

    def _sample(self, made: Mapping[str, np.ndarray]) -> np.ndarray:
        """What differs from the right gradients, in units of their sizes."""
        target = self.target
        parts = [
            (made.get(n, target.named[n]) - target.named[n]).reshape(-1)[at] / target.scales[n]
            for n, at in self.chosen.items()
        ]
        return np.concatenate(parts).astype(np.float32)

    def add(self, wrong: Wrong, made: Mapping[str, np.ndarray]) -> None:
        """Keep what a rule makes; of a flow, which is stopped, that of the other sign, too."""
        row = self._sample(made)
        most = float(np.abs(row).max(initial=0.0))
        if not np.isfinite(most) or not most:
            return
        known = np.round(row / most, 5).tobytes() + f"{most:.5g}".encode()
        if known in self.seen:
            return
        self.seen.add(known)
        if wrong.cause:
            self.wrongs.append(wrong)
            self.rows.append(row)
            return
        self.wrongs += [
            replace(wrong, cause="gradient-stopped"),
            replace(wrong, cause="gradient-sign", changes=scaled(wrong.places, -1.0)),
        ]
        self.rows += [row, 2 * row]

    def proportional(self) -> Iterator[tuple[float, Wrong]]:
        """Rules that make all gradients but for one factor."""
        ours, scales = self.target.named, self.target.scales
        scale = np.concatenate([ours[n].reshape(-1)[at] / scales[n] for n, at in self.chosen.items()])
        wanted = scale + self._sample(self.target.expected)
        for row, wrong in zip(self.rows, self.wrongs):
            made = scale + row
            factor = float(made @ wanted) / max(float(made @ made), 1e-300)
            if np.abs(wanted - factor * made).max(initial=0.0) <= _CLOSE * np.abs(wanted).max(initial=0.0):
                yield factor, wrong

    def wide(self) -> list[Wrong]:
        """Rules that are wrong wherever they are, or in one kind of layer: code that is used again is wrong again."""
        return [wrong for wrong in self.wrongs if _WIDE.search(wrong.variant)]

    def likeliest(self) -> list[Wrong]:
        """The wide ones, those first whose changes are the likest to what differs."""
        wanted = self._sample(self.target.expected)
        alike = {
            id(wrong): float(row @ wanted) / max(float(np.sqrt(row @ row)), 1e-300)
            for row, wrong in zip(self.rows, self.wrongs)
        }
        return sorted(self.wide(), key=lambda wrong: -alike[id(wrong)])


def ready_of(target: Target, name: str) -> int:
    """The step on the way back after which a gradient is finished."""
    return min((target.graph.ready.get(path, 0) for path in target.paths(name)), default=0)
