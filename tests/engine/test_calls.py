"""Calling ops: numbers and dtypes, operators, keywords, and what errors say."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import Op, Tensor, op, ops, registry, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


def traced(function: Callable[..., Any], *arrays: Any) -> Any:
    """What `function` returns for `Tensor`s of these arrays, as it is."""
    results: list[Any] = []
    vjp(lambda *tensors: results.append(function(*tensors)), *arrays)
    return results[0]


@pytest.mark.parametrize("function", ARITHMETIC + COMPARISONS)
@pytest.mark.parametrize("side", ["left", "right", "both", "number left", "number right"])
def test_operators_mean_what_they_mean_on_arrays(function: Any, side: str, xp: ModuleType) -> None:
    x, y = xp.asarray([1.0, 2.0, 3.0]), xp.asarray([3.0, 2.0, 1.0])
    left: Any = 2.0 if side == "number left" else x
    right: Any = 2.0 if side == "number right" else y
    got = traced(
        lambda a, b: function(
            a if side in ("left", "both", "number right") else left,
            b if side in ("right", "both", "number left") else right,
        ),
        x,
        y,
    )
    assert type(got) is (Tensor if function in ARITHMETIC else xp.ndarray)
    plain = got.data if type(got) is Tensor else got
    np.testing.assert_array_equal(to_host(plain), to_host(function(left, right)))


def test_unary_operators_indexing_and_matrix_product(xp: ModuleType) -> None:
    x, y = xp.asarray([[1.0, -2.0], [3.0, 4.0]]), xp.asarray([[0.0, 1.0], [2.0, 3.0]])
    for function, want in [
        (lambda a: -a, -x),
        (abs, abs(x)),
        (lambda a: a[1, None, :1], x[1, None, :1]),
        (lambda a: a @ y, x @ y),
        (lambda a: y @ a, y @ x),
    ]:
        got = traced(function, x)
        assert type(got) is Tensor
        np.testing.assert_array_equal(to_host(got.data), to_host(want))


def test_a_tensor_shows_its_array(xp: ModuleType) -> None:
    def look(x: Tensor) -> None:
        assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((2, 3), 2, 6, np.float32, 2)
        assert repr(x) == f"Tensor(shape=(2, 3), dtype=float32, backend={xp.__name__})"
        assert len({x, x}) == 1
        assert (float(x[0, 0]), bool(x[0, 0] > 0)) == (1.0, True)
        assert [row.shape for row in x] == [(3,), (3,)]
        with pytest.raises(ValueError, match="ambiguous"):
            bool(x)

    vjp(look, xp.ones((2, 3), np.float32))


@pytest.mark.parametrize("function", ARITHMETIC)
@pytest.mark.parametrize("number", [2, 2.5, True, np.float64(2), np.float32(2), np.int64(2)])
def test_numbers_do_not_change_float32(function: Any, number: Any, xp: ModuleType) -> None:
    for call in (lambda a: function(a, number), lambda a: function(number, a)):
        out, pull = vjp(call, xp.asarray([1.0, 2.0], np.float32))
        (gradient,) = pull(out)
        assert out.dtype == gradient.dtype == np.float32


def test_arrays_in_arrays_out(xp: ModuleType) -> None:
    assert type(ops.exp(xp.ones(2))) is xp.ndarray
    assert type(ops.sum(xp.ones(2))) is xp.ndarray
    assert all(type(piece) is xp.ndarray for piece in ops.split(xp.ones(2), sizes=(1, 1)))
    assert type(ops.add(xp.asarray(1.0), 1)) is xp.ndarray
    assert type(ops.equal(xp.asarray(1.0), 1)) is xp.ndarray


def test_numbers_alone_become_numpy_arrays() -> None:
    for value in (ops.add(1, 2), ops.add(np.float32(1), np.float64(2)), ops.exp(np.float32(0))):
        assert type(value) is np.ndarray
    assert ops.add(1, 2).dtype == np.float64
    assert ops.add(np.float32(1), np.float64(2)).dtype == np.float32


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("add", [(2,), (3, 2)]),
        ("matmul", [(2, 3), (3, 2)]),
        ("where", [None, (2,), (2,)]),
        ("attention", [(2, 3), (2, 3), (2, 3)]),
        ("linear", [(2, 3), (3, 2), (2,)]),
        ("squared_error", [(2,), (2,)]),
        ("layer_norm", [(2, 3), (3,), (3,)]),
    ],
)
def test_mixed_dtypes_are_refused(name: str, shapes: list[Any], xp: ModuleType) -> None:
    """In every pair of positions; the message names the op, the shapes and the dtypes."""
    positions = [i for i, shape in enumerate(shapes) if shape is not None]
    for odd in positions:
        arrays = [
            xp.ones(2, bool) if shape is None else xp.ones(shape, np.float64 if i == odd else np.float32)
            for i, shape in enumerate(shapes)
        ]
        described = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
        with pytest.raises(
            TypeError, match=re.escape(f"{name}({described}): dtypes are mixed; cast so that they agree")
        ):
            registry[name](*arrays)


@pytest.mark.parametrize("name", ["concatenate", "stack"])
def test_joins_refuse_mixed_dtypes(name: str, xp: ModuleType) -> None:
    message = re.escape(f"{name}(float32[2], float64[2]): dtypes are mixed")
    with pytest.raises(TypeError, match=message):
        registry[name]([xp.ones(2, np.float32), xp.ones(2)])


def test_integers_beside_float32_are_refused(xp: ModuleType) -> None:
    """NumPy would promote to float64."""
    with pytest.raises(TypeError, match=r"multiply\(float32\[2\], int64\[2\]\): dtypes are mixed"):
        ops.multiply(xp.ones(2, np.float32), xp.ones(2, np.int64))


def test_shapes_that_do_not_fit_are_named(xp: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^add\(float64\[2\], float64\[3\]\): "):
        ops.add(xp.ones(2), xp.ones(3))
    with pytest.raises(ValueError, match=r"^matmul\(float64\[2, 3\], float64\[2, 3\]\): "):
        traced(lambda a, b: a @ b, xp.ones((2, 3)), xp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^linear\(.*\): bias must be \(4,\), got \(1, 4\)"):
        ops.linear(xp.ones((2, 3)), xp.ones((3, 4)), xp.ones((1, 4)))
    with pytest.raises(ValueError, match=r"^linear\(.*\): x \(\.\.\., D\) and weight \(D, E\) do not fit"):
        ops.linear(xp.ones((2, 3)), xp.ones((4, 3)))
    with pytest.raises(IndexError, match=r"^getitem\(float64\[2\]\): "):
        ops.getitem(xp.ones(2), index=2)


@pytest.mark.parametrize("wrong", [2.0, None])
def test_a_number_where_an_array_is_needed_is_named(wrong: Any, xp: ModuleType) -> None:
    with pytest.raises(TypeError, match=rf"^linear\(float64\[2\], {wrong}\): .* object has no attribute"):
        ops.linear(xp.ones(2), wrong)


@pytest.mark.parametrize("wrong", ["a", [1.0, 2.0], {}, object()])
def test_what_is_no_array_is_refused(wrong: Any, xp: ModuleType) -> None:
    with pytest.raises(TypeError, match=f"add needs arrays, got {type(wrong).__name__} as argument 2"):
        ops.add(xp.ones(2), wrong)


def test_no_array_at_all() -> None:
    with pytest.raises(TypeError, match="stack needs at least one array"):
        ops.stack([])
    with pytest.raises(TypeError, match="stack takes one sequence of arrays, got 0 arguments"):
        ops.stack()


def test_unknown_keywords_list_the_known(xp: ModuleType) -> None:
    with pytest.raises(TypeError, match="sum got an unexpected argument 'axes'; its arguments are: x, axis, keepdims"):
        ops.sum(xp.ones(2), axes=0)
    with pytest.raises(TypeError, match="concatenate got an unexpected argument 'arrays'"):
        ops.concatenate([xp.ones(2)], arrays=[xp.ones(2)])
    with pytest.raises(TypeError, match="linear got an unexpected argument 'x'"):
        ops.linear(xp.ones(2), xp.ones((2, 2)), x=xp.ones(2))


def test_missing_options_are_named(xp: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"^dropout\(float64\[2\]\): .*'rate' and 'key'"):
        ops.dropout(xp.ones(2))


def test_arrays_may_be_given_by_name(xp: ModuleType) -> None:
    x, weight, bias = xp.ones(2), xp.ones((2, 3)), xp.asarray([1.0, 2.0, 3.0])
    out, pull = vjp(lambda b: ops.linear(x, weight=weight, bias=b), bias)
    np.testing.assert_array_equal(to_host(out), [3, 4, 5])
    np.testing.assert_array_equal(to_host(pull(out)[0]), [3, 4, 5])
    np.testing.assert_array_equal(to_host(ops.linear(x, weight=weight, bias=None)), [2, 2, 2])
    np.testing.assert_array_equal(to_host(ops.linear(weight=weight, x=x)), [2, 2, 2])


@pytest.mark.parametrize("function", [np.exp, np.sum, np.mean, np.asarray, np.stack, np.dot, np.linalg.norm])
def test_numpy_functions_refuse_tensors(function: Any, xp: ModuleType) -> None:
    argument = (lambda x: [x, x]) if function is np.stack else (lambda x: x)
    arguments = (lambda x: (x, x)) if function is np.dot else (lambda x: (argument(x),))
    with pytest.raises(TypeError, match=r"use the ops, or its \.data|does not support ufuncs"):
        traced(lambda x: function(*arguments(x)), xp.ones(2))


def test_writing_a_tensor_into_an_array_is_refused(xp: ModuleType) -> None:
    buffer = xp.zeros(2)
    with pytest.raises(TypeError):
        traced(lambda x: operator.iadd(buffer, x), xp.ones(2))
    with pytest.raises(TypeError):
        traced(lambda x: operator.setitem(buffer, slice(None), x), xp.ones(2))


def test_two_ops_of_one_name_are_refused() -> None:
    def add(x: Any) -> Any:
        return x, ()

    before = registry["add"]
    with pytest.raises(ValueError, match="two ops are named add"):
        op(add)
    assert registry["add"] is before


def test_an_op_without_a_backward_rule_says_so(xp: ModuleType) -> None:
    def forward_only(x: Any) -> Any:
        return x + 1, ()

    made = Op(forward_only, variadic=False, differentiable=True)
    with pytest.raises(TypeError, match="forward_only has no backward rule"):
        value_and_grad(made)(xp.asarray(1.0))


def test_ops_keep_their_names_and_docstrings() -> None:
    for name, made in registry.items():
        assert made.__name__ == name
        assert made.__doc__
        assert repr(made) == f"<op {name}>"
        assert getattr(ops, name) is made
