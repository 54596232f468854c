"""Finding the weights in a checkpoint, which may hold them bare, or beside an epoch, optimizer states and more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InputError, listed
from .foreign import Foreign, first_foreign, unreadable
from .opcodes import shown

KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "weights", "params"),
    *("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "params_ema", "ema"),
    "image_proj",
)
"""Where checkpoints keep their weights, by preference: Lightning under the first, many scripts under the next, image
adapters, beside layers of a diffusion model, under the last."""
HERE = "."
"""The key that means the outermost level of a file."""
_LEVELS = 3
_BESIDE = ("optim", "sched", "rng", "callback", "scaler")
"""What is in the names of entries that may hold arrays and are no weights."""
_TREES = ("params", "state", "_params", "_state")
"""Haiku's parameters and state, which are read together; with underscores where jaxline keeps them."""
_SHOWN = 40  # characters of a key, in messages
_LISTED = 4

Where = tuple[str, ...]
Is = Callable[[Any], bool]


@dataclass(frozen=True)
class Found:
    """A file's arrays by name, and notes for the user; `foreign.unreadable` stands for each that cannot be read."""

    arrays: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def find_state_dict(path: object, content: Any, is_array: Is, is_weight: Is, key: str | None = None) -> Found:
    """The dict of arrays that is meant, with the placeholders in it.

    It is searched under `key`, in which dots lead from one key to the next and "." means the outermost level; without
    one, under the first of `KEYS` that holds arrays. Else it is the only dict of arrays, where an outer one whose
    fewer weights (`is_weight`: not a step or an accuracy) lie beside an inner one does not count. Lists are not
    searched: optimizers keep their states in them. Raises `InputError`, saying what there is, for none and for several.
    """
    start, below = ((), content) if key is None else _under(path, content, key)
    places = {where: part for where, part in _places(content) if any(map(is_array, _named(part)))}
    weights = {where: sum(map(is_weight, _named(part))) for where, part in places.items()}
    inside = [where for where in places if where[: len(start)] == start]
    if not inside:
        place = "" if key is None else f" under {key!r}"
        expected = "; expected what torch.save(model.state_dict(), path) writes" if first_foreign(below) else ""
        raise InputError(
            f"{path} holds no state dict{place}, a dict of tensors by name; it holds {_described(below)}{expected}"
        )
    chosen = start if key is not None and start in places else _preferred(path, start, weights, set(inside))
    arrays, left = {}, []
    for name, value in places[chosen].items():
        if isinstance(name, str) and (is_array(value) or isinstance(value, Foreign)):
            arrays[name] = unreadable(value) if isinstance(value, Foreign) else value
        else:
            left.append("an unusual key" if isinstance(name, Foreign) else shown(name))
    notes = []
    if others := [*_others(places, chosen, is_array)]:
        taken = "the outermost level" if not chosen else repr(_written(chosen))
        notes.append(f"{path}: took the weights of {taken}; it also holds {listed(others, _LISTED)} (--key chooses)")
    if left:
        notes.append(f"{path}: left out what are no tensors: {listed(left)}")
    return Found(arrays, notes)


def find_tree(path: object, content: Any, key: str | None = None) -> Found:
    """The arrays of a tree of modules, by path, with the placeholders in it; of parameters and state, both.

    `key` is as in `find_state_dict`. Raises `InputError` for what is no tree of arrays.
    """
    notes: list[str] = []
    parts = [content if key is None else _under(path, content, key)[1]]
    while key is None and (inner := _parameters(parts[0])) is not None:
        outer, parts = parts[0], list(inner.values())
        if others := [repr(shown(name, _SHOWN)) for name in outer if name not in inner]:
            taken = " and ".join(map(repr, inner))
            notes.append(
                f"{path}: took the weights of {taken}; it also holds {listed(others, _LISTED)} (--key chooses)"
            )
        if len(parts) > 1:
            break
    leaves: dict[str, Any] = {}
    for part in parts:
        for name, value in _leaves(part):
            if name in leaves:
                raise InputError(f"{path}: the name {shown(name)!r} is there twice")
            leaves[name] = value
    wrong = next((v for v in leaves.values() if not isinstance(v, (np.ndarray, Foreign))), None)
    if wrong is not None or not any(isinstance(v, np.ndarray) for v in leaves.values()):
        foreign = first_foreign(parts)
        holds = f"; it holds {foreign.why}" if foreign else ""
        raise InputError(f"{path}: expected a Haiku parameter tree, arrays by module and name{holds}")
    return Found({n: unreadable(v) if isinstance(v, Foreign) else v for n, v in leaves.items()}, notes)


