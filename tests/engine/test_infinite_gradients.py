"""An infinite gradient, such as the root's at 0, goes where the value came from and nowhere else.

Rules that multiply by a mask give NaN there: 0 times infinity. What is expected was computed by PyTorch 2.13, or
follows from what the docstring says about the elements that are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import kernels, ops, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.core import array_of

INF, NAN = np.inf, np.nan


def pulled(function: Callable[..., Any], cotangent: Any, *arrays: Any) -> list[np.ndarray]:
    _, pull = vjp(function, *arrays)
    return [to_host(g) for g in pull(cotangent)]


SELECTORS: dict[str, Callable[[Any], Any]] = {
    "relu": ops.relu,
    "maximum with a number": lambda x: ops.maximum(x, 0.0),
    "maximum of a number": lambda x: ops.maximum(0.0, x),
    "maximum with an array": lambda x: ops.maximum(x, array_of(x) * 0.0),
    "minimum": lambda x: ops.negative(ops.minimum(ops.negative(x), 0.0)),
    "where": lambda x: ops.where(x > 0, x, 0.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SELECTORS)
def test_the_root_of_what_was_cut_off_has_no_gradient(name: str, dtype: str, xp: ModuleType) -> None:
    """sqrt(relu(x)) at -1, whose root has an infinite slope: 0 in PyTorch and JAX."""
    x = xp.asarray([-1.0, 4.0, 0.25, -3.0], dtype)
    with np.errstate(divide="ignore"):
        _, gradient = value_and_grad(lambda a: ops.sum(ops.sqrt(SELECTORS[name](a))))(x)
    np.testing.assert_array_equal(to_host(gradient), np.array([0.0, 0.25, 1.0, 0.0], dtype))


# function, argument, upstream gradient, expected: rows by PyTorch 2.13 unless they say otherwise
ROWS: dict[str, tuple[Callable[[Any], Any], Any, Any, Any]] = {
    "relu": (ops.relu, [-1.0, 0.0, 2.0], [INF, -INF, INF], [0, 0, INF]),
    "relu of NaN above": (ops.relu, [-1.0, 2.0], [NAN, NAN], [0, NAN]),
    "squared relu": (ops.squared_relu, [-1.0, 0.0, 2.0], [INF, INF, INF], [0, 0, INF]),
    "maximum": (lambda x: ops.maximum(x, 0.5), [0.0, 0.5, 1.0], [INF, INF, INF], [0, INF, INF]),
    "minimum": (lambda x: ops.minimum(x, 0.5), [0.0, 0.5, 1.0], [INF, INF, NAN], [INF, INF, 0]),
    "max along an axis": (lambda x: ops.max(x, axis=1), [[1.0, 3.0], [2.0, 2.0]], [INF, INF], [[0, INF], [INF, INF]]),
    "max of all": (ops.max, [1.0, 3.0, -INF], INF, [0, INF, 0]),
    # not PyTorch's, which multiply by a sign or a mask: where the derivative is 0, nothing comes back
    "absolute": (ops.absolute, [-2.0, 0.0, 2.0], [INF, INF, INF], [-INF, 0, INF]),
    "absolute error": (lambda x: ops.absolute_error(x, array_of(x) * 0.0), [-2.0, 0.0], INF, [-INF, 0]),
    "dropout": (lambda x: ops.dropout(x, rate=0.5, key=0), [0.0] * 6, [INF] * 6, None),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_infinite_gradient_goes_to_what_was_chosen(name: str, xp: ModuleType) -> None:
    function, x, upstream, expected = ROWS[name]
    (gradient,) = pulled(function, xp.asarray(upstream, float), xp.asarray(x, float))
    if expected is None:
        kept = np.random.default_rng(0).random(np.shape(x), np.float32) >= 0.5
        assert 0 < kept.sum() < kept.size
        expected = np.where(kept, INF, 0.0)
    np.testing.assert_array_equal(gradient, expected)


def test_both_sides_of_a_maximum_and_minimum(xp: ModuleType) -> None:
    """As PyTorch 2.13: halves where they tie, all of it for both beside a NaN."""
    x, y = xp.asarray([0.0, 1.0, 2.0, NAN]), xp.asarray([1.0, 1.0, 1.0, 1.0])
    g = xp.asarray([INF, INF, INF, 1.0])
    dx, dy = pulled(ops.maximum, g, x, y)
    np.testing.assert_array_equal((dx, dy), [[0, INF, INF, 1], [INF, INF, 0, 1]])
    dx, dy = pulled(ops.minimum, g, x, y)
    np.testing.assert_array_equal((dx, dy), [[INF, INF, 0, 1], [0, INF, INF, 1]])


def test_dropped_elements_are_zero_whatever_they_hold(xp: ModuleType) -> None:
    out = to_host(ops.dropout(xp.asarray([INF, NAN] * 8), rate=0.5, key=3))
    kept = np.random.default_rng(3).random(16, np.float32) >= 0.5
    np.testing.assert_array_equal(out, np.where(kept, [INF, NAN] * 8, 0.0))


POOLS: dict[str, tuple[Any, dict[str, Any], Any, Any]] = {
    # x (*grid), options, upstream, expected; PyTorch 2.13's max_pool1d and max_pool2d
    "infinite upstream": ([1.0, 3.0, 2.0, 0.0], {"window": (2,), "strides": (2,)}, [INF, INF], [0, INF, INF, 0]),
    "-inf at the edge": (
        [-INF, -INF, 1.0],
        {"window": (3,), "strides": (2,), "padding": ((1, 1),)},
        [2.0, 3.0],
        [2, 0, 3],
    ),
    "-inf everywhere, two axes": (
        [[-INF, -INF], [-INF, -INF]],
        {"window": (2, 2), "strides": (2, 2), "padding": ((1, 1), (1, 1))},
        [[1.0, 2.0], [3.0, 4.0]],
        [[1, 2], [3, 4]],
    ),
    "-inf with a dilated window": (
        [-INF, -INF, -INF],
        {"window": (2,), "strides": (1,), "padding": ((1, 1),), "dilation": (2,)},
        [1.0, 2.0, 4.0],
        [2, 5, 0],
    ),
    "-inf without padding": ([-INF, -INF, -INF], {"window": (2,), "strides": (1,)}, [1.0, 2.0], [1, 2, 0]),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_gives_its_gradient_to_the_winner(name: str, xp: ModuleType) -> None:
    x, options, upstream, expected = POOLS[name]
    options = {"padding": ((0, 0),) * np.ndim(x), **options}
    batched = xp.asarray(x, float)[None, ..., None]
    (gradient,) = pulled(lambda a: ops.max_pool(a, **options), xp.asarray(upstream)[None, ..., None], batched)
    np.testing.assert_array_equal(gradient[0, ..., 0], expected)


@pytest.mark.parametrize("mode", ["fast", "plain"])
@pytest.mark.parametrize("rows", ["zero", "uniform"])
@pytest.mark.parametrize("tiles", ["small_tiles", "whole_tiles", "whole_heads"])
def test_keys_that_a_query_may_not_use_get_nothing_of_its_gradient(
    mode: str, rows: str, tiles: str, xp: ModuleType, request: pytest.FixtureRequest
) -> None:
    """Query 0 uses keys 0 and 1, query 1 the others; masked scores are replaced, so nothing comes back to them."""
    request.getfixturevalue(tiles)
    rng = np.random.default_rng(0)
    q, k, v = (xp.asarray(rng.standard_normal((n, 2))) for n in (2, 4, 4))
    mask = xp.asarray([[True, True, False, False], [False, False, True, True]])
    g = np.zeros((2, 2))
    g[0] = INF
    with kernels(mode), np.errstate(invalid="ignore"):
        _, pull = vjp(lambda a, b: ops.attention(a, b, v, mask=mask, masked_rows=rows), q, k)
        dq, dk = (to_host(gradient) for gradient in pull(xp.asarray(g)))
    np.testing.assert_array_equal(dq[1], 0)
    np.testing.assert_array_equal(dk[2:], 0)
    assert not np.isfinite(dk[:2]).any()


@pytest.mark.parametrize("mode", ["fast", "plain"])
@pytest.mark.parametrize("how", ["mask", "bias"])
@pytest.mark.parametrize("tiles", ["small_tiles", "whole_tiles", "whole_heads"])
def test_a_query_without_keys_gets_and_gives_nothing(
    mode: str, how: str, tiles: str, xp: ModuleType, request: pytest.FixtureRequest
) -> None:
    """Its output is the constant zero: whatever is upstream of it has no effect."""
    request.getfixturevalue(tiles)
    rng = np.random.default_rng(0)
    q, k, v = (xp.asarray(rng.standard_normal((n, 2))) for n in (3, 4, 4))
    mask = np.ones((3, 4), bool)
    mask[1] = False
    bias = () if how == "mask" else (xp.asarray(np.where(mask, 0.0, -INF)),)
    g = rng.standard_normal((3, 2))

    def gradients(row: float) -> list[np.ndarray]:
        g[1] = row
        with kernels(mode):
            options = {"mask": xp.asarray(mask)} if how == "mask" else {}
            return pulled(lambda *a: ops.attention(*a, *bias, **options), xp.asarray(g), q, k, v)

    for spoiled, clean in zip(gradients(INF), gradients(0.0)):
        np.testing.assert_array_equal(spoiled, clean)
