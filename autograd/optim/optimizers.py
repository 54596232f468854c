"""Optimizers: pure functions on trees of arrays, with a state that is a tree of arrays too.

    optimizer = adamw(warmup_cosine(1e-3, 100, 10_000), weight_decay=0.1, max_norm=1.0)
    state = optimizer.init(params)
    params, state = optimizer.step(params, gradients, state)

The state saved and loaded continues bit for bit. Each optimizer is a list of parts; `parts` has their equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import tree
from ..backend import Array, as_array, refusal, rounded_to, to_host, wide, xp
from ..backend import name as library
from ..modes import mode
from ..tree import Tree
from . import parts
from .clipping import clip_by_global_norm
from .parts import Chosen, Part, every
from .schedules import Schedule

fused: dict[str, Callable[..., tuple[Tree, Tree] | None]] = {}
"""Backend -> a function that computes a whole `step`, or gives None for one that it is not made for; kernels put theirs
here, and the parts remain the definition."""


@dataclass(frozen=True)
class Optimizer:
    """p' = p - learning_rate(count) * u, u being what the `parts`, in order, make of the gradient of p.

    Gradients are clipped together to `max_norm` first. Parameters that `trainable` excludes, or that have no gradient,
    stay as they are, with what the parts remember of them. Dtypes are preserved, float16 computed in float32 and
    rounded once; nothing waits for a device: counts of updates stay on the host.

    The schedule counts all updates. For the parts, which correct averages that began with zeros, a parameter's own
    updates count, those that it had a gradient for, as in PyTorch; with `own_counts=False` all do, as in optax.
    """

    learning_rate: Schedule | float
    parts: tuple[Part, ...] = ()
    max_norm: float | None = None
    trainable: Chosen = every
    own_counts: bool = True

    def __post_init__(self) -> None:
        names = ["count", MISSED, *(name for part in self.parts for name in part.slots)]
        if len(set(names)) < len(names):
            raise ValueError(f"two parts remember under one name: {', '.join(names)}")

    def init(self, params: Tree) -> Tree:
        """The state before the first update: {"count": int64, <slot>: a tree of arrays for the trainable leaves}.

        Once a parameter had no gradient, "missed" is beside them: how many updates it missed, int64 on the host.
        """
        slots: dict[str, dict[str, Array]] = {}
        for path, p in tree.flatten(params).items():
            _usable(p, "parameter", path)
            for part in self.parts:
                if self.trainable(path) and part.only(path):
                    _file(slots, path, {name: xp(p).zeros_like(p) for name in part.slots})
        return {"count": np.zeros((), np.int64), **_nested(slots)}

    def step(self, params: Tree, gradients: Tree, state: Tree) -> tuple[Tree, Tree]:
        """(params, state) after one update; nothing given is changed.

        `gradients` has the structure of `params`, where leaves may be missing or None. Raises `ValueError`, naming the
        path, for a gradient that belongs to no parameter, has another shape or dtype, or has no place in the state.
        """
        libraries = {library(p) for p in {type(p): p for _, p in tree.leaves(params)}.values()}
        whole = fused.get(libraries.pop()) if len(libraries) == 1 and mode() == "fast" else None
        if whole is not None and (made := whole(self, params, gradients, state)) is not None:
            return made
        updates, state = self.updates(params, gradients, state)
        flat = [_added(p, updates[path]) if path in updates else p for path, p in tree.leaves(params)]
        return tree.unflatten_like(params, flat), state

    def fitting(self, params: Tree, gradients: Tree) -> dict[str, Array]:
        """The gradients of the trainable parameters, by path; `ValueError` for one that does not fit its parameter."""
        given = tree.flatten(params)
        found = tree.flatten(gradients)
        for path, g in found.items():
            if path not in given:
                raise ValueError(f"there is a gradient of {path!r}, but no such parameter")
            p = given[path]
            _usable(p, "parameter", path)
            _usable(g, "the gradient of", path)
            if g.shape != p.shape or g.dtype != p.dtype:
                got = f"{g.dtype}{list(g.shape)}"
                raise ValueError(f"the gradient of {path!r} is {got}, but the parameter is {p.dtype}{list(p.shape)}")
        return {path: g for path, g in found.items() if self.trainable(path)}

    def missed(self, params: Tree, given: Mapping[str, Array], state: Tree) -> tuple[dict[str, int], dict[str, Array]]:
        """By path, how many updates a parameter has missed before this one, and all of them after it, as arrays.

        `given` are the gradients by path. Only where the parts count a parameter's own updates.
        """
        before = {path: int(to_host(n)) for path, n in tree.flatten(state.get(MISSED)).items()}
        if not self.own_counts or not any(part.counts for part in self.parts):
            return before, {}
        paths = tree.flatten(params)
        if not before and len(given) == len(paths):
            return {}, {}
        after = {path: before.get(path, 0) + (path not in given) for path in paths if self.trainable(path)}
        return before, {path: np.asarray(n, np.int64) for path, n in after.items() if n}

    def rate(self, count: int) -> float:
        """The learning rate after `count` updates."""
        return self.learning_rate(count) if callable(self.learning_rate) else self.learning_rate

    def updates(self, params: Tree, gradients: Tree, state: Tree) -> tuple[dict[str, Array], Tree]:
        """What `step` adds, by path (to float16 in float32), and the state after it."""
        given = tree.flatten(params)
        flat = self.fitting(params, gradients)
        if self.max_norm is not None:
            flat = clip_by_global_norm(flat, self.max_norm)
        count = int(to_host(state["count"]))
        rate = self.rate(count)
        slots = {name: tree.flatten(kept) for name, kept in state.items() if name not in ("count", MISSED)}
        missed, missed_after = self.missed(given, flat, state)
        updates: dict[str, Array] = {}
        for path, g in flat.items():
            u, p, t = wide(g), wide(given[path]), count + 1 - missed.get(path, 0)
            for part in self.parts:
                if part.only(path):
                    kept = {name: wide(_slot(slots, name, path)) for name in part.slots}
                    u, made = part.rule(u, p, kept, t)
                    for name, array in made.items():
                        slots[name][path] = rounded_to(slots[name][path].dtype, as_array(array))
            updates[path] = as_array(-rate * u)
        made = {name: tree.unflatten_like(state[name], list(arrays.values())) for name, arrays in slots.items()}
        return updates, {"count": np.asarray(count + 1, np.int64), **made, **_nested_missed(missed_after)}


def sgd(
    learning_rate: Schedule | float,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decays: Chosen = every,
    max_norm: float | None = None,
    trainable: Chosen = every,
) -> Optimizer:
    """Stochastic gradient descent: L2 weight decay of the parameters that `decays` chooses, then momentum."""
    chain = _decay(weight_decay, decays)
    if momentum:
        chain = (*chain, parts.momentum(momentum, dampening=dampening, nesterov=nesterov))
    return Optimizer(learning_rate, chain, max_norm, trainable)


def adam(
    learning_rate: Schedule | float,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decays: Chosen = every,
    max_norm: float | None = None,
    trainable: Chosen = every,
    **options: Any,
) -> Optimizer:
    """Adam; weight decay is the gradient of an L2 penalty, before the moments. `options` are those of `adaptive`."""
    chain = (*_decay(weight_decay, decays), parts.adaptive(b1, b2, eps, **options))
    return Optimizer(learning_rate, chain, max_norm, trainable)


def adamw(
    learning_rate: Schedule | float,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    decays: Chosen = every,
    max_norm: float | None = None,
    trainable: Chosen = every,
    **options: Any,
) -> Optimizer:
    """AdamW: Adam, then decoupled weight decay. `options` are those of `adaptive`."""
    chain = (parts.adaptive(b1, b2, eps, **options), *_decay(weight_decay, decays))
    return Optimizer(learning_rate, chain, max_norm, trainable)


def lamb(
    learning_rate: Schedule | float,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    decays: Chosen = every,
    norm_bounds: tuple[float, float] = (0.0, float("inf")),
    max_norm: float | None = None,
    trainable: Chosen = every,
    **options: Any,
) -> Optimizer:
    """LAMB: AdamW's direction, scaled for each parameter by the ratio of norms (You et al. 2020, algorithm 2).

    `norm_bounds` are those of the paper's phi. `options` are those of `adaptive`.
    """
    ratio = parts.trust_ratio(least=norm_bounds[0], most=norm_bounds[1])
    chain = (parts.adaptive(b1, b2, eps, **options), *_decay(weight_decay, decays), ratio)
    return Optimizer(learning_rate, chain, max_norm, trainable)


def _decay(weight_decay: float, decays: Chosen) -> tuple[Part, ...]:
    return (parts.decay(weight_decay, decays),) if weight_decay else ()


MISSED = "missed"
"""Where a state keeps how many updates each parameter had no gradient for."""


def _added(p: Array, update: Array) -> Array:
    return rounded_to(p.dtype, as_array(wide(p) + update))


def _slot(slots: dict[str, dict[str, Array]], name: str, path: str) -> Array:
    """What is remembered of a parameter under a name; `ValueError` when the state lacks it."""
    if path not in slots.get(name, {}):
        raise ValueError(f"the state holds no {name} of {path!r}: it was made by another optimizer, or without it")
    return slots[name][path]


def _nested_missed(missed: dict[str, Array]) -> dict[str, Tree]:
    return {MISSED: tree.unflatten(missed)} if missed else {}


def _usable(array: Array, what: str, path: str) -> None:
    if reason := refusal(array):
        raise ValueError(f"{what} {path!r} {reason}")


def _file(slots: dict[str, dict[str, Array]], path: str, made: dict[str, Array]) -> None:
    for name, array in made.items():
        slots.setdefault(name, {})[path] = as_array(array)


def _nested(slots: dict[str, dict[str, Array]]) -> dict[str, Tree]:
    return {name: tree.unflatten(arrays) for name, arrays in slots.items()}
