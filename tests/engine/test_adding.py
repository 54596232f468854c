"""Rules that add to gradients which have arrived before: what they are given, and whose memory that is."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import Op, Tensor, ops, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.core import Added, Sum
from perceiver_ref.autograd.observing import NonFiniteError, detect_nonfinite

GIVEN: list[Any] = []


def scaled() -> Op:
    """2 x + 3 y, whose rule adds in the memory that is its own."""

    def rule(g: Any, onto: tuple[Sum | None, ...] = (None, None)) -> Any:
        GIVEN.append(onto)
        made = []
        for factor, there in zip((2, 3), onto):
            if there is None:
                made.append(factor * g)
            elif there.own:
                there.array[...] += factor * g
                made.append(there.array)
            else:
                made.append(there.array + factor * g)
        return Added(made)

    op = Op(lambda x, y: (2 * x + 3 * y, ()))
    op.backward(rule)
    op.name = "scaled"
    return op


@pytest.fixture(autouse=True)
def nothing_given() -> None:
    GIVEN.clear()


def test_what_arrived_is_handed_on(xp: ModuleType) -> None:
    """x is used by add, which lends its one gradient to both, and then, going back, by two rules that add."""
    op = scaled()
    one = xp.asarray([1.0, 1.0])

    def function(x: Tensor, y: Tensor) -> Any:
        return ops.add(x, ops.add(y, ops.add(op(x, one), op(x, one))))

    _, pull = vjp(function, xp.zeros(2), xp.zeros(2))
    dx, dy = pull(xp.asarray([1.0, 10.0]))
    np.testing.assert_array_equal(to_host(dx), [5, 50])
    np.testing.assert_array_equal(to_host(dy), [1, 10])  # which the sum of x's has not been written into
    assert [onto[0].own for onto in GIVEN] == [False, True]
    assert [onto[1] for onto in GIVEN] == [None, None]


def test_a_tensor_in_two_places_is_added_once(xp: ModuleType) -> None:
    op = scaled()
    _, pull = vjp(lambda x: ops.add(x, op(x, x)), xp.zeros(2))
    np.testing.assert_array_equal(to_host(pull(xp.asarray([1.0, 10.0]))[0]), [6, 60])
    assert GIVEN[0][0] is not None
    assert GIVEN[0][1] is None


def test_a_rule_may_leave_the_adding(xp: ModuleType) -> None:
    """Where it returns anything but `Added`, as the definition's rules do."""
    op = Op(lambda x: (2 * x, ()))
    op.backward(lambda g, onto=(): (2 * g,))
    _, pull = vjp(lambda x: ops.add(ops.add(x, op(x)), op(x)), xp.zeros(2))
    np.testing.assert_array_equal(to_host(pull(xp.asarray([1.0, 10.0]))[0]), [5, 50])


@given(uses=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_random_graphs(uses: list[tuple[bool, int, int]], xp: ModuleType) -> None:
    """With rules that add and rules that do not: the slope of a linear function, worked out on the way there."""
    op = scaled()
    slopes = [1]

    def function(x: Tensor) -> Any:
        values = [x]
        for adds, i, j in uses:
            i, j = i % len(values), j % len(values)
            values.append(op(values[i], values[j]) if adds else ops.add(values[i], values[j]))
            slopes.append(2 * slopes[i] + 3 * slopes[j] if adds else slopes[i] + slopes[j])
        return values[-1]

    _, gradient = value_and_grad(function)(xp.asarray(1.0))
    assert float(gradient) == slopes[-1]


def test_sums_of_float16_are_left_to_the_engine(xp: ModuleType) -> None:
    """A rule computes in float32; what has arrived is of float16."""
    op = scaled()
    _, pull = vjp(lambda x: ops.add(x, op(x, x)), xp.zeros(2, np.float16))
    (dx,) = pull(xp.asarray([1.0, 10.0], np.float16))
    assert dx.dtype == np.float16
    np.testing.assert_array_equal(to_host(dx), [6, 60])
    assert GIVEN == [(None, None)]


def test_gradients_are_still_looked_at(xp: ModuleType) -> None:
    op = scaled()
    with detect_nonfinite():
        _, pull = vjp(lambda x: ops.add(x, op(x, x)), xp.asarray([1.0]))
    with np.errstate(over="ignore"), pytest.raises(NonFiniteError, match="backward of scaled produced an infinity"):
        pull(xp.asarray([1e308]))
