"""What is no floating-point array: integers, bools and NumPy scalars in every argument of every op; what is refused.

Expected are the independent definitions of `definitions`, in float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.op_cases import CASES
from engine.values import CALLS, FRACTIONS, LABELS

from perceiver_ref.autograd import checkpoint, ops, registry, value_and_grad, vjp
from perceiver_ref.autograd.backend import is_array, to_host

WHOLE = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
every_op = pytest.mark.parametrize("name", sorted(CALLS))


def call(name: str, arguments: Any, static: dict[str, Any]) -> list[Any]:
    op = registry[name]
    result = op(list(arguments), **static) if op.traits.variadic else op(*arguments, **static)
    return list(result) if isinstance(result, tuple) else [result]


def defined(name: str, arguments: Any, static: dict[str, Any]) -> list[np.ndarray]:
    result = CASES[name].definition(*arguments, **static)
    return [np.asarray(out, float) for out in (result if isinstance(result, (tuple, list)) else [result])]


def moved(xp: ModuleType, values: dict[str, Any]) -> dict[str, Any]:
    return {key: xp.asarray(value) if is_array(value) else value for key, value in values.items()}


def with_dtype(name: str, arguments: Any, dtypes: list[Any]) -> list[np.ndarray]:
    """The arguments, values in these dtypes, one for each position."""
    labels = LABELS.get(name, ())
    return [a if i in labels else a.astype(dtype) for i, (a, dtype) in enumerate(zip(arguments, dtypes))]


def test_every_op_has_a_call() -> None:
    assert set(CALLS) == set(registry)
    labels = {name: tuple(map(op.arrays.index, op.traits.labels)) for name, op in registry.items()}
    assert {name: places for name, places in labels.items() if places} == LABELS


@every_op
@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_give_the_right_values(name: str, dtype: str, xp: ModuleType) -> None:
    """Fractions in the dtype that exp gives; whole results exact, below 0 modulo the size of an unsigned dtype."""
    arguments, static = CALLS[name]
    given = with_dtype(name, arguments, [dtype] * len(arguments))
    arrays = [xp.asarray(a) for a in given]
    if dtype == "bool" and name in ("negative", "subtract"):
        with pytest.raises(TypeError, match=f"^{name}\\(bool"):
            call(name, arrays, moved(xp, static))
    if dtype == "bool" and name not in FRACTIONS:
        return  # + and * of bools are "or" and "and" in NumPy
    results = call(name, arrays, moved(xp, static))
    expected = defined(name, with_dtype(name, given, [float] * len(given)), static)
    for got, want in zip(map(to_host, results), expected, strict=True):
        if name == "cast":
            np.testing.assert_array_equal(got, want.astype(static["dtype"]), strict=True)
        elif name in FRACTIONS:
            assert got.dtype == np.exp(np.zeros(1, dtype)).dtype
            # a few dozen roundings of numbers below 100, in float16 a handful
            tolerance = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-12}[got.dtype.name]
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
        else:
            assert got.dtype.kind in "biu"
            np.testing.assert_array_equal(got, want.astype(int).astype(got.dtype))


TOGETHER = sorted(
    name
    for name, (arguments, _) in CALLS.items()
    if len(arguments) - len(LABELS.get(name, ())) > 1 and registry[name].differentiable
)


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_beside_floating_point_take_its_dtype(name: str, dtype: str, xp: ModuleType) -> None:
    """In every position, where float32 holds them all; else the mixture is an error. Gradients too."""
    arguments, static = CALLS[name]
    for position in range(len(arguments)):
        if position in LABELS.get(name, ()):
            continue
        dtypes = [dtype if i == position else "float32" for i in range(len(arguments))]
        given = with_dtype(name, arguments, dtypes)
        arrays = [xp.asarray(a) for a in given]
        if np.result_type(dtype, np.float32) != np.float32:
            with pytest.raises(TypeError, match=rf"^{name}\(.*\): dtypes are mixed; cast so that they agree$"):
                call(name, arrays, moved(xp, static))
            continue
        out, pull = vjp(lambda *traced: call(name, traced, moved(xp, static)), *arrays)
        (want,) = (
            defined(name, [np.asarray(a, a.dtype if a.dtype.kind == "b" else float) for a in given], static)
            if (name == "where")
            else defined(name, with_dtype(name, given, [float] * len(given)), static)
        )
        assert out[0].dtype == np.float32
        np.testing.assert_allclose(to_host(out[0]), want, rtol=1e-5, atol=1e-5)  # a few dozen roundings
        for i, gradient in enumerate(pull([xp.ones(out[0].shape, np.float32)])):
            assert (gradient is None) == (arrays[i].dtype.kind != "f")
            assert gradient is None or (gradient.dtype, gradient.shape) == (np.float32, arrays[i].shape)


def outcome(name: str, arguments: list[Any], static: dict[str, Any]) -> Any:
    """What a call gives, or the kind of its error."""
    try:
        results = call(name, arguments, static)
    except Exception as error:
        return type(error)
    return [(out.dtype, out.shape, to_host(out).tolist()) for out in results]


@every_op
@pytest.mark.parametrize("scalar", ["float64", "float32", "float16", "int64", "bool"])
def test_a_numpy_scalar_is_an_array_of_no_axes(name: str, scalar: str, xp: ModuleType) -> None:
    """In every position: the same result, or the same kind of error, as the 0-d array of the arrays' dtype."""
    arguments, static = CALLS[name]
    labels = LABELS.get(name, ())
    arrays = [xp.asarray(a) for a in with_dtype(name, arguments, ["float32"] * len(arguments))]
    for position in range(len(arguments)):
        if position in labels and scalar.startswith("float"):
            continue
        value = np.dtype(scalar).type(1)
        alone = all(i == position or i in labels for i in range(len(arrays)))
        dtype = value.dtype if position in labels or alone else np.float32
        as_scalar, as_array = list(arrays), list(arrays)
        library = np if alone else xp  # a scalar is of NumPy, and nothing beside it says otherwise
        as_scalar[position], as_array[position] = value, library.asarray(value, dtype)
        found = outcome(name, as_scalar, moved(xp, static))
        assert found == outcome(name, as_array, moved(xp, static)), (name, position)


