"""Sums over any axes, in any layout and kernels mode: as near as a sum in float64 that is rounded once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.examples import LAYOUTS, place
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perceiver_ref.autograd import kernels, ops, optim, sums, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.models.call import Call
from perceiver_ref.models.layers import BatchNorm

NEAR = 4 * 2.0**-24
"""A few roundings of float32, relative to the sum of magnitudes. A running sum of the cases below loses 20 and more."""
TENTH = float(np.float32(0.1))
both_modes = pytest.mark.parametrize("mode", ["plain", "fast"])
any_layout = pytest.mark.parametrize("layout", LAYOUTS)
LONG: list[tuple[tuple[int, ...], Any]] = [
    ((2, 20_000, 3), 1),
    ((2, 20_000, 3), (0, 1)),
    ((20_000, 2), 0),
    ((300, 400), 0),
    ((3, 20_000), -1),
    ((3, 20_000), None),
    ((2, 3, 100, 70), (0, 2, 3)),
    ((100, 2, 70, 3), (0, 2)),
    ((90, 80, 2, 3), (1, 0)),
]
any_sum = pytest.mark.parametrize(("shape", "axis"), LONG, ids=str)


def tenths(xp: ModuleType, shape: tuple[int, ...], layout: str = "rows") -> Any:
    """Numbers whose running sum is rounded in the same direction for long."""
    return place(xp, np.full(shape, 0.1), np.float32, layout)


def off(made: Any, exact: Any) -> float:
    return float((abs(to_host(made).astype(float) - exact) / abs(np.asarray(exact, float))).max())


@both_modes
@any_layout
@any_sum
def test_reductions_are_as_near_as_float64(xp: ModuleType, shape: Any, axis: Any, layout: str, mode: str) -> None:
    x = tenths(xp, shape, layout)
    exact = np.full(shape, TENTH)
    count = exact.sum(axis) / TENTH
    with kernels(mode):
        assert off(ops.sum(x, axis=axis), count * TENTH) < NEAR
        assert off(ops.mean(x, axis=axis, keepdims=True), TENTH) < NEAR
        # log n + 0.1: the error of the sum is absolute there, beside the result's own rounding
        assert off(ops.logsumexp(x, axis=axis), np.log(count) + TENTH) < NEAR


@both_modes
@any_layout
@pytest.mark.parametrize("shape", [(20_000, 2), (2, 20_000), (300, 300)])
@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_adds_up(xp: ModuleType, shape: Any, axis: int, layout: str, mode: str) -> None:
    """A softmax in which one element has weight 0.9 and the others, that are alike, the rest."""
    n = shape[axis]
    x = np.zeros(shape)
    np.moveaxis(x, axis, 0)[0] = float(np.float32(np.log(9.0 * (n - 1) / n * 1.1)))
    x = place(xp, x, np.float32, layout)
    wide = to_host(x).astype(float)
    exact = np.exp(wide) / np.exp(wide).sum(axis, keepdims=True)
    with kernels(mode):
        assert off(ops.softmax(x, axis=axis), exact) < 4 * NEAR  # with those of exp and of the quotient
        assert abs(to_host(ops.log_softmax(x, axis=axis)) - np.log(exact)).max() < 4 * NEAR * 12  # near -12


@both_modes
@any_layout
@pytest.mark.parametrize(
    ("shape", "other"), [((20_000, 2), (2,)), ((2, 20_000, 3), (2, 1, 3)), ((100, 90, 3), (3,)), ((30_000,), ())]
)
def test_gradients_of_what_was_broadcast(xp: ModuleType, shape: Any, other: Any, layout: str, mode: str) -> None:
    with kernels(mode):
        _, pull = vjp(ops.add, xp.zeros(shape, np.float32), xp.zeros(other, np.float32))
        gradient = pull(tenths(xp, shape, layout))[1]
    assert off(gradient, TENTH * np.prod(shape) / max(np.prod(other), 1)) < NEAR


def _bias(xp: ModuleType, g: Any) -> tuple[Any, ...]:
    x, w = xp.zeros((*g.shape[:-1], 3), np.float32), xp.zeros((3, g.shape[-1]), np.float32)
    return vjp(ops.linear, x, w, xp.zeros(g.shape[-1], np.float32))[1](g)[2:]


def _norm(op: Callable[..., Any], parameters: int) -> Callable[..., Any]:
    """The gradients of scale and offset of a norm whose normalised rows are alike: 1 and -1."""

    def gradients(xp: ModuleType, g: Any) -> tuple[Any, ...]:
        x = xp.zeros(g.shape, np.float32)
        x[..., ::2], x[..., 1::2] = 1, -1
        ones = [xp.ones(g.shape[-1], np.float32) for _ in range(parameters)]
        return tuple(abs(a) for a in vjp(lambda *a: op(*a, eps=1e-12), x, *ones)[1](g)[1:])

    return gradients


@both_modes
@pytest.mark.parametrize("shape", [(40_000, 2), (2, 20_000, 4), (3_000, 64), (400, 300)])
@pytest.mark.parametrize(
    "gradients", [_bias, _norm(ops.layer_norm, 2), _norm(ops.rms_norm, 1)], ids=["bias", "layer_norm", "rms_norm"]
)
def test_gradients_of_parameters_over_many_rows(xp: ModuleType, gradients: Any, shape: Any, mode: str) -> None:
    g = tenths(xp, shape)
    with kernels(mode):
        made = gradients(xp, g)
    for gradient in made:
        assert off(gradient, TENTH * np.prod(shape[:-1])) < NEAR + 2.0**-23  # the normalised rows are 1 but for 1e-7


@both_modes
@any_layout
@pytest.mark.parametrize("width", [2, 261, 1024, 20_000])
def test_norms_of_rows(xp: ModuleType, width: int, layout: str, mode: str) -> None:
    """The mean of a row of 0.1, with one element that is not, and the mean of squares."""
    x = np.full((max(6000 // width, 2), width), 0.1)
    x[:, 0] = 5.0
    x = place(xp, x, np.float32, layout)
    one, zero = xp.ones(width, np.float32), xp.zeros(width, np.float32)
    wide = to_host(x).astype(float)
    centred = wide - wide.mean(-1, keepdims=True)
    with kernels(mode):
        made = to_host(ops.layer_norm(x, one, zero, eps=1e-5))
        exact = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        assert abs(made - exact).max() < 2 * NEAR * abs(exact).max()
        made = to_host(ops.rms_norm(x, one, eps=1e-6))
        assert off(made, wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)) < 2 * NEAR


@both_modes
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_over_many(xp: ModuleType, reduction: Any, mode: str) -> None:
    x, zero = tenths(xp, (20_000, 4)), xp.zeros((20_000, 4), np.float32)
    targets = np.zeros(20_000, np.int64)
    count = 1 if reduction == "mean" else 80_000
    with kernels(mode):
        assert off(ops.absolute_error(x, zero, reduction=reduction), TENTH * count) < NEAR
        assert off(ops.squared_error(x, zero, reduction=reduction), TENTH**2 * count) < NEAR
        made = ops.binary_cross_entropy(x, zero, reduction=reduction)
        assert off(made, np.log1p(np.exp(TENTH)) * count) < NEAR
        assert off(ops.cross_entropy(x, targets, reduction=reduction), np.log(4) * max(count / 4, 1)) < NEAR


@pytest.mark.parametrize("shape", [(300_000,), (7,), (500, 501)])
def test_norms_of_gradients(xp: ModuleType, shape: Any) -> None:
    exact = TENTH * np.sqrt(2 * np.prod(shape))
    assert off(optim.global_norm({"a": tenths(xp, shape), "b": tenths(xp, shape[::-1])}), exact) < NEAR


@both_modes
@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 1.0), (5.0, 0.2), (300.0, 0.5)])
def test_batch_norm_far_from_zero(xp: ModuleType, mean: float, deviation: float, mode: str) -> None:
    """E[x^2] - mean^2 loses all digits where the mean is large beside the deviation; two passes do not."""
    x = xp.asarray(np.random.default_rng(0).standard_normal((16, 30, 30, 3)) * deviation + mean, np.float32)
    p = {"scale": xp.ones(3, np.float32), "offset": xp.zeros(3, np.float32)}
    with kernels(mode):
        made = to_host(BatchNorm(3).apply(p, x, Call(), batch_statistics=True))
    wide = to_host(x).astype(float)
    exact = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    # the mean is rounded as numbers of its size are, and on a GPU the sum that it is made of, too
    roundings = 1 if xp is np else 2
    assert abs(made - exact).max() < roundings * 2.0**-24 * mean / deviation + 4 * NEAR * abs(exact).max()


@given(
    x=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), elements=st.integers(-9, 9)
    ),
    layout=st.sampled_from(LAYOUTS),
    keepdims=st.booleans(),
)
def test_sums_of_whole_numbers_are_exact(xp: ModuleType, x: np.ndarray, layout: str, keepdims: bool) -> None:
    there = place(xp, x, np.float32, layout)
    for count in range(x.ndim + 1):
        for axes in itertools.combinations(range(x.ndim), count):
            made = to_host(sums.total(there, axes, keepdims=keepdims))
            np.testing.assert_array_equal(made, x.sum(axes, keepdims=keepdims), strict=x.ndim > count)
    if x.size:
        np.testing.assert_array_equal(to_host(sums.average(there)), np.float32(x.mean(dtype=float)))


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (1, -1)])
def test_axes_that_are_not_there_are_refused(xp: ModuleType, axis: Any) -> None:
    with pytest.raises(ValueError, match="axis"):
        ops.sum(xp.ones((2, 3), np.float32), axis=axis)


@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8])
def test_whole_numbers_are_summed_as_such(xp: ModuleType, dtype: Any) -> None:
    x = xp.ones((300, 2), dtype)
    assert to_host(ops.sum(x, axis=0)).tolist() == [300, 300]
    assert to_host(ops.mean(x, axis=0)).tolist() == [1.0, 1.0]
