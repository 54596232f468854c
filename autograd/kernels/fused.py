"""Whole updates by a kernel of a backend, for the optimizers that it computes: Adam, AdamW and, on GPUs, LAMB.

The parts remain the definition, from a dozen calls for each parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from .. import tree
from ..backend import Array, to_host
from ..optim.optimizers import Optimizer
from ..optim.parts import every as all_parameters
from ..tree import Tree

SLOTS = ("mean", "square")

Constants = Mapping[str, Any]


class Chain(NamedTuple):
    """The constants of an optimizer that the kernel computes: L2 decay, Adam's direction, decay, ratio of norms."""

    before: Constants | None
    adaptive: Constants
    after: Constants | None
    ratio: Constants | None


def chain(kinds: Sequence[tuple[str, Constants] | None]) -> Chain | None:
    """The chain that parts of these kinds, in order, make; None where the kernel is not made for it."""
    found: list[Constants | None] = []
    rest = list(kinds)
    for name in ("decay", "adaptive", "decay", "trust_ratio"):
        taken = rest.pop(0)[1] if rest and rest[0] is not None and rest[0][0] == name else None  # type: ignore[index]
        if name == "adaptive" and (taken is None or taken["amsgrad"]):
            return None
        found.append(taken)
    before, adaptive, after, ratio = found
    return None if rest or adaptive is None else Chain(before, adaptive, after, ratio)


class Kernel(Protocol):
    """The module of a kernel."""

    def suits(self, given: Chain, leaves: Sequence[Sequence[Array]], counts: Sequence[int]) -> bool:
        """Whether it is made for these constants, (p, g, mean, square) and numbers of updates."""

    def step(
        self,
        given: Chain,
        leaves: Sequence[Sequence[Array]],
        flags: Sequence[int],
        *,
        counts: Sequence[int],
        rate: float,
        max_norm: float | None,
    ) -> list[tuple[Array, Array, Array]]:
        """New (p, mean, square) for each (p, g, mean, square) after its update number, from 1, in `counts`.

        `flags` are 1 where the decay before the moments is for a parameter, plus 2 where the one after them is.
        """


def fused(kernel: Kernel) -> Callable[[Optimizer, Tree, Tree, Tree], tuple[Tree, Tree] | None]:
    """What computes `optimizer.step` by this kernel: None where it does not, or something does not fit together."""

    def step(optimizer: Optimizer, params: Tree, gradients: Tree, state: Tree) -> tuple[Tree, Tree] | None:
        constants = chain([part.kind for part in optimizer.parts])
        if constants is None or set(state) - {"missed"} != {"count", *SLOTS}:
            return None
        flat, every = tree.flatten(params), optimizer.fitting(params, gradients)
        given = {path: g for path, g in every.items() if g.size}
        mean, square = kept = [tree.flatten(state[slot]) for slot in SLOTS]
        if not given or len(mean) != len(square) or not given.keys() <= mean.keys() & square.keys():
            return None
        leaves = [(flat[path], g, mean[path], square[path]) for path, g in given.items()]
        count = int(to_host(state["count"]))
        missed, missed_after = optimizer.missed(params, every, state)
        counts = [count + 1 - missed.get(path, 0) for path in given] if missed else [count + 1] * len(given)
        if not kernel.suits(constants, leaves, counts) or not all(_only(optimizer, path) for path in given):
            return None
        flags, rate = [_flags(optimizer, path) for path in given], float(optimizer.rate(count))
        new = kernel.step(constants, leaves, flags, counts=counts, rate=rate, max_norm=optimizer.max_norm)
        for path, (p, m, v) in zip(given, new):
            flat[path], mean[path], square[path] = p, m, v
        made = {slot: tree.unflatten_like(state[slot], list(arrays.values())) for slot, arrays in zip(SLOTS, kept)}
        if missed_after:
            made["missed"] = tree.unflatten(missed_after)
        return tree.unflatten_like(params, list(flat.values())), {"count": np.asarray(count + 1, np.int64), **made}

    return step


def _only(optimizer: Optimizer, path: str) -> bool:
    """Whether all parts but decay are for this parameter."""
    for part in optimizer.parts:
        if part.only is not all_parameters and not part.only(path) and (part.kind is None or part.kind[0] != "decay"):
            return False
    return True


def _flags(optimizer: Optimizer, path: str) -> int:
    """1 where the decay before Adam's direction is for this parameter, plus 2 where the one after it is."""
    flags, bit = 0, 1
    for part in optimizer.parts:
        if part.kind is not None and part.kind[0] == "adaptive":
            bit = 2
        elif part.kind is not None and part.kind[0] == "decay" and part.only(path):
            flags |= bit
    return flags