def first_two(x: Any) -> list[Any]:
    return [x[0], x[1]]


ROWS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "a condition": (lambda x: ops.where(np.asarray(2.0) > 1, x, 0.0), [5.0, 6.0]),
    "a Python condition": (lambda x: ops.where(2.0 > 1, x, 0.0), [5.0, 6.0]),
    "both sides numbers": (lambda x: ops.where(x > 5.5, np.float32(1), np.float32(2)), [2.0, 1.0]),
    "an index": (lambda x: ops.take(x, np.array([1, 0])[0]), 6.0),
    "a label": (lambda x: ops.cross_entropy(ops.multiply(x, 0.0), np.array([1, 0])[0]), np.log(2)),
    "a stack": (lambda x: ops.stack(first_two(np.array([1, 2], np.float32))), [1.0, 2.0]),
    "a stack with an array": (lambda x: ops.stack([ops.sum(x), np.float64(1.5)]), [11.0, 1.5]),
    "a loss": (lambda x: ops.squared_error(ops.sum(x), np.float64(10)), 1.0),
    "powers": (lambda x: ops.power(x, np.int64(-1)), [1 / 5, 1 / 6]),
    "the larger": (lambda x: ops.maximum(np.float64(5.5), x), [5.5, 6.0]),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("traced", [True, False])
def test_scalars_that_numpy_gives_where_an_array_was(name: str, traced: bool, xp: ModuleType) -> None:
    function, want = ROWS[name]
    x = xp.asarray([5.0, 6.0], np.float32)
    out = vjp(function, x)[0] if traced else function(x)
    assert out.dtype == np.float32
    np.testing.assert_allclose(to_host(out), want, rtol=1e-6)  # a rounding or two


