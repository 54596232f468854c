"""What one call of a model needs besides its inputs and parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..autograd.ops.dropout import Key
from ..autograd.tree import Tree


@dataclass
class Call:
    """Training or not, random key, running statistics in and out.

    `state` holds running statistics in the structure of `Module.state`; a call with `training` leaves the updated ones
    in `updates`. `key` names the stream of random numbers for what training draws.
    """

    training: bool = False
    state: Tree = None
    key: Key | None = None
    updates: dict[str, Any] = field(default_factory=dict)

    def at(self, name: str) -> Call:
        """The part of this call that concerns the submodule `name`."""
        state = None if self.state is None else self.state.get(name)
        key = self.key
        if key is not None:
            key = (*(key if isinstance(key, tuple) else (key,)), *name.encode())
        return Call(self.training, state, key, self.updates.setdefault(name, {}))
