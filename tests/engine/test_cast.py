"""The cast operation: nearest numbers, ties to even, gradients in the dtype that came in; mixed precision with it.

Recorded numbers are PyTorch's (2.13, on the CPU): `x.bfloat16().float()`, `x.half()`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.halves import HALF

from perceiver_ref.autograd import ops, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host

INF, NAN = np.inf, np.nan
BFLOAT16 = [
    (1.0, 1.0),
    (1.00390625, 1.0),  # a tie goes to the even one
    (1.01171875, 1.015625),
    (-1.00390625, -1.0),
    (0.1, 0.10009765625),
    (65504.0, 65536.0),
    (1e-8, 1.0011717677116394e-08),
    (3.39e38, 3.3895313892515355e38),
    (3.4e38, INF),
    (-3.4e38, -INF),
    (1e-40, 9.183549615799121e-41),
    (4.5e-41, 0.0),
    (INF, INF),
    (-INF, -INF),
    (NAN, NAN),
    (-0.0, -0.0),
]
FLOAT16 = [
    (1.00390625, 1.00390625),
    (0.1, 0.0999755859375),
    (1 + 2.0**-11, 1.0),
    (1 + 3 * 2.0**-11, 1.001953125),
    (65519.9, 65504.0),
    (65520.0, INF),
    (-1e300, -INF),
    (2.0**-25, 0.0),
    (NAN, NAN),
]
FLOAT32 = [(0.1, 0.10000000149011612), (1e300, INF), (2.0**-25, 2.9802322387695312e-08)]


@pytest.mark.parametrize(
    ("given", "dtype", "pairs", "held"),
    [
        (np.float32, "bfloat16", BFLOAT16, np.float32),
        (np.float64, "bfloat16", BFLOAT16, np.float32),
        (np.float64, "float16", FLOAT16, HALF),
        (np.float64, "float32", FLOAT32, np.float32),
    ],
)
def test_numbers_become_the_nearest(xp: ModuleType, given: Any, dtype: str, pairs: Any, held: Any) -> None:
    x, exact = (np.array(column) for column in zip(*pairs))
    made = to_host(ops.cast(xp.asarray(x, given), dtype))
    want = exact.astype(held)
    if xp is not np and given is np.float64 and held == np.float32:  # such casts of a GPU have no subnormal numbers
        want[abs(want) < np.finfo(np.float32).tiny] *= 0
    np.testing.assert_array_equal(made, want, strict=True)
    np.testing.assert_array_equal(np.signbit(made), np.signbit(exact))


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("dtype", "held", "values", "slopes"),
    [
        # y = x.bfloat16().float(): both are rounded to bfloat16
        ("bfloat16", np.float32, [1.5, -2.296875], [0.10009765625, 1.234375]),
        ("float16", HALF, [1.5, -2.30078125], [0.0999755859375, 1.234375]),
        ("float32", np.float32, None, [0.1, 1.2345678]),
        ("float64", np.float64, None, [0.1, 1.2345678]),
    ],
)
def test_gradients_come_back_in_the_dtype_given(
    xp: ModuleType, given: Any, dtype: str, held: Any, values: Any, slopes: Any
) -> None:
    x = xp.asarray([1.5, -2.3], given)
    y, pull = vjp(lambda x: ops.cast(x, dtype=dtype), x)
    np.testing.assert_array_equal(to_host(y), to_host(x).astype(held) if values is None else np.asarray(values, held))
    assert y.dtype == held
    gradient = pull(xp.asarray([0.1, 1.2345678], held))[0]
    np.testing.assert_array_equal(to_host(gradient), np.asarray(slopes, held).astype(given), strict=True)


@pytest.mark.parametrize("dtype", ["float16", HALF, np.dtype(HALF)], ids=["name", "type", "dtype"])
def test_the_dtype_is_a_name_or_numpys(xp: ModuleType, dtype: Any) -> None:
    x = xp.asarray([1.0, 2.0], np.float32)
    assert ops.cast(x, dtype).dtype == ops.cast(x, dtype=dtype).dtype == HALF


@pytest.mark.parametrize("dtype", ["int32", "float", "float8", None, 3, np.int64])
def test_other_dtypes_are_refused(xp: ModuleType, dtype: Any) -> None:
    with pytest.raises(
        (ValueError, TypeError), match=r"cast: unknown dtype .*; known: float16, float32, float64, bfloat16"
    ):
        ops.cast(xp.ones(2, np.float32), dtype)


def test_whole_numbers_and_bools_are_cast_but_nothing_else(xp: ModuleType) -> None:
    assert to_host(ops.cast(xp.asarray([1, 2]), "float16")).tolist() == [1.0, 2.0]
    assert to_host(ops.cast(xp.asarray([True, False]), "bfloat16")).dtype == np.float32
    with pytest.raises(TypeError, match="is of the dtype complex128"):
        ops.cast(np.array([1j]), "float32")


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3, 4)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_any_shape_and_layout(xp: ModuleType, shape: Any, dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for given in (x, x.T, x[..., ::-1] if x.ndim else x):
        made = ops.cast(xp.asarray(given), dtype)
        assert made.shape == given.shape
        single = np.array([ops.cast(np.array(v), dtype) for v in given.ravel()], made.dtype).reshape(given.shape)
        np.testing.assert_array_equal(to_host(made), single)


def test_mixed_precision(xp: ModuleType) -> None:
    """Parameters in float32, products in float16, the loss in float32: gradients are float32, and near."""
    rng = np.random.default_rng(0)
    x, target = (xp.asarray(rng.standard_normal((50, n)), np.float32) for n in (30, 4))
    params = {"w": xp.asarray(rng.standard_normal((30, 4)) / 5, np.float32), "b": xp.zeros(4, np.float32)}

    def loss(params: Any, dtype: str) -> Any:
        h = ops.linear(*(ops.cast(a, dtype) for a in (x, params["w"], params["b"])))
        return ops.squared_error(ops.cast(ops.tanh(h), "float32"), target)

    (low, slopes), (high, exact) = (value_and_grad(lambda p, d=d: loss(p, d))(params) for d in ("float16", "float32"))
    assert low.dtype == high.dtype == np.float32
    assert 0 < abs(float(low) - float(high)) < 1e-3  # roundings of 2^-11 in 200 values, which partly cancel
    for name, gradient in slopes.items():
        assert gradient.dtype == np.float32
        assert float(abs(gradient - exact[name]).max()) < 2e-3 * float(abs(exact[name]).max())


def test_bfloat16_models_are_written_with_it(xp: ModuleType) -> None:
    """Every result rounded: 1 + 2^-8 is 1, and 256 + 1 is 256."""
    x = xp.asarray([1.0, 256.0], np.float32)
    made = ops.cast(ops.add(ops.cast(x, "bfloat16"), xp.asarray([2.0**-8, 1.0], np.float32)), "bfloat16")
    assert to_host(made).tolist() == [1.0, 256.0]