@pytest.mark.parametrize("x", [2.0, 0.5])
def test_a_condition_on_a_number_that_is_differentiated(x: float, xp: ModuleType) -> None:
    loss, gradient = value_and_grad(lambda a: ops.where(a > 1, ops.multiply(a, a), 0.0))(xp.asarray(x))
    assert (float(loss), float(gradient)) == ((4.0, 4.0) if x > 1 else (0.0, 0.0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_scalar_is_differentiated_as_an_array_of_no_axes(dtype: str) -> None:
    """Not taken for a constant."""
    x = np.array([3.0, 2.0], dtype)[0]
    out, pull = vjp(lambda a: ops.multiply(a, a), x)
    (gradient,) = pull(out)
    assert (float(out), float(gradient), gradient.dtype) == (9.0, 54.0, dtype)
    _, gradients = value_and_grad(lambda p: ops.multiply(p["x"], p["x"]))({"x": x})
    assert (float(gradients["x"]), gradients["x"].dtype) == (6.0, dtype)


@pytest.mark.parametrize(("value", "dtype"), [(0.5, "int64"), (-1, "uint8"), (-np.inf, "int32"), (300, "int8")])
def test_padding_that_the_dtype_cannot_hold_is_refused(value: float, dtype: str, xp: ModuleType) -> None:
    with pytest.raises(ValueError, match=f"padding of {value} is no {dtype}; cast x first"):
        ops.pad(xp.ones(2, dtype), widths=((1, 1),), value=value)


MATRIX = "ignore:the matrix subclass:PendingDeprecationWarning"
UNUSABLE: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "big-endian float32": (lambda: np.ones((2, 2), ">f4"), "is >f4, in another byte order than this machine's"),
    "big-endian float64": (lambda: np.ones((2, 2), ">f8"), "is >f8, in another byte order"),
    "big-endian int64": (lambda: np.ones((2, 2), ">i8"), "is >i8, in another byte order"),
    "masked": (lambda: np.ma.masked_less(np.ones((2, 2)), 0), "is a masked array, whose mask would be ignored"),
    "matrix": (lambda: np.matrix([[1.0, 2.0], [3.0, 4.0]]), "is a numpy.matrix, whose \\* is another product"),
    "complex": (lambda: np.ones((2, 2), complex), "is of the dtype complex128; float16, float32, float64"),
    "extended": (lambda: np.ones((2, 2), np.longdouble), "is of the dtype longdouble|is of the dtype float"),
    "object": (lambda: np.ones((2, 2), object), "is of the dtype object"),
    "text": (lambda: np.full((2, 2), "a"), "is of the dtype str"),
    "dates": (lambda: np.zeros((2, 2), "M8[s]"), "is of the dtype datetime64"),
    "structured": (lambda: np.zeros((2, 2), [("a", "f4")]), "is of a structured dtype"),
}
ENTRIES: dict[str, Callable[[Any], Any]] = {
    "alone": ops.exp,
    "first": lambda x: ops.multiply(x, np.ones((2, 2))),
    "second": lambda x: ops.multiply(np.ones((2, 2)), x),
    "both": lambda x: ops.multiply(x, x),
    "a number": lambda x: ops.add(x, 1.0),
    "a join": lambda x: ops.concatenate([np.ones((2, 2)), x]),
    "an option": lambda x: ops.attention(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)), mask=x),
    "beside a Tensor": lambda x: vjp(lambda a: ops.multiply(a, x), np.ones((2, 2))),
    "differentiated": lambda x: vjp(lambda a, b: ops.multiply(a, b), x, np.ones((2, 2))),
    "a comparison": lambda x: ops.less(x, 1.0),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", UNUSABLE)
@pytest.mark.filterwarnings(MATRIX)
def test_arrays_that_would_be_misread_are_refused_by_name(kind: str, entry: str) -> None:
    if not np.dtype(np.longdouble).itemsize > 8 and kind == "extended":
        pytest.skip("long double is float64 here")
    make, message = UNUSABLE[kind]
    with pytest.raises(TypeError, match=message) as caught:
        ENTRIES[entry](make())
    assert "\n" not in str(caught.value)
    assert "mixed" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in UNUSABLE if kind != "big-endian int64"])
@pytest.mark.filterwarnings(MATRIX)
def test_parameters_that_would_be_misread_are_named(kind: str) -> None:
    with pytest.raises(TypeError, match=r"parameter 'layer/w' is (a|of|>)"):
        value_and_grad(lambda p: ops.sum(p["layer"]["w"]))({"layer": {"w": UNUSABLE[kind][0]()}})


