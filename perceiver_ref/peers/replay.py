"""Running an optimizer over recorded gradients, for the peers that are optimizers.

A case holds the parameters at the start and the gradients of every step; two layouts of names are in use:

    input/p0, input/grad_p0 (steps, ...)            ->  output/p0_after (steps, ...), output/p0_state.<slot>
    param/<name>, input/grads/<name> (steps, ...)   ->  output/params/<name> and output/updates/<name> (steps, ...)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..autograd import tree
from ..autograd.backend import xp
from ..autograd.core import array_of
from ..autograd.optim import Optimizer, clip_by_global_norm, global_norm
from ..autograd.tree import Tree
from ..errors import InputError
from ..models.constraints import Count
from ..models.module import Module, Parameter, zeros

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Named(Module):
    """Arrays of these shapes by name, as a model."""

    shapes: tuple[tuple[str, tuple[Count, ...]], ...]

    def parameters(self) -> Tree:
        return {name: Parameter(tuple(shape), zeros) for name, shape in self.shapes}


@dataclass(frozen=True)
class Recording:
    """Parameters at the start, and the gradients of each step."""

    params: Arrays
    gradients: list[Arrays]

    def norms(self) -> Any:
        """The global norm of each step's gradients, (steps,)."""
        norms = [global_norm(gradients) for gradients in self.gradients]
        library = xp(norms[0])
        return library.stack([library.asarray(norm) for norm in norms])

    def clipped(self, max_norm: float, *, eps: float) -> Recording:
        """The same with each step's gradients clipped."""
        return Recording(self.params, [clip_by_global_norm(step, max_norm, eps=eps) for step in self.gradients])

    def scaled(self, factor: float) -> Recording:
        """The same with all gradients multiplied."""
        return Recording(self.params, [{name: factor * g for name, g in step.items()} for step in self.gradients])


def recording(params: Mapping[str, Any], arguments: Mapping[str, Any], prefix: str) -> Recording:
    """The parameters, and for each the argument `prefix` + name with the gradients of all steps."""
    params = {name: array_of(p) for name, p in params.items()}
    stacked: Arrays = {}
    for name, p in params.items():
        if prefix + name not in arguments:
            raise InputError(f"the argument {prefix + name} is missing: the gradients of {name}, one a step")
        g = stacked[name] = array_of(arguments[prefix + name])
        if g.ndim == 0 or g.shape[1:] != p.shape or not len(g):
            raise InputError(f"{prefix}{name} must be (steps, *{p.shape}), got {g.shape}")
    if not stacked or len({len(g) for g in stacked.values()}) > 1:
        raise InputError("every parameter needs gradients for the same number of steps")
    steps = len(next(iter(stacked.values())))
    return Recording(params, [{name: g[step] for name, g in stacked.items()} for step in range(steps)])


def replay(optimizer: Optimizer, recorded: Recording) -> tuple[Arrays, Arrays, dict[str, Arrays]]:
    """(parameters after each step, what each step added, both (steps, ...); the last state: slot -> name -> array)."""
    params, state = recorded.params, optimizer.init(recorded.params)
    after: dict[str, list[Any]] = {name: [] for name in params}
    added: dict[str, list[Any]] = {name: [] for name in params}
    for gradients in recorded.gradients:
        updates, state = optimizer.updates(params, gradients, state)
        params = {name: p + updates[name] for name, p in params.items()}
        for name, p in params.items():
            after[name].append(p)
            added[name].append(updates[name])
    slots = {slot: tree.flatten(arrays) for slot, arrays in state.items()}
    return _stacked(after), _stacked(added), slots


def _stacked(steps: dict[str, list[Any]]) -> Arrays:
    return {name: xp(arrays[0]).stack([xp(a).asarray(a) for a in arrays]) for name, arrays in steps.items()}