def _parameters(content: Any) -> dict[str, Any] | None:
    """Parameters and state, or what alone holds them; None where `content` is itself the tree of modules."""
    if not isinstance(content, dict):
        return None
    trees = {name: content[name] for name in _TREES if _modules(content.get(name))}
    if trees and not {"params", "_params"}.isdisjoint(trees):
        return trees
    if content and set(content) <= set(_TREES):
        return content
    holding = {name: part for name, part in content.items() if _parameters(part)}
    return holding if len(holding) == 1 else None


def _modules(part: Any) -> bool:
    """Whether this is a dict of dicts, as a tree of modules is, and not one module."""
    return isinstance(part, dict) and all(isinstance(inner, dict) for inner in part.values())


def _leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of dicts and lists, each with the keys that lead to it, joined with "/"; None is no leaf."""
    if isinstance(part, dict):
        children = [(key.why if isinstance(key, Foreign) else str(key), child) for key, child in part.items()]
    elif isinstance(part, (list, tuple)):
        children = [(str(i), child) for i, child in enumerate(part)]
    else:
        if part is not None:
            yield path, part
        return
    for key, child in children:
        yield from _leaves(child, f"{path}/{key}" if path else key)


def _places(content: Any, where: Where = ()) -> Iterator[tuple[Where, dict[Any, Any]]]:
    """Every dict that keys of text lead to, outer ones first."""
    if isinstance(content, dict) and len(where) < _LEVELS:
        yield where, content
        for key, child in content.items():
            if isinstance(key, str):
                yield from _places(child, (*where, key))


def _named(part: dict[Any, Any]) -> Iterator[Any]:
    return (value for name, value in part.items() if isinstance(name, str))


def _preferred(path: object, where: Where, weights: dict[Where, int], inside: set[Where]) -> Where:
    """Which of the dicts of arrays from `where` on is meant; see `find_state_dict`."""
    depth = len(where)
    below: dict[str, list[Where]] = {}
    for place in inside:
        if place[:depth] == where and len(place) > depth:
            below.setdefault(place[depth], []).append(place)
    for key in KEYS:
        if key in below:
            return _preferred(path, (*where, key), weights, inside)
    likely = {key: places for key, places in below.items() if not any(word in key.lower() for word in _BESIDE)}
    if where in inside and weights[where] >= max((weights[p] for ps in likely.values() for p in ps), default=0):
        return where
    likely = likely or below
    if len(likely) > 1:
        places = sorted(place for ps in likely.values() for place in ps)
        names = listed((repr(_written(place)) for place in places), _LISTED)
        raise InputError(f"{path} holds {len(places)} state dicts, {names}; choose one (--key)")
    return _preferred(path, (*where, next(iter(likely))), weights, inside)


def _others(places: dict[Where, dict[Any, Any]], chosen: Where, is_array: Is) -> Iterator[str]:
    """What else has arrays: other dicts by their keys, and arrays beside the chosen dict by their names."""
    for where, part in places.items():
        if where == chosen[: len(where)] and where != chosen:
            yield from (_written((*where, n)) for n, v in part.items() if isinstance(n, str) and is_array(v))
        elif where[: len(chosen)] != chosen:
            yield _written(where)


def _under(path: object, content: Any, key: str) -> tuple[Where, Any]:
    """Where a key leads, and to what."""

    def walk(part: Any, rest: str) -> tuple[Where, Any] | None:
        for name in part if isinstance(part, dict) else ():
            if name == rest:
                return (name,), part[name]
            inside = isinstance(name, str) and rest.startswith(f"{name}.")
            if inside and (found := walk(part[name], rest[len(name) + 1 :])):
                return (name, *found[0]), found[1]
        return None

    if key == HERE:
        return (), content
    found = walk(content, key)
    if found is None:
        raise InputError(f"{path} has no key {shown(key)!r}; it holds {_described(content)}")
    return found


def _written(where: Where) -> str:
    return ".".join(shown(key, _SHOWN) for key in where) or HERE


def _described(content: Any) -> str:
    if isinstance(content, Foreign):
        return content.why
    if isinstance(content, dict):
        rows = (f"{_key(key)} ({_kind(value)})" for key, value in content.items())
        return listed(rows, _LISTED) or "an empty dict"
    foreign = first_foreign(content)
    return f"a {type(content).__name__}{f' of {foreign.why}' if foreign else ''}"


def _key(key: Any) -> str:
    return key.why if isinstance(key, Foreign) else shown(key, _SHOWN)


def _kind(value: Any) -> str:
    return value.why if isinstance(value, Foreign) else type(value).__name__
