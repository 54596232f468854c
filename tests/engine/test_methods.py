"""NumPy's ways of writing for a Tensor: each gives NumPy's value and its op's gradient, or names the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import ops, value_and_grad
from perceiver_ref.autograd.methods import METHODS
from perceiver_ref.autograd.testing import check_grads

RNG = np.random.default_rng(3)
X = RNG.uniform(0.5, 2, size=(3, 5, 2))
Y = RNG.uniform(0.5, 2, size=(3, 5, 2))

WAYS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: x.sum(),
    "sum of axes": lambda x: x.sum(axis=(0, 2), keepdims=True),
    "mean": lambda x: x.mean(-1),
    "max": lambda x: x.max(axis=1),
    "reshape": lambda x: x.reshape(5, -1),
    "reshape of a tuple": lambda x: x.reshape((2, 15)),
    "transpose": lambda x: x.transpose(1, 2, 0),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "swapaxes": lambda x: x.swapaxes(0, -1),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "flatten": lambda x: x.flatten(),
    "ravel": lambda x: x.ravel(),
    "dot": lambda x: x[0].dot(Y[0].T),
    "astype": lambda x: x.astype(np.float64),
    "index": lambda x: x[1:, 2],
    "rows": lambda x: x[np.array([2, 0, 2])],
    "a list": lambda x: x[[1, -1]],
    "pairs": lambda x: x[np.arange(3), np.array([4, 0, -1])],
    "triples": lambda x: x[np.arange(3), np.array([4, 0, 2]), np.array([1, 1, 0])],
    "an outer index": lambda x: x[np.arange(3)[:, None], np.array([4, 0])],
    "array on the left": lambda x: Y + Y * x - Y / x,
    "number on the left": lambda x: np.float64(2) * x + np.int64(3),
    "@": lambda x: x @ Y.swapaxes(1, 2),
    "@ on the right": lambda x: Y.swapaxes(1, 2) @ x,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_value_is_numpys_and_the_gradient_right(way: str) -> None:
    found: list[Any] = []

    def loss(x: Any) -> Any:
        out = WAYS[way](x)
        found.append(out)
        return ops.sum(ops.multiply(out, np.cos(np.arange(out.size)).reshape(out.shape)))

    value_and_grad(loss)(X)
    np.testing.assert_allclose(found[0].data, WAYS[way](X), rtol=1e-12)
    check_grads(loss, X)


def test_every_method_is_tried() -> None:
    tried = " ".join(WAYS)
    assert not [name for name in METHODS if name not in tried and name != "item"]


def test_an_array_is_not_written_into() -> None:
    def loss(x: Any) -> Any:
        total = np.zeros((3, 5, 2))
        total += x
        return total.sum()

    with pytest.raises(TypeError, match="cannot be written into an array"):
        value_and_grad(loss)(X)


@pytest.mark.parametrize(
    ("way", "error", "text"),
    [
        (np.exp, TypeError, r"numpy\.exp got a Tensor; use the ops, or its \.data: ops\.exp$"),
        (np.square, TypeError, r"ops\.multiply$"),
        (np.mean, TypeError, r"numpy\.mean got a Tensor; .*: ops\.mean$"),
        (lambda x: np.dot(x, x), TypeError, r"ops\.matmul$"),
        (lambda x: np.stack([x, x]), TypeError, r"ops\.stack$"),
        (np.linalg.det, TypeError, r"the ops are absolute, "),
        (np.add.reduce, TypeError, r"numpy\.add\.reduce got a Tensor"),
        (lambda x: np.add(x, x, where=X > 1), TypeError, r"numpy\.add got a Tensor"),
        (lambda x: x.std(), AttributeError, "a Tensor has no attribute 'std'"),
        (lambda x: x.means(), AttributeError, r"did you mean \.mean\?"),
        (lambda x: x.softmax(), AttributeError, r"did you mean ops\.softmax\?"),
        (lambda x: x.sum(dtype=float), TypeError, "sum of a Tensor takes axis and keepdims alone"),
        (lambda x: x[X > 1], TypeError, r"use ops\.where"),
        (lambda x: x[:, np.array([1])], TypeError, r"use ops\.take for one axis"),
        (lambda x: x[np.array([3])], IndexError, "out of range"),
        (lambda x: x[np.array([0]), np.array([5])], IndexError, "out of range for 5 entries"),
        (lambda x: x.squeeze(1), ValueError, "not of length 1"),
        (np.asarray, TypeError, r"use the ops, or its \.data"),
    ],
)
def test_what_has_no_op_says_so(way: Callable[[Any], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        value_and_grad(way)(X)


def test_other_libraries_see_no_ufuncs_on_the_array() -> None:
    """CuPy looks at the array's own attribute, and leaves its operators to a class where that is None."""

    def loss(x: Any) -> Any:
        assert x.__array_ufunc__ is None
        assert not hasattr(x, "get")
        return x.sum()

    value_and_grad(loss)(X)


def test_parameters_from_outside_are_told() -> None:
    params = {"w": X}
    told = "does not depend on any parameter that value_and_grad was given, so all gradients are zero"
    for loss in (
        lambda p: ops.sum(params["w"]),
        lambda p: ops.sum(p["w"].data),
        lambda p: np.sum(params["w"] ** 2),
    ):
        with pytest.warns(UserWarning, match=told):
            _, gradients = value_and_grad(loss)(params)
        assert not gradients["w"].any()
    value_and_grad(lambda p: np.asarray(3.0))(params)  # given, not computed
    value_and_grad(lambda p: ops.sum(params["w"]))({})
