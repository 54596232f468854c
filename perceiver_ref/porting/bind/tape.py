"""One run of the reference written down op by op, to compute any of its values again with other parameters.

Only what depends on parameters is on the tape: everything else a run computes is kept as it was. A value is computed
again from the ops that lie between it and what is known already.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...autograd import ops, value_and_grad
from ...autograd.core import Op, Tensor, array_of
from ...autograd.handlers import handle
from ...models.tracing import trace

_KEPT = 20_000
"""Values of candidates that are kept before all of them are forgotten."""


Chosen = Mapping[str, tuple[Hashable, np.ndarray]]
"""For a parameter that is tried, a key that is equal for equal values, and its values."""


@dataclass
class Entry:
    """An op as it ran: for its arguments the place of a value on the tape, a parameter, or a plain value."""

    op: Op
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    needs: frozenset[str]
    """Paths of the parameters that its result depends on."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Made:
    """The result of an op, by its place and the number of its output."""

    place: int
    output: int


@dataclass(frozen=True)
class _Param:
    path: str


@dataclass
class Tape:
    """The ops of a run, and what came out of it by name."""

    entries: list[Entry] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    points: dict[str, Any] = field(default_factory=dict)
    """Named intermediate values, likewise."""
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    """Parameters that are known."""
    _memo: dict[tuple[int, Hashable], Any] = field(default_factory=dict)

    def again(self) -> Tape:
        """The same ops, of which no parameter is known."""
        return Tape(self.entries, self.outputs, self.points)

    def fix(self, values: Mapping[str, np.ndarray]) -> None:
        """Parameters are known from here on."""
        self.fixed.update(values)
        self._memo = {
            key: value
            for key, value in self._memo.items()
            if not key[1] and not self.entries[key[0]].needs & values.keys()
        }

    def free(self, place: int) -> frozenset[str]:
        """The parameters that an op's result depends on and that are not known."""
        return frozenset(path for path in self.entries[place].needs if path not in self.fixed)

    def value(self, place: int, chosen: Chosen) -> Any:
        """The result of the op at `place`, with (a key, the array) for each parameter that is not known."""
        done: dict[int, Any] = {}
        todo = [place]
        while todo:
            at = todo[-1]
            if at in done:
                todo.pop()
                continue
            key = self._key(at, chosen)
            if key in self._memo:
                done[at] = self._memo[key]
                todo.pop()
                continue
            entry = self.entries[at]
            missing = [i for i in places_of(entry.arguments) if i not in done]
            if missing:
                todo += missing
                continue
            arguments = filled(entry.arguments, done, self.fixed, chosen)
            with np.errstate(all="ignore"):
                done[at] = entry.op(*arguments, **entry.options)
            if len(self._memo) > _KEPT:
                self._memo.clear()
            self._memo[key] = done[at]
            todo.pop()
        return done[place]

    def _key(self, place: int, chosen: Chosen) -> tuple[int, Hashable]:
        needs = self.entries[place].needs
        return (place, tuple([(p, chosen[p][0]) for p in sorted(needs) if p in chosen]))

    def at(self, ref: Any, chosen: Chosen) -> Any:
        """What one of `outputs` or `points` stands for."""
        if isinstance(ref, _Made):
            value = self.value(ref.place, chosen)
            return value[ref.output] if isinstance(value, tuple) else value
        return ref


def record(params: Mapping[str, np.ndarray], compute: Callable[[dict[str, Any]], dict[str, Any]]) -> Tape:
    """Run `compute(parameters by path)`, which gives outputs by name, and write its ops down."""
    tape = Tape()
    known: dict[int, Any] = {}
    kept: list[Any] = []  # so that identities stay their own

    def watch(op: Op, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        out = op(*arguments, **options)
        stored = _stored(arguments, known)
        options = {key: array_of(value) for key, value in options.items()}
        places = places_of(stored)
        needs = frozenset().union(*(tape.entries[i].needs for i in places)) | frozenset(_paths(stored))
        if not needs:
            return out
        first = array_of(_outputs(out)[0])
        tape.entries.append(Entry(op, stored, options, needs, getattr(first, "shape", ())))
        for i, part in enumerate(_outputs(out)):
            name(part, _Made(len(tape.entries) - 1, i))
        return out

    def name(value: Any, stands: Any) -> None:
        """Its array, too: what a model takes without its gradient hangs on parameters all the same."""
        for own in (value, array_of(value)):
            known[id(own)] = stands
            kept.append(own)

    def forward(variables: dict[str, Any]) -> Any:
        for path, tensor in variables.items():
            name(tensor, _Param(path))
        with handle(watch), trace(tensors=True) as traced:
            outputs = compute(dict(variables))
        for named, into in ((outputs, tape.outputs), (traced, tape.points)):
            for key, value in named.items():
                into[key] = known.get(id(value), array_of(value))
        # any tensor: of a result that hangs on nothing the engine would ask for a second run
        return (ops.sum(next(iter(variables.values()))) if variables else np.zeros(())), None

    value_and_grad(forward, has_aux=True)(dict(params))
    return tape


def _outputs(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def _stored(value: Any, known: Mapping[int, Any]) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_stored(part, known) for part in value)
    if isinstance(value, np.ndarray) or type(value) is Tensor:
        return known.get(id(value), array_of(value))
    return value


def places_of(value: Any) -> list[int]:
    """The ops whose results are among arguments."""
    if isinstance(value, tuple):
        return [place for part in value for place in places_of(part)]
    return [value.place] if isinstance(value, _Made) else []


def _paths(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [path for part in value for path in _paths(part)]
    return [value.path] if isinstance(value, _Param) else []


def filled(
    value: Any, done: Mapping[int, Any] | Sequence[Any], fixed: Mapping[str, Any], chosen: Mapping[str, Any]
) -> Any:
    """An argument with values in place of what stands for them: results of ops, known parameters, others."""
    if isinstance(value, tuple):
        return tuple(filled(part, done, fixed, chosen) for part in value)
    if isinstance(value, _Made):
        made = done[value.place]
        return made[value.output] if isinstance(made, tuple) else made
    if isinstance(value, _Param):
        return chosen[value.path][1] if value.path in chosen else fixed[value.path]
    return value


def argument_paths(entry: Entry) -> list[str]:
    """The parameters that are arguments of the op itself, in order."""
    return _paths(entry.arguments)


def is_made(argument: Any) -> bool:
    """Whether an argument is the result of an op of the tape."""
    return isinstance(argument, _Made)


def made_by(argument: Any) -> tuple[int, int]:
    """The place of the op that makes an argument, and the number of its result."""
    return argument.place, argument.output