def test_a_mapped_file_is_an_array_as_any_other(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert type(x) is np.memmap
    out, (gradient,) = (lambda pair: (pair[0], pair[1](np.ones((2, 3)))))(vjp(lambda a: ops.multiply(a, x), x))
    assert type(out) is type(gradient) is np.ndarray
    np.testing.assert_array_equal(out, np.arange(6.0).reshape(2, 3) ** 2)
    np.testing.assert_array_equal(gradient, x)
    assert type(ops.exp(x.view(np.recarray))) is np.ndarray
    assert type(value_and_grad(lambda p: ops.sum(p["w"]))({"w": x})[1]["w"]) is np.ndarray


COTANGENTS: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "longer than a sum": (ops.sum, np.ones(5), r"must be float64\[\] as its output, got float64\[5\]"),
    "with an axis too many": (ops.exp, np.ones((2, 3)), r"must be float64\[3\] as its output, got float64\[2, 3\]"),
    "with an axis of one": (ops.exp, np.ones((1, 3)), r"got float64\[1, 3\]"),
    "to be broadcast": (ops.exp, np.ones(1), r"got float64\[1\]"),
    "without axes": (ops.exp, np.ones(()), r"got float64\[\]"),
    "in another dtype": (ops.exp, np.ones(3, np.float32), r"got float32\[3\]"),
    "of integers": (ops.exp, np.ones(3, int), r"got int64\[3\]"),
    "in another byte order": (ops.exp, np.ones(3, ">f8"), r"got >f8\[3\]"),
    "masked": (ops.exp, np.ma.masked_less(np.ones(3), 0), "is a masked array"),
    "a Python number": (ops.sum, 1.0, "got float"),
    "of a view": (lambda x: ops.reshape(x, shape=(3, 1)), np.ones((3, 3)), r"got float64\[3, 3\]"),
    "of the argument itself": (lambda x: x, np.ones((2, 3)), r"got float64\[2, 3\]"),
    "of a constant": (lambda x: np.zeros(2), np.ones(5), r"must be float64\[2\] as its output, got float64\[5\]"),
    "of a checkpoint": (checkpoint(ops.exp), np.ones((2, 3)), r"got float64\[2, 3\]"),
}


@pytest.mark.parametrize("name", COTANGENTS)
def test_a_cotangent_that_is_not_its_outputs_is_refused(name: str) -> None:
    function, cotangent, message = COTANGENTS[name]
    _, pull = vjp(function, np.arange(3.0))
    with pytest.raises(ValueError, match=message):
        pull(cotangent)


def test_the_wrong_one_of_several_cotangents_is_refused() -> None:
    _, pull = vjp(lambda x: {"a": x, "b": ops.sum(x)}, np.arange(3.0))
    with pytest.raises(ValueError, match=re.escape("must be float64[] as its output, got float64[3]")):
        pull({"a": np.ones(3), "b": np.ones(3)})


def test_a_numpy_scalar_is_a_cotangent_of_a_number() -> None:
    assert vjp(ops.sum, np.ones(3))[1](np.float64(2))[0].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("shape", "axis", "want"),
    [
        ((3, 0), -1, (3,)),
        ((0, 3), 0, (3,)),
        ((0,), None, ()),
        ((2, 0, 3), (1, 2), (2,)),
        ((0, 3), 1, (0,)),
        ((2, 0, 3), 0, (0, 3)),
        ((2, 0), None, ()),
    ],
)
@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_log_of_an_empty_sum(shape: Any, axis: Any, want: Any, keepdims: bool, dtype: str, xp: ModuleType) -> None:
    """log 0: -inf, as in PyTorch, JAX and SciPy, which give these shapes; with nothing to differentiate."""
    out, pull = vjp(lambda x: ops.logsumexp(x, axis=axis, keepdims=keepdims), xp.zeros(shape, dtype))
    expected = np.zeros(shape).sum(axis, keepdims=keepdims).shape
    assert keepdims or expected == want
    assert (out.shape, out.dtype) == (expected, dtype)
    assert bool((out == -np.inf).all())
    (gradient,) = pull(xp.ones(out.shape, dtype))
    assert (gradient.shape, gradient.dtype) == (shape, dtype)
