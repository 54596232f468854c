"""float16: numbers too large, too small or too many for arithmetic in it have the right results nevertheless."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.halves import HALF, assert_rounded_once, full

from perceiver_ref.autograd import kernels, ops, vjp
from perceiver_ref.models.call import Call
from perceiver_ref.models.classification import soft_cross_entropy
from perceiver_ref.models.layers import BatchNorm

both_modes = pytest.mark.parametrize("mode", ["plain", "fast"])
one, zero = full(4, 1), full(4, 0)
row = np.array([[300, -300, 100, 0]], HALF)
wide = row.astype(float)
centred = wide - wide.mean()
FORWARD: dict[str, tuple[Callable[[Any], Any], list[np.ndarray], Any]] = {
    "layer_norm of large": (lambda a: ops.layer_norm(*a), [row, one, zero], centred / np.sqrt((centred**2).mean())),
    "layer_norm of small": (
        lambda a: ops.layer_norm(*a, eps=1e-12),
        [full((1, 4), 0) + np.array([2e-4, 0, 0, 0], HALF), one, zero],
        [[3 / np.sqrt(3), -1 / np.sqrt(3), -1 / np.sqrt(3), -1 / np.sqrt(3)]],
    ),
    "layer_norm of a constant": (
        lambda a: ops.layer_norm(*a, eps=1e-8),
        [full((1, 4), 3), one, zero],
        np.zeros((1, 4)),
    ),
    "rms_norm of large": (lambda a: ops.rms_norm(*a), [row, one], wide / np.sqrt((wide**2).mean())),
    "rms_norm of small": (lambda a: ops.rms_norm(*a, eps=1e-12), [full((1, 4), 1e-4), one], np.ones((1, 4))),
    "squared_error": (lambda a: ops.squared_error(*a), [full(30_000, 2), full(30_000, 0)], 4.0),
    "absolute_error": (lambda a: ops.absolute_error(*a), [full(30_000, 9), full(30_000, 0)], 9.0),
    "binary_cross_entropy": (
        lambda a: ops.binary_cross_entropy(*a),
        [full(30_000, 5), full(30_000, 0)],
        np.log1p(np.exp(5)),
    ),
    "sum": (lambda a: ops.sum(a[0], axis=0), [full((3000, 1), 10)], [30_000.0]),
    "mean": (lambda a: ops.mean(a[0], axis=(0, 1)), [full((300, 40, 2), 40)], [40.0, 40.0]),
    "logsumexp": (lambda a: ops.logsumexp(a[0], axis=0), [full((70_000, 1), 0)], [np.log(70_000)]),
    "softmax": (lambda a: ops.softmax(a[0]), [full((1, 70_000), 0)], np.full((1, 70_000), 1 / 70_000)),
    "softmax of columns": (
        lambda a: ops.softmax(a[0], axis=0),
        [full((70_000, 1), 0)],
        np.full((70_000, 1), 1 / 70_000),
    ),
    "log_softmax": (lambda a: ops.log_softmax(a[0]), [full((1, 70_000), 0)], np.full((1, 70_000), -np.log(70_000))),
    "attention": (
        lambda a: ops.attention(*a),
        [full((1, 1, 64), 40), full((1, 4, 64), 40), np.arange(4, dtype=HALF).reshape(1, 4, 1)],
        [[[1.5]]],
    ),
    "attention of many": (
        lambda a: ops.attention(*a),
        [full((1, 2, 8), 1), full((1, 70_000, 8), 1), full((1, 70_000, 1), 3)],
        np.full((1, 2, 1), 3.0),
    ),
    "attention_weights": (
        lambda a: ops.attention_weights(*a),
        [full((1, 1, 64), 40), full((1, 4, 64), -40)],
        np.full((1, 1, 4), 0.25),
    ),
    "cross_entropy": (lambda a: ops.cross_entropy(a[0], np.zeros(5000, np.int64)), [full((5000, 100), 1)], np.log(100)),
    "soft_cross_entropy": (
        lambda a: soft_cross_entropy(*a),
        [full((1, 5000), 9), full((1, 5000), 1 / 5000)],
        [np.log(5000) * 5000 * float(HALF(1 / 5000))],
    ),
    "linear": (lambda a: ops.linear(*a), [full((1, 5000), 3), full((5000, 1), 3), full(1, 1)], [[45_001.0]]),
    "matmul": (
        lambda a: ops.matmul(*a),
        [full((1, 4), 300) * np.array([1, -1, 1, -1], HALF), full((4, 1), 300)],
        [[0.0]],
    ),
    "convolution": (
        lambda a: ops.convolution(*a, strides=(1,), padding=((0, 0),)),
        [full((1, 5000, 1), 3), full((5000, 1, 1), 3)],
        [[[45_000.0]]],
    ),
    "silu": (lambda a: ops.silu(a[0]), [np.array([-16, 60_000], HALF)], [-16 / (1 + np.exp(16)), 60_000]),
    "gelu_tanh": (lambda a: ops.gelu_tanh(a[0]), [np.array([100, -100], HALF)], [100, 0]),
    "power": (lambda a: ops.power(a[0], 0.5), [np.array([60_000], HALF)], [np.sqrt(60_000)]),
    "add a number": (lambda a: ops.add(a[0], 1e5), [np.array([-60_000], HALF)], [4e4]),
    "divide by a number": (lambda a: ops.divide(a[0], 1e5), [np.array([60_000], HALF)], [0.6]),
    "batch norm": (
        lambda a: BatchNorm(1).apply({"scale": a[1], "offset": a[2]}, a[0], Call(), batch_statistics=True),
        [np.array([400, -400] * 500, HALF).reshape(-1, 1), full(1, 1), full(1, 0)],
        np.array([1, -1] * 500).reshape(-1, 1),
    ),
}


@both_modes
@pytest.mark.parametrize("name", FORWARD)
def test_what_would_overflow_underflow_or_stagnate(name: str, xp: ModuleType, mode: str) -> None:
    function, arrays, exact = FORWARD[name]
    with kernels(mode):
        assert_rounded_once(function([xp.asarray(a) for a in arrays]), np.asarray(exact))


def _norm_exact(x: np.ndarray, g: np.ndarray, inverse: float) -> np.ndarray:
    unit = x * inverse
    return inverse * (g - unit * (g * unit).mean(-1, keepdims=True))


cot = np.array([[1, 2, -1, 0.5]], HALF)
rms = 1 / np.sqrt((wide**2).mean() + 1e-6)
BACKWARD: dict[str, tuple[Callable[..., Any], list[np.ndarray], np.ndarray, int, Any]] = {
    "divide": (ops.divide, [full(1, 300), full(1, 300)], full(1, 1), 1, [-1 / 300]),
    "bias over 500 rows": (
        ops.linear,
        [full((500, 2), 1), full((2, 3), 1), full(3, 0)],
        full((500, 3), 10.01),
        2,
        np.full(3, 500 * float(HALF(10.01))),
    ),
    "bias over 3000 rows": (ops.add, [full((3000, 2), 1), full(2, 0)], full((3000, 2), 10), 1, [30_000.0, 30_000.0]),
    "scale over 3000 rows": (
        ops.multiply,
        [full((3000, 2), 0.1), full(2, 1)],
        full((3000, 2), 100),
        1,
        np.full(2, 3e5 * float(HALF(0.1))),
    ),
    "norm's offset": (ops.layer_norm, [full((3000, 4), 1), one, zero], full((3000, 4), 10), 2, np.full(4, 3e4)),
    "norm's input": (ops.rms_norm, [row, one], cot, 0, _norm_exact(wide, cot.astype(float), float(rms))),
    "weight over 5000 rows": (ops.linear, [full((5000, 1), 3), full((1, 1), 1)], full((5000, 1), 3), 1, [[45_000.0]]),
    "embedding": (
        lambda table: ops.take(table, np.zeros(3000, np.int64)),
        [full((2, 1), 0)],
        full((3000, 1), 10),
        0,
        [[3e4], [0.0]],
    ),
    "gather": (
        lambda x: ops.take_along_axis(x, np.zeros((1, 3000), np.int64)),
        [full((1, 2), 0)],
        full((1, 3000), 10),
        0,
        [[3e4, 0.0]],
    ),
    "broadcast_to": (lambda x: ops.broadcast_to(x, shape=(3000, 2)), [full(2, 0)], full((3000, 2), 10), 0, [3e4, 3e4]),
    "mean": (ops.mean, [full(70_000, 1)], np.array(30_000, HALF), 0, np.full(70_000, 3 / 7)),
    "max of ties": (ops.max, [full(3000, 1)], np.array(30_000, HALF), 0, np.full(3000, 10.0)),
    "squared_error": (
        ops.squared_error,
        [full(70_000, 200), full(70_000, -200)],
        np.array(70, HALF),
        0,
        np.full(70_000, 0.8),
    ),
    "max_pool": (
        lambda x: ops.max_pool(x, window=(3000,), strides=(1,), padding=((0, 0),)),
        [np.eye(1, 5999, 2999, dtype=HALF)[..., None]],  # the middle one is the largest of every window
        full((1, 3000, 1), 10),
        0,
        3e4 * np.eye(1, 5999, 2999)[..., None],
    ),
}


@both_modes
@pytest.mark.parametrize("name", BACKWARD)
def test_gradients_that_would_overflow_underflow_or_stagnate(name: str, xp: ModuleType, mode: str) -> None:
    function, arrays, cotangent, position, exact = BACKWARD[name]
    with kernels(mode):
        _, pull = vjp(function, *[xp.asarray(a) for a in arrays])
        assert_rounded_once(pull(xp.asarray(cotangent))[position], np.asarray(exact))
