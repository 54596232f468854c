"""Infinite and missing gradients, and whole numbers, against PyTorch as it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from heavy.peer import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.autograd import kernels, ops, optim, vjp

F = torch.nn.functional
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]
INF, NAN = np.inf, np.nan

Pair = tuple[Callable[..., Any], Callable[..., Any]]


def _attention(q: Any, k: Any, v: Any) -> Any:
    """Masked scores are replaced by the smallest number, as in implementations composed of operations."""
    keep = torch.tensor(MASK)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~keep, torch.finfo(q.dtype).min)
    return torch.softmax(scores, -1) @ v


MASK = np.array([[True, True, False, False], [False, False, True, True]])
SELECTED: dict[str, Pair] = {
    "relu": (ops.relu, torch.relu),
    "squared relu": (ops.squared_relu, lambda x: torch.relu(x) ** 2),
    "maximum": (ops.maximum, torch.maximum),
    "minimum": (ops.minimum, torch.minimum),
    "maximum with 0": (lambda x: ops.maximum(x, 0.0), lambda x: torch.maximum(x, torch.zeros(()))),
    "where": (lambda x, y: ops.where(x > 0, x, y), lambda x, y: torch.where(x > 0, x, y)),
    "sqrt of relu": (lambda x: ops.sqrt(ops.relu(x)), lambda x: torch.sqrt(torch.relu(x))),
    "max along": (lambda x: ops.max(x, axis=-1), lambda x: x.max(-1).values),
    "gather": (
        lambda x: ops.take_along_axis(x, np.zeros((1, 1), int), axis=1),
        lambda x: torch.gather(x, 1, torch.zeros((len(x), 1), dtype=torch.int64)),
    ),
    "slice": (lambda x: x[:, 1:], lambda x: x[:, 1:]),
    "pad": (lambda x: ops.pad(x, widths=((1, 0), (0, 2))), lambda x: F.pad(x, (0, 2, 1, 0))),
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "tanh": (ops.tanh, torch.tanh),
    "exp": (ops.exp, torch.exp),
    "softmax": (ops.softmax, lambda x: torch.softmax(x, -1)),
    "log_softmax": (ops.log_softmax, lambda x: torch.log_softmax(x, -1)),
    "logsumexp": (lambda x: ops.logsumexp(x, axis=-1), lambda x: torch.logsumexp(x, -1)),
    "mean": (lambda x: ops.mean(x, axis=-1), lambda x: x.mean(-1)),
    "power": (lambda x: ops.power(x, 2), lambda x: x**2),
    "max_pool": (
        lambda x: ops.max_pool(x[..., None], window=(2,), strides=(2,), padding=((1, 1),))[..., 0],
        lambda x: F.max_pool1d(x, 2, 2, padding=1),
    ),
}
BINARY = {"maximum", "minimum", "where"}
SPECIAL = st.sampled_from([1.0, -2.0, 0.0, INF, -INF, NAN])
VALUES = st.sampled_from([-3.0, -1.0, 0.0, 0.5, 0.5, 2.0])


def compare(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    arrays: list[np.ndarray],
    cotangent: Any,
    *,
    alike: bool = True,
) -> None:
    """`alike`: what is not finite is the same infinity or NaN, not only in the same places."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    theirs(*tensors).backward(torch.tensor(cotangent))
    with np.errstate(all="ignore"):
        _, pull = vjp(ours, *arrays)
        for got, tensor in zip(pull(cotangent), tensors):
            want = tensor.grad.numpy()
            if not alike:
                got, want = (np.where(np.isfinite(x), x, NAN) for x in (got, want))
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)  # a few roundings


