"""The graph: how deep and large it may be, when its memory goes, and how gradients add up in it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perceiver_ref.autograd import Op, Tensor, ops, registry, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.branches import side_by_side
from perceiver_ref.autograd.core import Edge, Node, Slot, Tape, leaf
from perceiver_ref.autograd.gradients import backward, unbroadcast


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free memory: a cycle would stay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def chain(tensor: Tensor, length: int) -> Tensor:
    for _ in range(length):
        tensor = ops.negative(tensor)
    return tensor


def made_op(forward: Any, rule: Any) -> Op:
    """An op that is not in the registry."""
    op = Op(forward)
    op.backward(rule)
    return op


def test_a_chain_of_100_000_ops_differentiates_and_is_freed(no_collector: None, xp: ModuleType) -> None:
    """Deeper than any recursion could go."""
    watched: list[weakref.ref[Any]] = []

    def function(x: Tensor) -> Tensor:
        watched.extend([weakref.ref(x.node), weakref.ref(x)])
        return chain(x, 100_001)

    loss, gradient = value_and_grad(function)(xp.asarray(2.0))
    assert (float(loss), float(gradient)) == (-2.0, -1.0)
    assert [ref() for ref in watched] == [None, None]


def test_a_chain_is_freed_when_dropped(no_collector: None, xp: ModuleType) -> None:
    first = leaf(xp.asarray(1.0), Tape())
    watched = weakref.ref(first.node), weakref.ref(first)
    last = chain(ops.exp(first), 30_000)
    del first
    assert watched[0]() is not None
    del last
    assert [ref() for ref in watched] == [None, None]


def test_a_graph_of_a_million_nodes_is_freed_when_dropped(no_collector: None) -> None:
    """Nodes linked as ops link them; calling an op for each would take the time of all other tests here together."""
    tape = Tape()
    newest = Node(tape, (Slot((), np.float64),))
    watched = weakref.ref(newest)
    for _ in range(1_000_000):
        node = Node(tape, newest.outputs, registry["negative"])
        node.edges = (Edge(0, newest, 0),)
        newest = node
    assert watched() is not None
    del newest, node
    assert watched() is None


def test_a_graph_is_freed_by_the_walk(no_collector: None, xp: ModuleType) -> None:
    """While the output is still held."""
    first = leaf(xp.asarray(1.0), Tape())
    second = ops.exp(first)
    watched = weakref.ref(second.node), weakref.ref(second)
    last = chain(second, 1000)
    del second
    backward([last], [xp.asarray(1.0)], [first])
    assert [ref() for ref in watched] == [None, None]
    assert float(last.data) == np.exp(1)


def test_a_whole_differentiation_leaves_nothing(no_collector: None, xp: ModuleType) -> None:
    seen: list[weakref.ref[Any]] = []

    def function(x: Tensor) -> Any:
        y = ops.exp(x) @ x
        seen.extend(weakref.ref(thing) for thing in (x, x.node, y, y.node, y.node.tape))
        return y

    value_and_grad(function)(xp.ones(3))
    assert [ref() for ref in seen] == [None] * 5


def test_residuals_are_freed_during_the_walk(no_collector: None, xp: ModuleType) -> None:
    """When a node's rule runs, the residuals of all newer nodes are gone, even if their outputs are still held."""
    residuals: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def forward(x: Any) -> Any:
        kept = x + 1
        residuals.append(weakref.ref(kept))
        return x.copy(), (kept,)

    def rule(g: Any, kept: Any) -> Any:
        alive.append(sum(ref() is not None for ref in residuals))
        return g

    op = made_op(forward, rule)
    held: list[Any] = []

    def function(x: Any) -> Any:
        for _ in range(5):
            x = op(x)
            held.append(x)
        return ops.sum(x)

    value_and_grad(function)(xp.ones(2))
    assert alive == [5, 4, 3, 2, 1]


def test_shared_subexpressions_accumulate(xp: ModuleType) -> None:
    """d/dx of (a b + a) with a = x^2, b = a x: every path counts once."""

    def function(x: Tensor) -> Any:
        a = x * x
        b = a * x
        return a * b + a

    _, gradient = value_and_grad(function)(xp.asarray(3.0))
    assert float(gradient) == 5 * 3.0**4 + 2 * 3.0


def test_many_uses_of_one_value_add_up(xp: ModuleType) -> None:
    _, gradient = value_and_grad(lambda x: ops.sum(ops.stack([x] * 1000)))(xp.asarray([1.0, 2.0]))
    np.testing.assert_array_equal(to_host(gradient), [1000, 1000])


def test_a_tensor_twice_in_one_op(xp: ModuleType) -> None:
    """add returns one array as both gradients: adding the second into the first would give 4."""
    _, pull = vjp(lambda x: ops.add(x, x), xp.asarray([1.0, 2.0]))
    np.testing.assert_array_equal(to_host(pull(xp.ones(2))[0]), [2, 2])


