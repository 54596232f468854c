"""A moving average of the parameters, which evaluates better than the last ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import tree
from ..backend import as_array, rounded_to, wide
from ..tree import Tree
from .optimizers import Optimizer


@dataclass(frozen=True)
class Averaged:
    """An optimizer that also keeps a moving average of what it trains (Polyak and Juditsky 1992; Perceiver IO's too).

        average' = average + (1 - decay) (p' - average)          average = p before the first update

    The state is {"average": like the trainable parameters, "optimizer": ...}; float16 is averaged in float32 and
    rounded.
    """

    optimizer: Any
    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be from 0 to below 1, got {self.decay}")

    def trainable(self, path: str) -> bool:
        """Whether a parameter of this path is trained."""
        return trained(self.optimizer, path)

    def init(self, params: Tree) -> Tree:
        """The state before the first update."""
        kept = {path: as_array(p.copy()) for path, p in tree.leaves(params) if self.trainable(path)}
        return {"average": tree.unflatten(kept), "optimizer": self.optimizer.init(params)}

    def step(self, params: Tree, gradients: Tree, state: Tree) -> tuple[Tree, Tree]:
        """(params, state) after one update; raises as `Optimizer.step` does."""
        params, inner = self.optimizer.step(params, gradients, state["optimizer"])
        now = tree.flatten(params)
        kept = {
            path: rounded_to(a.dtype, as_array(wide(a) + (1 - self.decay) * (wide(now[path]) - wide(a))))
            for path, a in tree.leaves(state["average"])
        }
        return params, {"average": tree.unflatten(kept), "optimizer": inner}


def trained(optimizer: Any, path: str) -> bool:
    """Whether an optimizer, or what is inside one of several, trains the parameter of this path."""
    while not isinstance(optimizer, Optimizer) and not hasattr(optimizer, "trainable"):
        optimizer = optimizer.optimizer
    return bool(optimizer.trainable(path))
