"""Trees: paths, round trips, and errors that name the place where structures differ."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import tree

keys = st.text("abxyz_", min_size=1, max_size=3)
numbers = st.integers()
trees = st.recursive(
    numbers,
    lambda children: (
        st.dictionaries(keys, children, min_size=1, max_size=3) | st.lists(children, min_size=1, max_size=12)
    ),
    max_leaves=20,
)
trees_with_anything = st.recursive(
    numbers | st.none() | st.text(max_size=2),
    lambda children: (
        st.dictionaries(keys, children, max_size=3)
        | st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
    ),
    max_leaves=20,
)


@given(value=trees)
def test_unflatten_inverts_flatten(value: Any) -> None:
    assert tree.unflatten(tree.flatten(value)) == value


@given(value=trees, order=st.randoms(use_true_random=False))
def test_unflatten_does_not_depend_on_order(value: Any, order: Any) -> None:
    """Files sort names as text, where item 10 comes before item 2."""
    items = list(tree.flatten(value).items())
    order.shuffle(items)
    assert tree.unflatten(dict(items)) == value


@given(value=trees_with_anything)
def test_unflatten_like_inverts_leaves(value: Any) -> None:
    leaves = [leaf for _, leaf in tree.leaves(value)]
    assert tree.unflatten_like(value, leaves) == value


@given(value=trees_with_anything)
def test_map_applies_to_each_leaf_in_order_and_keeps_the_structure(value: Any) -> None:
    seen: list[Any] = []

    def visit(leaf: Any) -> Any:
        seen.append(leaf)
        return leaf

    assert tree.map(visit, value) == value
    assert seen == [leaf for _, leaf in tree.leaves(value)]


@given(value=trees_with_anything)
def test_map_of_two_trees_pairs_leaves(value: Any) -> None:
    pairs: list[bool] = []
    tree.map(lambda a, b: pairs.append(a is b), value, value)
    assert pairs == [True] * len(list(tree.leaves(value)))


def test_paths() -> None:
    value = {"block": [{"w": 1}, {"w": 2, "none": None}], "pair": (3, []), "last": {}}
    assert tree.flatten(value) == {"block/0/w": 1, "block/1/w": 2, "pair/0": 3}
    assert tree.flatten(5) == {"": 5}
    assert tree.flatten(None) == {}


def test_none_stays_none() -> None:
    assert tree.map(lambda leaf: leaf + 1, {"a": None, "b": [None, 1]}) == {"a": None, "b": [None, 2]}


def test_keys_that_are_not_all_indices_stay_a_dict() -> None:
    assert tree.unflatten({"0": 1, "2": 2}) == {"0": 1, "2": 2}
    assert tree.unflatten({"0": 1, "a": 2}) == {"0": 1, "a": 2}
    assert tree.unflatten({"01": 1}) == {"01": 1}
    assert tree.unflatten({}) == {}


def test_map_matches_dicts_by_key() -> None:
    assert tree.map(lambda a, b: (a, b), {"x": 1, "y": 2}, {"y": 20, "x": 10}) == {"x": (1, 10), "y": (2, 20)}


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"a": 1}, {"b": 1}, "trees differ at the root: a dict with keys ['a'] against a dict with keys ['b']"),
        ({"a": [1]}, {"a": [1, 2]}, "trees differ at a: a list of 1 against a list of 2"),
        ({"a": [1]}, {"a": (1,)}, "trees differ at a: a list of 1 against a tuple of 1"),
        ({"a": [{"b": 1}]}, {"a": [5]}, "trees differ at a/0: a dict with keys ['b'] against a leaf"),
        ([1, None], [1, 2], "trees differ at 1: nothing against a leaf"),
    ],
)
def test_different_structures_are_named(one: Any, other: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tree.map(lambda a, b: None, one, other)


def test_a_path_cannot_be_leaf_and_level_at_once() -> None:
    for flat in ({"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}):
        with pytest.raises(ValueError, match="'a' is both a leaf and a level"):
            tree.unflatten(flat)


@pytest.mark.parametrize("count", [1, 3])
def test_unflatten_like_needs_as_many_values_as_leaves(count: int) -> None:
    with pytest.raises(ValueError, match=f"2 leaves, but {count} values"):
        tree.unflatten_like({"a": 1, "b": 2}, [0] * count)


def test_named_tuples_stay_what_they_are() -> None:
    class Pair(NamedTuple):
        first: int
        second: int

    assert tree.map(lambda x: x + 1, Pair(1, 2)) == Pair(2, 3)
