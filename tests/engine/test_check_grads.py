"""`check_grads` finds every planted error in a backward rule, and never accuses a right one.

The ops here are private: they are not in the registry, so that nothing else meets them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import Op, ops, registry
from perceiver_ref.autograd.testing import check_grads


def product(x: Any, y: Any) -> Any:
    """x @ y for square matrices."""
    return x @ y, (x, y)


def product_rule(g: Any, x: Any, y: Any) -> Any:
    return g @ y.T, x.T @ g


def planted(rule: Callable[..., Any], forward: Callable[..., Any] = product) -> Op:
    """An op with this backward rule."""
    op = Op(forward)
    op.backward(rule)
    return op


def spoiled(spoil: Callable[[Any, Any], Any]) -> Op:
    """The matrix product with its pair of gradients changed by `spoil`."""
    return planted(lambda g, x, y: spoil(*product_rule(g, x, y)))


def squares(xp: ModuleType, count: int = 2, side: int = 4) -> list[Any]:
    rng = np.random.default_rng(0)
    return [xp.asarray(rng.standard_normal((side, side))) for _ in range(count)]


def add_to_one(array: Any, amount: float) -> Any:
    changed = array.copy()
    changed[(0,) * array.ndim] += amount
    return changed


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda dx, dy: (dx * 1.001, dy), id="factor 1.001"),
        pytest.param(lambda dx, dy: (dx, dy * 1000), id="factor 1000"),
        pytest.param(lambda dx, dy: (-dx, dy), id="sign"),
        pytest.param(lambda dx, dy: (dx, dy.T), id="transposed"),
        pytest.param(lambda dx, dy: (dx[::-1], dy), id="rows in reverse"),
        pytest.param(lambda dx, dy: (dy, dx), id="swapped arguments"),
        pytest.param(lambda dx, dy: (dx, None), id="missing"),
        pytest.param(lambda dx, dy: (None, None), id="both missing"),
        pytest.param(lambda dx, dy: (dx * 0, dy), id="zero"),
        pytest.param(lambda dx, dy: (dx * float("nan"), dy), id="NaN"),
        pytest.param(lambda dx, dy: (dx, dy + 1e-3), id="constant"),
    ],
)
def test_a_wrong_gradient_is_caught(spoil: Callable[[Any, Any], Any], xp: ModuleType) -> None:
    check_grads(planted(product_rule), *squares(xp))
    with pytest.raises(AssertionError, match=r"gradient gives .*, differences give"):
        check_grads(spoiled(spoil), *squares(xp))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda dx, dy: (dx.astype("float32"), dy), "float32", id="wrong dtype"),
        pytest.param(lambda dx, dy: (dx, dy[:2]), "no matching shape", id="wrong shape"),
        pytest.param(lambda dx, dy: (dx,), "argument 2 no gradient", id="not even None"),
    ],
)
def test_a_gradient_that_does_not_fit_is_caught(spoil: Callable[[Any, Any], Any], message: str, xp: ModuleType) -> None:
    """By the engine, before any comparison."""
    with pytest.raises(ValueError, match=message):
        check_grads(spoiled(spoil), *squares(xp))


def test_summing_over_the_wrong_axis_is_caught(xp: ModuleType) -> None:
    """x (3, 3) + y (3,): the sum over the other axis has the same shape."""
    wrong = planted(lambda g: (g, g.sum(1)), lambda x, y: (x + y, ()))
    right = planted(lambda g: (g, g.sum(0)), lambda x, y: (x + y, ()))
    arguments = xp.ones((3, 3)), xp.ones(3)
    check_grads(right, *arguments)
    with pytest.raises(AssertionError, match="gradient gives"):
        check_grads(wrong, *arguments)


def test_taking_one_row_instead_of_summing_is_caught(xp: ModuleType) -> None:
    wrong = planted(lambda g: (g, g[:1]), lambda x, y: (x + y, ()))
    with pytest.raises(AssertionError, match="gradient gives"):
        check_grads(wrong, xp.ones((3, 3)), xp.ones((1, 3)))


@pytest.mark.parametrize("seed", range(20))
def test_a_constant_in_one_element_of_a_large_gradient_is_caught(seed: int, xp: ModuleType) -> None:
    """Whatever directions are drawn: 1600 elements of size 1, one of them off by 0.1."""
    wrong = spoiled(lambda dx, dy: (add_to_one(dx, 0.1), dy))
    with pytest.raises(AssertionError, match="gradient gives"):
        check_grads(wrong, *squares(xp, side=40), seed=seed)


@pytest.mark.parametrize("factor", [0.99, -1.0, 0.0, 2.0])
def test_a_small_gradient_cannot_hide_behind_a_large_one(factor: float, xp: ModuleType) -> None:
    """The gradient of y is 1e-8 of that of x; together their errors would be below the tolerance."""

    def rule(g: Any) -> Any:
        return g * 1e6, g * 1e-2 * factor

    def forward(x: Any, y: Any) -> Any:
        return 1e6 * x + 1e-2 * y, ()

    large, small = squares(xp)
    check_grads(planted(lambda g: (g * 1e6, g * 1e-2), forward), large * 1e-6, small)
    with pytest.raises(AssertionError, match="argument 1"):
        check_grads(planted(rule, forward), large * 1e-6, small)


def test_one_wrong_output_of_several_is_caught(xp: ModuleType) -> None:
    def forward(x: Any) -> Any:
        return (x * 2, x * 3), ()

    check_grads(planted(lambda g: g[0] * 2 + g[1] * 3, forward), *squares(xp, 1))
    with pytest.raises(AssertionError, match="gradient gives"):
        check_grads(planted(lambda g: g[0] * 3 + g[1] * 2, forward), *squares(xp, 1))


def test_a_wrong_leaf_of_a_tree_is_named(xp: ModuleType) -> None:
    wrong = spoiled(lambda dx, dy: (dx, dy * 1.001))
    x, y = squares(xp)
    y = y * 1e4  # makes the gradient of x large, so that all arguments together are within the tolerance
    with pytest.raises(AssertionError, match=r"^argument 0/block/1: gradient gives"):
        check_grads(lambda p: wrong(p["block"][0], p["block"][1]), {"block": [x, y]})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_coarse_dtypes_are_refused(dtype: Any, xp: ModuleType) -> None:
    with pytest.raises(TypeError, match="check_grads needs float64 arrays; argument 1/b is not"):
        check_grads(lambda x, p: ops.sum(x), xp.ones(2), {"b": xp.ones(2, dtype)})


def test_integers_are_left_alone(xp: ModuleType) -> None:
    check_grads(lambda x, ids: ops.take(x, ids), xp.ones((3, 2)), xp.asarray([0, 0, 2]))


def test_arguments_are_not_changed(xp: ModuleType) -> None:
    x, y = squares(xp)
    before = x.copy(), y.copy()
    check_grads(planted(product_rule), x, y)
    assert bool((x == before[0]).all())
    assert bool((y == before[1]).all())


@given(
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e3, 1e6]),
    shift=st.sampled_from([0.0, 1.0, 1e6]),
    side=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_right_gradients_are_never_accused(scale: float, shift: float, side: int, seed: int, xp: ModuleType) -> None:
    """Over twelve orders of magnitude, and with an output whose rounding hides a small slope."""
    rng = np.random.default_rng(seed)
    x, y = (xp.asarray(rng.standard_normal((side, side))) for _ in range(2))

    def forward(x: Any, y: Any) -> Any:
        return scale * (x @ y) + y + shift, (x, y)

    def rule(g: Any, x: Any, y: Any) -> Any:
        return scale * (g @ y.T), scale * (x.T @ g) + g

    check_grads(planted(rule, forward), x, y, seed=seed)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 3))
def test_right_gradients_of_curved_functions_are_never_accused(seed: int, scale: float, xp: ModuleType) -> None:
    x = xp.asarray(scale * np.random.default_rng(seed).standard_normal((3, 4)))
    check_grads(lambda a: ops.softmax(ops.exp(ops.sin(a)) @ ops.transpose(ops.tanh(a))), x, seed=seed)


def test_arguments_and_single_elements_are_moved_alone(xp: ModuleType) -> None:
    """Else errors could cancel in the sum over a direction."""
    x, y = squares(xp)
    moved: set[tuple[int, int]] = set()

    def function(a: Any, b: Any) -> Any:
        if not hasattr(a, "node"):
            moved.add((int((a != x).sum()), int((b != y).sum())))
        return ops.matmul(a, b)

    check_grads(function, x, y)
    assert moved == {(16, 16), (16, 0), (0, 16), (1, 0), (0, 1)}


def test_planted_ops_are_private() -> None:
    planted(product_rule)
    assert "product" not in registry


@pytest.mark.parametrize("factor", [1.0, 1.00001])
def test_a_steep_function_takes_a_smaller_step(xp: ModuleType, factor: float) -> None:
    """sin(2000 x): differences over the first step are off by 2e-4 of its slope, which is more than is allowed."""

    def rule(g: Any, x: Any) -> Any:
        return g * (factor * 2000 * xp.cos(2000 * x))

    wave = planted(rule, lambda x: (xp.sin(2000 * x), (x,)))
    (x, *_) = squares(xp)
    if factor == 1:
        check_grads(wave, x)
    else:
        with pytest.raises(AssertionError, match="gradient gives"):
            check_grads(wave, x)
