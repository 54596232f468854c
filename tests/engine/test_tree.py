"""Trees: paths, round trips, and errors that name the place where structures differ."""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import ops, optim, tree, value_and_grad

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


def test_classes_of_dicts_stay_with_their_order() -> None:
    """And what a class keeps beside its items, such as a default."""

    class Own(dict[str, int]):
        pass

    ordered = OrderedDict([("b", 1), ("a", OrderedDict(c=2))])
    for mapped in (
        tree.map(lambda x: x + 1, ordered),
        tree.map(lambda x, y: x + y - 1, ordered, {"a": {"c": 2}, "b": 2}),
        tree.unflatten_like(ordered, [2, 3]),
    ):
        assert type(mapped) is type(mapped["a"]) is OrderedDict
        assert list(mapped.items()) == [("b", mapped["b"]), ("a", {"c": 3})]
        assert list(ordered.values()) == [1, {"c": 2}]
    counted = tree.map(lambda x: x + 1, defaultdict(int, x=1))
    assert (type(counted), counted["x"], counted["new"]) == (defaultdict, 2, 0)
    assert type(tree.map(lambda x: x, Own(x=1))) is Own


def test_gradients_come_in_the_class_of_the_parameters() -> None:
    params = OrderedDict(w=np.ones(2), b=np.zeros(2))
    _, gradients = value_and_grad(lambda p: ops.sum(ops.multiply(p["w"], p["b"])))(params)
    assert (type(gradients), list(gradients)) == (OrderedDict, ["w", "b"])


COLLIDING: dict[str, tuple[Any, str]] = {
    "a level": ({"a/b": 1, "a": {"b": 2}}, "a/b"),
    "a level first": ({"a": {"b": 2}, "a/b": 1}, "a/b"),
    "an index": ({"a/0": 1, "a": [2]}, "a/0"),
    "deeper": ({"x": {"a": {"b/c": 1}, "a/b": {"c": 2}}}, "x/a/b/c"),
    "a number and its text": ({1: 1, "1": 2}, "1"),
    "an empty key": ({"": {"a": 1}, "a": 2}, "a"),
}


@pytest.mark.parametrize("name", COLLIDING)
def test_two_leaves_of_one_path_are_refused_where_leaves_go_by_path(name: str) -> None:
    """A dict by path would lose one, and an optimizer gave both the gradient of the other."""
    value, path = COLLIDING[name]
    arrays = tree.map(lambda x: np.full(2, float(x)), value)
    message = re.escape(f"two leaves of a tree have the path {path!r}; rename one of their keys")
    optimizer = optim.adam(0.1)
    state = optimizer.init({"other": np.ones(2)})
    accumulated = optim.Accumulated(optimizer, 2)
    for use in (
        lambda: tree.flatten(value),
        lambda: optimizer.init(arrays),
        lambda: optimizer.step(arrays, arrays, state),
        lambda: optimizer.step({"a": np.ones(2)}, arrays, state),
        lambda: optim.sgd(0.1).step(arrays, arrays, {"count": np.zeros((), np.int64)}),
        lambda: accumulated.init(arrays),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    # by order nothing is lost
    _, gradients = value_and_grad(lambda p: sum_of(p))(arrays)
    assert [g.tolist() for _, g in tree.leaves(gradients)] == [[1, 1], [2, 2]]


def sum_of(values: Any) -> Any:
    first, second = (leaf for _, leaf in tree.leaves(values))
    return ops.add(ops.sum(first), ops.multiply(2.0, ops.sum(second)))


def test_a_flat_dict_of_paths_is_stepped_as_the_tree_it_came_from() -> None:
    """Names of other libraries contain "/", too."""
    params = {"encoder/~/layer": {"w": np.ones(2), "b": np.zeros(2)}, "c": np.ones(1)}
    gradients = {"encoder/~/layer": {"w": np.full(2, 2.0), "b": np.full(2, 3.0)}, "c": np.ones(1)}
    optimizer = optim.sgd(0.1, momentum=0.9)
    after, state = optimizer.step(params, gradients, optimizer.init(params))
    flat, flat_state = optimizer.step(tree.flatten(params), tree.flatten(gradients), optimizer.init(params))
    assert after.keys() == params.keys()
    assert list(flat) == ["encoder/~/layer/w", "encoder/~/layer/b", "c"]
    for path, p in tree.leaves(after):
        np.testing.assert_array_equal(p, flat[path])
    np.testing.assert_array_equal(after["encoder/~/layer"]["b"], 0.1 * np.full(2, -3.0))
    np.testing.assert_array_equal(*(tree.flatten(s)["momentum/encoder/~/layer/w"] for s in (state, flat_state)))


def test_named_tuples_stay_what_they_are() -> None:
    class Pair(NamedTuple):
        first: int
        second: int

    assert tree.map(lambda x: x + 1, Pair(1, 2)) == Pair(2, 3)
