"""Nested dicts and lists of arrays ("trees"): map over them, and name each leaf by its path.

A path joins the keys with `/`, so that `{"block": [{"w": a}]}` has one leaf, `block/0/w`. Everything that is
not a dict, list or tuple is a leaf; `None` is an empty tree, so an absent parameter is simply not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Tree = Any
"""A leaf, None, or a dict, list or tuple of trees."""


def leaves(tree: Tree) -> Iterator[tuple[str, Any]]:
    """The leaves in order, each with its path: dicts in their own order, lists by index."""
    yield from _walk(tree, "")


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves as one flat dict, path -> leaf."""
    return dict(leaves(tree))


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
    count = sum(1 for _ in leaves(tree))
    if count != len(values):
        raise ValueError(f"the tree has {count} leaves, but {len(values)} values were given")
    remaining = iter(values)
    return map(lambda _: next(remaining), tree)


def map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """`function` of each leaf (and of the leaves of `others` at the same path), in the same structure.

    Raises `ValueError` naming the path where a structure differs.
    """
    return _map(function, "", tree, *others)


def _walk(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    if tree is None:
        return
    if not isinstance(tree, (dict, list, tuple)):
        yield path, tree
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in items:
        yield from _walk(child, _join(path, key))


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _map(function: Callable[..., Any], path: str, tree: Tree, *others: Tree) -> Tree:
    for other in others:
        if _shape(other) != _shape(tree):
            raise ValueError(f"trees differ at {path or 'the root'}: {_shape(tree)} against {_shape(other)}")
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {k: _map(function, _join(path, k), v, *(o[k] for o in others)) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        children = [_map(function, _join(path, i), *column) for i, column in enumerate(zip(tree, *others))]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)  # named tuples
    return function(tree, *others)


def _shape(tree: Tree) -> str:
    if isinstance(tree, dict):
        return f"a dict with keys {sorted(tree)}"
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