def test_accumulation_does_not_write_into_a_gradient_that_another_path_uses(xp: ModuleType) -> None:
    """x and y both get the one array that add returned; x then gets two more contributions."""

    def function(x: Tensor, y: Tensor) -> Any:
        return ops.sum(ops.add(x, y)) + ops.sum(x * 10.0) + ops.sum(x * 100.0)

    _, pull = vjp(function, xp.ones(2), xp.ones(2))
    dx, dy = pull(xp.asarray(1.0))
    np.testing.assert_array_equal(to_host(dx), [111, 111])
    np.testing.assert_array_equal(to_host(dy), [1, 1])


@given(uses=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_random_graphs_of_sums_count_their_paths(uses: list[tuple[int, int]], xp: ModuleType) -> None:
    """In a graph of additions, the gradient is the number of paths."""
    paths = [1]

    def function(x: Tensor) -> Any:
        values = [x]
        for i, j in uses:
            i, j = i % len(values), j % len(values)
            values.append(values[i] + values[j])
            paths.append(paths[i] + paths[j])
        return values[-1]

    _, gradient = value_and_grad(function)(xp.asarray(1.0))
    assert float(gradient) == paths[-1]


def test_a_second_walk_is_refused(xp: ModuleType) -> None:
    _, pull = vjp(ops.exp, xp.ones(2))
    pull(xp.ones(2))
    with pytest.raises(RuntimeError, match="the graph through exp was already walked back; compute the output again"):
        pull(xp.ones(2))


def test_a_rule_with_too_few_gradients_is_an_error(xp: ModuleType) -> None:
    op = made_op(lambda x, y: (x + y, ()), lambda g: (g,))
    op.name = "half"
    with pytest.raises(ValueError, match="backward of half gave argument 2 no gradient, not even None"):
        value_and_grad(lambda x: op(x, x))(xp.asarray(1.0))


@pytest.mark.parametrize(
    ("wrong", "came"),
    [
        (lambda g: g.astype("float32"), r"float32\[2, 3\]"),
        (lambda g: g[:, :2], "no matching shape"),
        (lambda g: g[0, 0], "no matching shape"),
    ],
)
def test_a_gradient_of_wrong_shape_or_dtype_is_an_error(wrong: Any, came: str, xp: ModuleType) -> None:
    op = made_op(lambda x: (x + 1, ()), wrong)
    op.name = "odd"
    with pytest.raises(ValueError, match=rf"odd gave argument 1 a gradient of {came}; expected float64\[2, 3\]"):
        value_and_grad(lambda x: ops.sum(op(x)))(xp.ones((2, 3)))


def test_rules_are_told_what_is_needed(xp: ModuleType) -> None:
    told: list[Any] = []

    def forward(x: Any, y: Any, *, needs: tuple[bool, ...] = ()) -> Any:
        told.append(needs)
        return x + y, ()

    def rule(g: Any, needs: tuple[bool, ...]) -> Any:
        told.append(needs)
        return g, None

    op = made_op(forward, rule)
    value_and_grad(lambda x: op(x, xp.asarray(1.0)))(xp.asarray(1.0))
    op(xp.asarray(1.0), xp.asarray(1.0))
    assert told == [(True, False), (True, False), (False, False)]


@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=1, base_shape=(2, 3, 1), min_side=0, max_side=3, max_dims=4),
    layout=st.sampled_from(["C", "F"]),
)
def test_unbroadcast_sums_what_broadcasting_repeated(shapes: Any, layout: str, xp: ModuleType) -> None:
    (shape,), result = shapes
    values = np.arange(float(np.prod(result))).reshape(result).copy(layout)
    want = np.zeros(shape)
    positions = np.broadcast_to(np.arange(want.size).reshape(shape), result)
    np.add.at(want.reshape(-1), positions.ravel(), values.ravel())
    np.testing.assert_array_equal(to_host(unbroadcast(xp.asarray(values), shape)), want, strict=True)


@pytest.mark.parametrize("rows", [511, 512, 513, 1025])
def test_unbroadcast_of_many_rows(rows: int, xp: ModuleType) -> None:
    """Around the size of the blocks in which rows are summed."""
    values = np.random.default_rng(0).integers(-9, 9, (rows, 3)).astype(float)
    np.testing.assert_array_equal(to_host(unbroadcast(xp.asarray(values), (3,))), values.sum(0))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 2, 3), (4, 1)])
def test_unbroadcast_refuses_shapes_that_do_not_broadcast(shape: tuple[int, ...], xp: ModuleType) -> None:
    assert unbroadcast(xp.ones((2, 1)), shape) is None


def test_nodes_are_ordered_by_age() -> None:
    tape = Tape()
    assert Node(tape, ()).serial < Node(tape, ()).serial


def test_calls_side_by_side_run_in_order() -> None:
    """On a CPU, and on a GPU outside a recording: one after the other, what each records included."""
    order: list[int] = []

    def call(i: int) -> int:
        order.append(i)
        return 10 * i

    assert side_by_side(*(lambda i=i: call(i) for i in range(3))) == [0, 10, 20]
    assert order == [0, 1, 2]
    assert side_by_side() == []
