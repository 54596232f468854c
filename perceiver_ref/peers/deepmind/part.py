"""What the tables of one rebuilt module are, and how its configuration is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...autograd.core import array_of
from ...errors import InputError
from ...models.module import Module
from ..base import Rebuilt
from ..base import options as known_options
from ..names import Table, bind
from .names import SEPARATOR, state_bindings

IGNORED = frozenset(["init_scale", "w_init", "b_init", "name"])


@dataclass(frozen=True)
class NamedPart:
    """A module of ours in place of one of theirs.

    `table` names its parameters, `state` its running statistics, `points` its trace points (theirs, ours). `grids` are
    our points for the grids of positions that it builds, in DeepMind's order, and `layers` its attention layers.
    """

    model: Any
    table: Table = field(default_factory=dict)
    points: Sequence[tuple[str, str]] = ()
    grids: Sequence[str] = ()
    layers: Sequence[str] = ()
    state: Table = field(default_factory=dict)


def rebuilt(model: Module, table: Table, run: Any, part: NamedPart, *, grids: bool = True) -> Rebuilt:
    """Ready to run: `table` and `part` hold the names."""
    rows = list(part.points)
    rows += [(f"linear_positions/{k}", name) for k, name in enumerate(part.grids)] if grids else []
    rows += [(f"attention_weights/{k:02d}", f"{name}.softmax|{name}.weights") for k, name in enumerate(part.layers)]
    state = state_bindings(model.state(), part.state) if part.state else []
    rows = [(re.escape(theirs), ours) for theirs, ours in rows]
    return Rebuilt(model, bind(model.parameters(), table, SEPARATOR), run, rows, state)


def options(what: str, given: Mapping[str, Any] | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """As `peers.base.options`; what only initialises parameters is ignored."""
    return known_options(what, given or {}, known, IGNORED)


def component(given: Any, what: str, extra: frozenset[str] = frozenset()) -> tuple[str, dict[str, Any]]:
    """(class, kwargs) of a configuration {"class": ..., "kwargs": {...}}."""
    if not isinstance(given, Mapping) or "class" not in given:
        raise InputError(f"{what} must be given as {{'class': ..., 'kwargs': {{...}}}}, got {given!r}")
    known_options(what, given, {"class": None, "kwargs": None}, extra)
    return str(given["class"]).rpartition(".")[2], dict(given.get("kwargs") or {})


def mask(array: Any) -> Any:
    """A mask as ours: any number but 0 means "attend"."""
    return None if array is None else array_of(array) != 0


def flags(what: str, given: Mapping[str, Any], **known: Any) -> dict[str, Any]:
    """The options of a call; texts that say where latents or queries come from are notes."""
    return known_options(f"a call of {what}", given, {"is_training": False, **known}, frozenset(["query", "latents"]))


def no_dropout(what: str, rate: float, training: bool) -> None:
    """Raise `InputError` when a call would drop out at random."""
    if training and rate:
        raise InputError(f"{what} with dropout_prob {rate} is random in training; the reference has it only at 0")
