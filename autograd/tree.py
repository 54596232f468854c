"""Nested dicts and lists of arrays ("trees"): map over them, and name each leaf by its path.

A path joins the keys with `/`, so that `{"block": [{"w": a}]}` has one leaf, `block/0/w`. A key that contains `/`
stands for levels, so that a flat dict of paths has the paths of the tree that it came from; two leaves of one path are
refused wherever leaves go by their paths. Everything that is not a dict, list or tuple is a leaf; `None` is an empty
tree, so an absent parameter is simply not there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Tree = Any
"""A leaf, None, or a dict, list or tuple of trees."""


def leaves(tree: Tree) -> Iterator[tuple[str, Any]]:
    """The leaves in order, each with its path: dicts in their own order, lists by index."""
    found: list[tuple[str, Any]] = []
    if isinstance(tree, _LEVELS):
        _collect(tree, "", found)
    elif tree is not None:
        found.append(("", tree))
    return iter(found)


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves as one flat dict, path -> leaf.

    Raises `ValueError` where two leaves have one path, as in {"a/b": 1, "a": {"b": 2}}.

    >>> flatten({"block": [{"weight": 1}, {"weight": 2}]})
    {'block/0/weight': 1, 'block/1/weight': 2}
    """
    found = list(leaves(tree))
    flat = dict(found)
    if len(flat) < len(found):
        twice = next(path for i, (path, _) in enumerate(found) if any(path == other for other, _ in found[:i]))
        raise ValueError(f"two leaves of a tree have the path {twice!r}; rename one of their keys")
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`, with lists where all of a level's keys are 0 to n - 1, in whatever order.

    Raises `ValueError` when a path is that of a leaf and of a level. Leaves may not be dicts.
    """
    if list(flat) == [""]:
        return flat[""]
    root: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = root
        for depth, key in enumerate(parents, 1):
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{'/'.join(parents[:depth])!r} is both a leaf and a level")
        if last in node:
            raise ValueError(f"{path!r} is both a leaf and a level")
        node[last] = leaf
    return _listed(root)


def unflatten_like(tree: Tree, values: Sequence[Any]) -> Tree:
    """A tree of the structure of `tree` with these leaves, in the order of `leaves`.

    Raises `ValueError` when there are more or fewer values than leaves.
    """
    remaining = iter(values)
    try:
        made = _filled(tree, remaining) if isinstance(tree, _LEVELS) or tree is None else next(remaining)
        if next(remaining, remaining) is remaining:
            return made
    except StopIteration:
        pass
    raise ValueError(f"the tree has {_count(tree)} leaves, but {len(values)} values were given")


def map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """`function` of each leaf (and of the leaves of `others` at the same path), in the same structure.

    Raises `ValueError` naming the path where a structure differs.

    >>> map(lambda p, g: p - g, {"w": 5, "b": [1]}, {"w": 2, "b": [1]})
    {'w': 3, 'b': [0]}
    """
    if others:
        _check_alike("", tree, *others)
    return _map(function, tree, *others)


_LEVELS = (dict, list, tuple)


def _collect(tree: Tree, path: str, found: list[tuple[str, Any]]) -> None:
    for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
        below = f"{path}/{key}" if path else str(key)
        if isinstance(child, _LEVELS):
            _collect(child, below, found)
        elif child is not None:
            found.append((below, child))


def _filled(tree: Tree, values: Iterator[Any]) -> Tree:
    """The structure of a level, or None, with the next values as leaves."""
    if isinstance(tree, dict):
        made = {k: _filled(v, values) if v is None or isinstance(v, _LEVELS) else next(values) for k, v in tree.items()}
        return made if type(tree) is dict else _of_kind(tree, made)
    if tree is None:
        return None
    children = [_filled(v, values) if v is None or isinstance(v, _LEVELS) else next(values) for v in tree]
    return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)  # named tuples


def _count(tree: Tree) -> int:
    if not isinstance(tree, _LEVELS):
        return int(tree is not None)
    children = tree.values() if isinstance(tree, dict) else tree
    return sum([_count(c) if isinstance(c, _LEVELS) else c is not None for c in children])


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    if isinstance(tree, dict):
        if others:
            made = {k: _map(function, v, *[o[k] for o in others]) for k, v in tree.items()}
        else:
            made = {
                k: _map(function, v) if v is None or isinstance(v, _LEVELS) else function(v) for k, v in tree.items()
            }
        return made if type(tree) is dict else _of_kind(tree, made)
    if isinstance(tree, (list, tuple)):
        children = [_map(function, *column) for column in zip(tree, *others)]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)  # named tuples
    return None if tree is None else function(tree, *others)


def _of_kind(like: dict[Any, Tree], items: dict[Any, Tree]) -> Tree:
    """A dict of a class such as `OrderedDict` or `defaultdict`, with other values under the same keys."""
    made = copy.copy(like)
    for key, value in items.items():
        made[key] = value
    return made


def _check_alike(path: str, tree: Tree, *others: Tree) -> None:
    """`ValueError` where a tree has another structure than the first."""
    for other in others:
        if _kind(other) != _kind(tree):
            raise ValueError(f"trees differ at {path or 'the root'}: {_shape(tree)} against {_shape(other)}")
    if isinstance(tree, dict):
        for key, child in tree.items():
            _check_alike(_join(path, key), child, *[other[key] for other in others])
    elif isinstance(tree, (list, tuple)):
        for i, column in enumerate(zip(tree, *others)):
            _check_alike(_join(path, i), *column)


def _kind(tree: Tree) -> Any:
    if isinstance(tree, dict):
        return tree.keys()
    if isinstance(tree, (list, tuple)):
        return type(tree).__name__, len(tree)
    return tree is None


def _shape(tree: Tree) -> str:
    if isinstance(tree, dict):
        return f"a dict with keys {sorted(tree, key=str)}"
    if isinstance(tree, (list, tuple)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return "nothing" if tree is None else "a leaf"


def _listed(node: Any) -> Tree:
    if not isinstance(node, dict):
        return node
    children = {key: _listed(child) for key, child in node.items()}
    indices = [str(i) for i in range(len(children))]
    if children and set(children) == set(indices):  # names sorted as text have 10 before 2
        return [children[i] for i in indices]
    return children