@pytest.mark.parametrize("name", SELECTED)
@settings(max_examples=60)
@given(data=st.data())
def test_gradients_of_infinite_and_nan_gradients(name: str, data: st.DataObject) -> None:
    ours, theirs = SELECTED[name]
    draw = lambda values, shape: np.array(  # noqa: E731
        data.draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    ).reshape(shape)
    if name in ("max along", "max_pool"):  # of elements that tie, PyTorch gives the gradient of `max` to one
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        arrays = [rng.permutation(8).reshape(2, 4) / 2.0 - 1.0]
        if name == "max_pool" and data.draw(st.booleans()):
            arrays[0][0] = -INF
    else:
        arrays = [draw(VALUES, (2, 4)) for _ in range(2 if name in BINARY else 1)]
    out = theirs(*(torch.tensor(a) for a in arrays))
    compare(ours, theirs, arrays, draw(SPECIAL, tuple(out.shape)))


@pytest.mark.parametrize("mode", ["fast", "plain"])
@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_masked_scores_of_attention(mode: str, data: st.DataObject, seed: int) -> None:
    """Queries and keys; values are a product with the weights, whose zeros times infinity are NaN in both.

    Another order of sums makes NaN of infinities or not, but of the keys of other queries only finite numbers.
    """
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((n, 3)) for n in (2, 4, 4))
    g = np.array(data.draw(st.lists(SPECIAL, min_size=6, max_size=6))).reshape(2, 3)
    with kernels(mode):
        ours = lambda *a: ops.attention(*a, mask=MASK, masked_rows="uniform")  # noqa: E731
        compare(lambda a, b: ours(a, b, v), lambda a, b: _attention(a, b, torch.tensor(v)), [q, k], g, alike=False)


OPTIMIZERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "SGD": (lambda: optim.sgd(0.1, weight_decay=0.1), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1)),
    "SGD dampened": (
        lambda: optim.sgd(0.1, momentum=0.9, dampening=0.3),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3),
    ),
    "SGD Nesterov": (
        lambda: optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "Adam": (lambda: optim.adam(0.1, weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1)),
    "AMSGrad": (lambda: optim.adam(0.1, amsgrad="raw"), lambda p: torch.optim.Adam(p, 0.1, amsgrad=True)),
    "AdamW": (lambda: optim.adamw(0.1, b2=0.9), lambda p: torch.optim.AdamW(p, 0.1, betas=(0.9, 0.9))),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=40)
@given(pattern=st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_parameters_without_a_gradient_in_some_steps(name: str, pattern: list[Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = OPTIMIZERS[name]
    params = {key: rng.standard_normal((2, 3)) for key in "abc"}
    tensors = {key: torch.tensor(p, requires_grad=True) for key, p in params.items()}
    optimizer, their_optimizer = ours(), theirs(list(tensors.values()))
    state = optimizer.init(params)
    for row in pattern:
        gradients = {key: rng.standard_normal((2, 3)) if there else None for key, there in zip("abc", row)}
        params, state = optimizer.step(params, gradients, state)
        for key, t in tensors.items():
            t.grad = None if gradients[key] is None else torch.tensor(gradients[key])
        their_optimizer.step()
        for key, t in tensors.items():
            np.testing.assert_allclose(params[key], t.detach().numpy(), rtol=1e-12, atol=1e-14)


FRACTIONS: dict[str, Pair] = {
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "erf": (ops.erf, torch.erf),
    "tanh": (ops.tanh, torch.tanh),
    "exp": (ops.exp, torch.exp),
    "sin": (ops.sin, torch.sin),
    "cos": (ops.cos, torch.cos),
    "divide": (lambda x: ops.divide(x, 3), lambda x: x / 3),
    "logsumexp": (lambda x: ops.logsumexp(x, axis=0), lambda x: torch.logsumexp(x, 0)),
}


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "int32", "int64"])
def test_functions_of_whole_numbers(name: str, dtype: str) -> None:
    """PyTorch computes those in float32 whatever the integer; ours in the dtype of NumPy's exp."""
    x = np.array([0, 1, 2, 5]).astype(dtype)
    ours, theirs = FRACTIONS[name]
    got, want = ours(x), theirs(torch.tensor(x)).numpy()
    tolerance = 2e-3 if got.dtype == np.float16 else 1e-6  # of the coarser of the two dtypes
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
