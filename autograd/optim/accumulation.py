"""One update from the gradients of several batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import tree
from ..backend import to_host, xp
from ..tree import Tree
from .optimizers import Optimizer


@dataclass(frozen=True)
class Accumulated:
    """Every `batches` calls of `step` make one update of `optimizer`, from the mean of their gradients.

    With losses that are means over batches of one size, that is the gradient of all of them together. The calls between
    return the parameters as they are. A batch without a gradient of a parameter adds zero to it; where all of them have
    none, the update has none.
    """

    optimizer: Optimizer
    batches: int

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ValueError(f"batches must be at least 1, got {self.batches}")

    def init(self, params: Tree) -> Tree:
        """The state before the first batch: {"batch": int64, "sum": like the trainable params, "optimizer": ...}.

        "without" is beside them while parameters had no gradient in any batch so far: an int64 1 for each of those.
        """
        zeros = {
            path: xp(p).zeros_like(p) for path, p in tree.flatten(params).items() if self.optimizer.trainable(path)
        }
        return {"batch": np.zeros((), np.int64), "sum": tree.unflatten(zeros), "optimizer": self.optimizer.init(params)}

    def step(self, params: Tree, gradients: Tree, state: Tree) -> tuple[Tree, Tree]:
        """(params, state) after one batch; raises as `Optimizer.step` does."""
        given = self.optimizer.fitting(params, gradients)
        total = {path: s + given[path] if path in given else s for path, s in tree.leaves(state.get("sum", {}))}
        before, inner = int(to_host(state["batch"])), state["optimizer"]
        without = set(tree.flatten(state.get("without"))) if before else set(total)
        without -= set(given)
        if before + 1 == self.batches:
            mean = {path: s / self.batches for path, s in total.items() if path not in without}
            params, inner = self.optimizer.step(params, mean, inner)
            total, without = {path: xp(s).zeros_like(s) for path, s in total.items()}, set()
        count = np.asarray((before + 1) % self.batches, np.int64)
        made = {"batch": count, "sum": tree.unflatten(total), "optimizer": inner}
        if without:
            made["without"] = tree.unflatten({path: np.ones((), np.int64) for path in total if path in without})
        return params, made
