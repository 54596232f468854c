"""What each docstring says about kinks, ties, zeros, infinities and bad arguments, value by value."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import ops, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.backend import xp as library

INF, NAN = np.inf, np.nan


def pulled(function: Callable[..., Any], *arrays: Any) -> tuple[Any, list[Any]]:
    """The output and the gradients of its sum, on the host."""
    out, pull = vjp(function, *arrays)
    gradients = pull(library(out).ones(out.shape, out.dtype))
    return to_host(out), [None if g is None else to_host(g) for g in gradients]


@pytest.mark.parametrize(
    ("name", "x", "slope"),
    [
        ("absolute", [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]),
        ("relu", [-2.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
        ("squared_relu", [-2.0, 0.0, 2.0], [0.0, 0.0, 4.0]),
    ],
)
def test_derivative_at_a_kink_is_zero(name: str, x: list[float], slope: list[float], xp: ModuleType) -> None:
    _, (gradient,) = pulled(getattr(ops, name), xp.asarray(x))
    np.testing.assert_array_equal(gradient, slope)


@pytest.mark.parametrize("name", ["relu", "squared_relu", "absolute", "sigmoid", "silu", "gelu_erf", "gelu_tanh"])
def test_nan_propagates(name: str, xp: ModuleType) -> None:
    out = to_host(getattr(ops, name)(xp.asarray([NAN, 1.0])))
    np.testing.assert_array_equal(np.isnan(out), [True, False])


@pytest.mark.parametrize(("name", "winner"), [("maximum", 1), ("minimum", 0)])
def test_equal_arguments_share_the_gradient(name: str, winner: int, xp: ModuleType) -> None:
    x, y = xp.asarray([1.0, 2.0]), xp.asarray([1.0, 3.0])
    _, gradients = pulled(getattr(ops, name), x, y)
    np.testing.assert_array_equal(gradients[winner], [0.5, 1.0])
    np.testing.assert_array_equal(gradients[1 - winner], [0.5, 0.0])


def test_max_shares_the_gradient_among_ties(xp: ModuleType) -> None:
    x = xp.asarray([[3.0, 1.0, 3.0], [2.0, 5.0, 4.0]])
    np.testing.assert_array_equal(pulled(lambda a: ops.max(a, axis=1), x)[1][0], [[0.5, 0, 0.5], [0, 1, 0]])
    np.testing.assert_array_equal(pulled(ops.max, xp.ones((2, 2)))[1][0], np.full((2, 2), 0.25))


def test_power_at_zero_bases_and_exponents(xp: ModuleType) -> None:
    """dx = y x^(y-1) and dy = x^y log x, but 0 where y = 0 and where x = 0."""
    x, y = xp.asarray([0.0, 0.0, 0.0, 2.0]), xp.asarray([0.0, 1.0, 2.0, 0.0])
    out, (dx, dy) = pulled(ops.power, x, y)
    np.testing.assert_array_equal(out, [1, 0, 0, 1])
    np.testing.assert_array_equal(dx, [0, 1, 0, 0])
    np.testing.assert_allclose(dy, [0, 0, 0, np.log(2)], rtol=1e-15)


@pytest.mark.parametrize(("exponent", "slope"), [(0, [0.0, 0.0, 0.0]), (1, [1.0, 1.0, 1.0]), (2, [-4.0, 0.0, 4.0])])
def test_power_with_a_python_exponent(exponent: int, slope: list[float], xp: ModuleType) -> None:
    x = xp.asarray([-2.0, 0.0, 2.0], np.float32)
    out, (gradient,) = pulled(lambda a: a**exponent, x)
    assert out.dtype == gradient.dtype == np.float32
    np.testing.assert_array_equal(gradient, slope)


@pytest.mark.parametrize(("base", "slope"), [(0.0, [0.0, 0.0]), (2, [np.log(2), 2 * np.log(2)])])
def test_power_with_a_python_base(base: float, slope: list[float], xp: ModuleType) -> None:
    _, (gradient,) = pulled(lambda a: base**a, xp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(gradient, slope, rtol=1e-15)


def test_where_gives_exact_zero_to_the_side_not_taken(xp: ModuleType) -> None:
    condition = xp.asarray([True, False, True])
    x, y = xp.asarray([1.0, NAN, 3.0]), xp.asarray([NAN, 5.0, -INF])
    out, (_, dx, dy) = pulled(ops.where, condition, x, y)
    np.testing.assert_array_equal(out, [1, 5, 3])
    np.testing.assert_array_equal(dx, [1, 0, 1])
    np.testing.assert_array_equal(dy, [0, 1, 0])


def test_where_keeps_an_infinite_gradient_on_its_side(xp: ModuleType) -> None:
    """A product with 0 would give NaN."""
    condition, x = xp.asarray([True, False]), xp.asarray([1.0, 1.0])
    _, pull = vjp(lambda a, b: ops.where(condition, a, b), x, x)
    dx, dy = pull(xp.asarray([INF, NAN]))
    np.testing.assert_array_equal(to_host(dx), [INF, 0])
    np.testing.assert_array_equal(to_host(dy), [0, NAN])


def test_softmax_of_minus_infinity_is_exactly_zero(xp: ModuleType) -> None:
    out, (gradient,) = pulled(lambda a: ops.softmax(a)[0], xp.asarray([0.0, -INF, 0.0]))
    assert out == 0.5
    np.testing.assert_array_equal(gradient, [0.25, 0.0, -0.25])


def test_softmax_of_nothing_but_minus_infinity_is_nan(xp: ModuleType) -> None:
    with np.errstate(invalid="ignore"):  # -inf - (-inf)
        assert np.isnan(to_host(ops.softmax(xp.full((2,), -INF)))).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_an_empty_axis_is_empty(name: str, xp: ModuleType) -> None:
    out, (gradient,) = pulled(lambda a: getattr(ops, name)(a, axis=1), xp.zeros((3, 0)))
    assert out.shape == gradient.shape == (3, 0)


@pytest.mark.parametrize("x", [1e4, -1e4])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "sigmoid", "gelu_erf", "tanh", "silu"])
def test_large_numbers_do_not_overflow(name: str, x: float, xp: ModuleType) -> None:
    out, (gradient,) = pulled(getattr(ops, name), xp.asarray([x, 0.0, x], np.float32))
    assert np.isfinite(out).all()
    assert np.isfinite(gradient).all()


def test_logsumexp_of_nothing_but_minus_infinity(xp: ModuleType) -> None:
    x = xp.asarray([[-INF, -INF], [0.0, -INF]])
    out, (gradient,) = pulled(lambda a: ops.logsumexp(a, axis=1), x)
    np.testing.assert_array_equal(out, [-INF, 0.0])
    np.testing.assert_array_equal(gradient, [[0, 0], [1, 0]])


def test_logsumexp_where_the_plain_sum_overflows(xp: ModuleType) -> None:
    top = float(np.finfo(np.float32).max)
    out = to_host(ops.logsumexp(xp.asarray([top, top], np.float32)))
    assert out == np.float32(top)


def test_logsumexp_of_infinity_and_nan(xp: ModuleType) -> None:
    """Neither may come back as a finite gradient."""
    out, (gradient,) = pulled(ops.logsumexp, xp.asarray([NAN, 1.0]))
    assert np.isnan(out)
    assert np.isnan(gradient).all()
    with np.errstate(invalid="ignore"):  # inf - inf
        out, (gradient,) = pulled(ops.logsumexp, xp.asarray([INF, 1.0]))
    assert out == INF
    np.testing.assert_array_equal(gradient, [NAN, 0.0])


def test_pad_needs_one_pair_for_each_axis(xp: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"pad\(float64\[3, 1\]\): widths must hold one pair for each of 2 axes"):
        ops.pad(xp.ones((3, 1)), widths=((1, 1),))


def test_split_sizes_must_add_up(xp: ModuleType) -> None:
    with pytest.raises(ValueError, match="sizes \\(1, 1\\) add up to 2, but axis 0 has 3"):
        ops.split(xp.ones(3), sizes=(1, 1))


def test_a_gradient_flows_from_one_of_several_outputs(xp: ModuleType) -> None:
    _, (gradient,) = pulled(lambda x: ops.split(x, sizes=(1, 2))[1], xp.ones(3))
    np.testing.assert_array_equal(gradient, [0, 1, 1])


@pytest.mark.parametrize("name", ["concatenate", "stack"])
def test_joins_take_one_sequence(name: str, xp: ModuleType) -> None:
    x = xp.ones((2, 2))
    with pytest.raises(TypeError, match=f"{name} takes one sequence of arrays, got 2 arguments"):
        getattr(ops, name)(x, x)


@pytest.mark.parametrize("bad", [3, -4])
def test_indices_out_of_range_raise(bad: int, xp: ModuleType) -> None:
    table = xp.ones((3, 2))
    with pytest.raises(IndexError, match=rf"take\(.*\): index {bad} is out of range for 3 entries"):
        ops.take(table, xp.asarray([0, bad]))
    with pytest.raises(IndexError, match=rf"take_along_axis\(.*\): index {bad} is out of range for 3 entries"):
        ops.take_along_axis(table, xp.asarray([[0, bad]]), axis=0)


@pytest.mark.parametrize("ids", [3, 1.0])
def test_indices_must_be_integer_arrays(ids: float, xp: ModuleType) -> None:
    for value in (ids, xp.asarray([float(ids)])):
        with pytest.raises(TypeError, match="indices must be an integer array"):
            ops.take(xp.ones((3, 2)), value)


def test_repeated_indices_accumulate(xp: ModuleType) -> None:
    table = xp.zeros((3, 2))
    _, (gradient, none) = pulled(ops.take, table, xp.asarray([[1, 1], [-2, 0]]))
    assert none is None
    np.testing.assert_array_equal(gradient, [[1, 1], [3, 3], [0, 0]])
    _, (gradient, _) = pulled(lambda x, i: ops.take_along_axis(x, i, axis=0), table, xp.asarray([[1, 0], [1, -1]]))
    np.testing.assert_array_equal(gradient, [[0, 1], [2, 0], [0, 1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_narrow_indices_reach_wide_tables(dtype: Any, xp: ModuleType) -> None:
    """Wrapping an index by a size of 300 in uint8 arithmetic would fail or pick another row."""
    table = xp.arange(300.0)
    out, (gradient, _) = pulled(ops.take, table, xp.asarray([0, 127, 127], dtype))
    np.testing.assert_array_equal(out, [0, 127, 127])
    assert (gradient[0], gradient[127], gradient.sum()) == (1, 2, 3)


def test_ids_may_stay_on_the_host(xp: ModuleType) -> None:
    np.testing.assert_array_equal(to_host(ops.take(xp.arange(3.0), np.array([2, 0]))), [2, 0])


@pytest.mark.parametrize("index", [[0, 1], (0, (1, 1)), True, (slice(None), False), np.array([0]), range(2), 1.5, "a"])
def test_getitem_refuses_what_is_not_basic(index: Any, xp: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"getitem\(.*\): index with integers, slices, None or \.\.\."):
        ops.getitem(xp.ones((2, 2)), index=index)


def test_dropout_is_decided_by_its_key(xp: ModuleType) -> None:
    x = xp.ones(10_000)
    one, again, other = (to_host(ops.dropout(x, rate=0.25, key=key)) for key in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert set(np.unique(one)) == {0.0, 1 / 0.75}
    assert abs((one == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 10_000)  # four standard deviations


@pytest.mark.parametrize("rate", [-0.1, 1.0, NAN])
def test_dropout_refuses_a_rate_outside_its_range(rate: float, xp: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\)"):
        ops.dropout(xp.ones(3), rate=rate, key=0)


def test_unknown_reduction_is_refused(xp: ModuleType) -> None:
    with pytest.raises(ValueError, match="unknown reduction 'avg'; known: mean, sum, none"):
        ops.squared_error(xp.ones(2), xp.ones(2), reduction="avg")


@pytest.mark.parametrize("name", ["squared_error", "absolute_error", "binary_cross_entropy"])
def test_losses_do_not_broadcast(name: str, xp: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"shapes must be equal, got \(3, 1\) and \(3,\)"):
        getattr(ops, name)(xp.ones((3, 1)), xp.ones(3))


def test_absolute_error_has_no_slope_where_equal(xp: ModuleType) -> None:
    x = xp.asarray([1.0, 2.0])
    np.testing.assert_array_equal(pulled(ops.absolute_error, x, xp.asarray([1.0, 0.0]))[1][0], [0, 0.5])


@pytest.mark.parametrize("x", [-1e4, 1e4])
def test_binary_cross_entropy_of_large_logits(x: float, xp: ModuleType) -> None:
    logits, targets = xp.asarray([x, x], np.float32), xp.asarray([0.0, 1.0], np.float32)
    out, (dx, _) = pulled(lambda a, t: ops.binary_cross_entropy(a, t, reduction="none"), logits, targets)
    np.testing.assert_array_equal(out, [max(x, 0), max(-x, 0)])
    np.testing.assert_array_equal(dx, [float(x > 0), float(x > 0) - 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_positions_give_no_loss_and_no_gradient(smoothing: float, xp: ModuleType) -> None:
    """Whatever their logits hold."""
    logits = np.random.default_rng(0).standard_normal((3, 4))
    targets = np.array([2, -100, 0])
    kept = np.array([0, 2])

    def loss(x: Any, t: Any) -> Any:
        return ops.cross_entropy(x, t, label_smoothing=smoothing)

    spoiled = logits.copy()
    spoiled[1] = NAN
    out, (gradient, none) = pulled(loss, xp.asarray(spoiled), xp.asarray(targets))
    want, (want_gradient, _) = pulled(loss, xp.asarray(logits[kept]), xp.asarray(targets[kept]))
    assert none is None
    np.testing.assert_allclose(out, want, rtol=1e-15)
    np.testing.assert_allclose(gradient[kept], want_gradient, rtol=1e-14)
    np.testing.assert_array_equal(gradient[1], np.zeros(4))


def test_mean_over_nothing_but_ignored_positions_is_nan(xp: ModuleType) -> None:
    logits, targets = xp.ones((2, 3)), xp.full((2,), -100)
    out, (gradient, _) = pulled(ops.cross_entropy, logits, targets)
    assert np.isnan(out)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))
    assert to_host(ops.cross_entropy(logits, targets, reduction="sum")) == 0


@pytest.mark.parametrize("bad", [3, -1])
def test_targets_out_of_range_raise(bad: int, xp: ModuleType) -> None:
    with pytest.raises(IndexError, match=r"targets must be in \[0, 3\) or -100"):
        ops.cross_entropy(xp.ones((2, 3)), np.asarray([0, bad]))  # on the host, where looking costs nothing


@pytest.mark.parametrize("targets", [[0.0, 1.0], [[0, 1]]])
def test_targets_must_be_integers_of_the_leading_shape(targets: Any, xp: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"targets must be integers of shape \(2,\)"):
        ops.cross_entropy(xp.ones((2, 3)), xp.asarray(targets))


@pytest.mark.parametrize("which", ["contiguous", "broadcast", "transposed", "kept axis"])
def test_float32_bias_gradient_over_many_rows(which: str, xp: ModuleType) -> None:
    """A running float32 sum over 200,000 rows would be off by about 1e-4 of the result."""
    rows, width = 200_000, 4
    g = np.random.default_rng(0).uniform(0.5, 1.5, (rows, width)).astype(np.float32)
    x = xp.zeros((rows, width), np.float32)
    bias = xp.zeros((1, width) if which == "kept axis" else (width,), np.float32)
    upstream = xp.asarray(g)
    if which == "broadcast":
        upstream = xp.broadcast_to(xp.asarray(g[:1]), g.shape)
    if which == "transposed":
        upstream = xp.asarray(g.T.copy()).T
    _, pull = vjp(ops.add, x, bias)
    gradient = to_host(pull(upstream)[1])
    exact = to_host(upstream).astype(np.float64).sum(0).reshape(gradient.shape)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, exact, rtol=1e-6)  # about ten float32 roundings


def test_float32_bias_gradient_of_a_mean(xp: ModuleType) -> None:
    x, weight = xp.zeros((200_000, 2), np.float32), xp.zeros((2, 3), np.float32)
    _, gradients = value_and_grad(lambda bias: ops.mean(ops.linear(x, weight, bias)))(xp.zeros(3, np.float32))
    np.testing.assert_allclose(to_host(gradients), np.full(3, 1 / 3), rtol=1e-6)  # as above
