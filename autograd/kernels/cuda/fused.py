"""Whole updates by one kernel, for CuPy arrays and the optimizers that it computes: Adam, AdamW and LAMB.

The parts remain the definition: the same numbers up to rounding, from a few launches instead of a dozen a parameter.
"""

from __future__ import annotations

import numpy as np

from ... import tree
from ...backend import to_host
from ...optim.optimizers import Optimizer
from ...tree import Tree
from . import optimizer as kernel

SLOTS = ("mean", "square")


def fused_step(optimizer: Optimizer, params: Tree, gradients: Tree, state: Tree) -> tuple[Tree, Tree] | None:
    """What `optimizer.step` returns, or None where no kernel computes it, or something does not fit together."""
    flat = tree.flatten(params)
    chain = kernel.chain([part.kind for part in optimizer.parts])
    every = optimizer.fitting(params, gradients)
    given = {path: g for path, g in every.items() if g.size}
    kept = [tree.flatten(state.get(slot)) for slot in SLOTS]
    if chain is None or not given or any(path not in slot for path in given for slot in kept):
        return None
    if set(state) - {"missed"} != {"count", *SLOTS} or any(len(slot) != len(kept[0]) for slot in kept):
        return None
    leaves = [(flat[path], g, *(slot[path] for slot in kept)) for path, g in given.items()]
    if not kernel.suits(leaves) or not all(_only(optimizer, path) for path in given):
        return None
    count = int(to_host(state["count"]))
    missed, missed_after = optimizer.missed(params, every, state)
    first, *others = {count + 1 - missed.get(path, 0) for path in given}
    if others:  # one launch has one count
        return None
    flags = [_flags(optimizer, path) for path in given]
    rate = float(optimizer.rate(count))
    new = kernel.step(chain, leaves, flags, count=first, rate=rate, max_norm=optimizer.max_norm)
    for path, (p, mean, square) in zip(given, new):
        flat[path], kept[0][path], kept[1][path] = p, mean, square
    made = {slot: tree.unflatten(arrays) for slot, arrays in zip(SLOTS, kept)}
    if missed_after:
        made["missed"] = tree.unflatten(missed_after)
    return tree.unflatten_like(params, list(flat.values())), {"count": np.asarray(count + 1, np.int64), **made}


def _only(optimizer: Optimizer, path: str) -> bool:
    """Whether all parts but decay are for this parameter."""
    return all(part.only(path) for part in optimizer.parts if part.kind is None or part.kind[0] != "decay")


def _flags(optimizer: Optimizer, path: str) -> int:
    """1 where the decay before Adam's direction is for this parameter, plus 2 where the one after it is."""
    flags, bit = 0, 1
    for part in optimizer.parts:
        if part.kind is not None and part.kind[0] == "adaptive":
            bit = 2
        elif part.kind is not None and part.kind[0] == "decay" and part.only(path):
            flags |= bit
    return flags
