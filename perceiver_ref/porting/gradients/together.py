"""Two wrong rules that are at work in every wrong gradient, as where all layers have the same weights.

What each changes alone is taken to add up: of all pairs the sums that come nearest to the difference are tried first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from .backward import Wrong, scaled
from .target import Target

_ELEMENTS = 512
"""So many elements stand for all"""
_PAIRS = 400
"""So many pairs are tried."""


class Together:
    """`add` what each rule gives alone, and `likeliest` are the pairs to be tried."""

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
        if not np.isfinite(row).all() or not row.any():
            return
        if wrong.cause:
            self.wrongs.append(wrong)
            self.rows.append(row)
            return
        self.wrongs += [
            replace(wrong, cause="gradient-stopped"),
            replace(wrong, cause="gradient-sign", changes=scaled(wrong.places, -1.0)),
        ]
        self.rows += [row, 2 * row]

    def likeliest(self) -> Iterator[tuple[Wrong, Wrong]]:
        """Pairs, those first whose sum leaves least."""
        if len(self.rows) < 2:
            return
        rows = np.stack(self.rows)
        wanted = self._sample(self.target.expected)
        own = (rows * (rows - 2 * wanted)).sum(-1)
        left = own[:, None] + own + 2 * rows @ rows.T
        left[np.tril_indices(len(rows))] = np.inf
        count = min(_PAIRS, left.size - 1)
        flat = left.reshape(-1)
        best = np.argpartition(flat, count)[:count]
        for k in best[np.argsort(flat[best])]:
            i, j = divmod(int(k), len(rows))
            if np.isfinite(flat[k]):
                yield self.wrongs[i], self.wrongs[j]


def ready_of(target: Target, name: str) -> int:
    """The step on the way back after which a gradient is finished."""
    return min((target.graph.ready.get(path, 0) for path in target.paths(name)), default=0)
