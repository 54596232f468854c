"""Loss scaling: gradients that float16 could not hold, multiplied before the walk back and divided after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import tree
from ..backend import as_array, to_host, wide, xp
from ..tree import Tree
from .averaging import trained


@dataclass(frozen=True)
class Scaled:
    """An optimizer for gradients of `scale` times the loss (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2).

    An update whose gradients are not finite is left out, and the scale halved; it doubles after `after` updates in a
    row. The state is {"scale": float64, "good": int64, "optimizer": ...}, both on the host. Each step waits for the
    device once.
    """

    optimizer: Any
    start: float = 2.0**15
    after: int = 2000
    most: float = 2.0**24

    def __post_init__(self) -> None:
        if not (0 < self.start <= self.most and self.after >= 1):
            raise ValueError(f"a scale starts above 0, at most at {self.most}, and doubles after at least one update")

    def trainable(self, path: str) -> bool:
        """Whether a parameter of this path is trained."""
        return trained(self.optimizer, path)

    def init(self, params: Tree) -> Tree:
        """The state before the first update."""
        inner = self.optimizer.init(params)
        return {"scale": np.asarray(self.start), "good": np.zeros((), np.int64), "optimizer": inner}

    def scale(self, state: Tree) -> float:
        """What the loss is multiplied by."""
        return float(state["scale"])

    def step(self, params: Tree, gradients: Tree, state: Tree) -> tuple[Tree, Tree]:
        """(params, state) after one update from gradients of the scaled loss, or without one where they overflowed."""
        scale, good = self.scale(state), int(state["good"])
        given = [g for _, g in tree.leaves(gradients)]
        if not all(bool(to_host(xp(g).isfinite(g).all())) for g in given):
            halved = np.asarray(max(scale / 2, 2.0**-14))
            return params, {**state, "scale": halved, "good": np.zeros((), np.int64)}
        divided = tree.map(lambda g: as_array(wide(g) / scale).astype(g.dtype, copy=False), gradients)
        params, inner = self.optimizer.step(params, divided, state["optimizer"])
        grown = good + 1 >= self.after
        made = {"scale": np.asarray(min(2 * scale, self.most) if grown else scale)}
        return params, {**made, "good": np.asarray(0 if grown else good + 1, np.int64), "optimizer": inner}
