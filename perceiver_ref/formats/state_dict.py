"""Finding the state dict in a checkpoint, which may hold it bare, or with an epoch, optimizer states and more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import InputError, listed
from .opcodes import shown

_LEVELS = 3


def find_state_dict(path: object, content: Any, is_array: Callable[[Any], bool]) -> tuple[dict[str, Any], list[str]]:
    """(arrays by name, notes): the dict of arrays at the top of `content`, or else the only one below it.

    Lightning keeps it under "state_dict", many scripts under "model". Lists are not searched: optimizers keep their
    states in them. Raises `InputError`, saying what there is, for none and for several.
    """
    found = _search(content, is_array, ())
    if not found:
        raise InputError(f"{path} holds no state dict, a dict of tensors by name; it holds {_described(content)}")
    if len(found) > 1:
        names = ", ".join(repr(shown(".".join(where))) for where in list(found)[:8])
        raise InputError(
            f"{path} holds {len(found)} state dicts, {names}; save the one that is meant alone: "
            f"torch.save(torch.load(path)[{shown(next(iter(found))[-1])!r}], new_path)"
        )
    ((_, arrays),) = found.items()
    notes = []
    chosen = {name: value for name, value in arrays.items() if is_array(value)}
    if others := [str(name) for name in arrays if name not in chosen]:
        notes.append(f"{path}: left out what are no tensors: {listed(map(shown, others))}")
    return chosen, notes


def _search(content: Any, is_array: Callable[[Any], bool], where: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    """Dicts with an array directly in them, by the keys that lead there; the outermost only."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content) or len(where) == _LEVELS:
        return {}
    if any(is_array(value) for value in content.values()):
        return {where: content}
    found: dict[tuple[str, ...], Any] = {}
    for key, child in content.items():
        found |= _search(child, is_array, (*where, key))
    return found


def _described(content: Any) -> str:
    if isinstance(content, dict):
        rows = (f"{shown(key, 40)} ({type(value).__name__})" for key, value in content.items())
        return listed(rows) or "an empty dict"
    return f"a {type(content).__name__}"
