"""For every op a small call whose values are whole numbers from 1 to 3, which every dtype holds."""

from __future__ import annotations

from typing import Any

import numpy as np

_X, _Y = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]), np.array([[2.0, 2.0, 1.0], [1.0, 3.0, 3.0]])
_ROW = np.array([2.0, 1.0, 3.0])
_SQUARE = np.array([[1.0, 2.0, 1.0], [3.0, 1.0, 2.0], [2.0, 2.0, 3.0]])
_IMAGE = np.array([1.0, 3.0, 2.0, 2.0, 1.0, 3.0, 1.0, 2.0]).reshape(1, 4, 2)
_WINDOW = np.array([1.0, 2.0, 3.0, 1.0]).reshape(2, 2, 1)
_GRID: dict[str, Any] = {"strides": (1,), "padding": ((1, 0),)}

Call = tuple[tuple[Any, ...], dict[str, Any]]
CALLS: dict[str, Call] = {
    "attention": ((_X, _SQUARE, _SQUARE[:, :2]), {"mask": np.array([[True, True, False], [True, True, True]])}),
    "attention_weights": ((_X, _SQUARE, _Y), {}),
    "broadcast_to": ((_ROW,), {"shape": (2, 3)}),
    "cast": ((_X,), {"dtype": "float32"}),
    "concatenate": ((_X, _Y), {"axis": 0}),
    "convolution": ((_IMAGE, _WINDOW), _GRID),
    "cross_entropy": ((_X, np.array([0, 2])), {}),
    "dropout": ((_X,), {"rate": 0.25, "key": 1}),
    "getitem": ((_X,), {"index": (slice(None), 1)}),
    "layer_norm": ((_X, _ROW, _ROW), {}),
    "linear": ((_X, _SQUARE, _ROW), {}),
    "log_softmax": ((_X,), {"axis": 1}),
    "logsumexp": ((_X,), {"axis": 1}),
    "matmul": ((_X, _SQUARE), {}),
    "max": ((_X,), {"axis": 1}),
    "max_pool": ((_IMAGE,), {"window": (2,), **_GRID}),
    "mean": ((_X,), {"axis": 1}),
    "pad": ((_X,), {"widths": ((1, 0), (0, 2)), "value": 1}),
    "reshape": ((_X,), {"shape": (3, 2)}),
    "rms_norm": ((_X, _ROW), {}),
    "softmax": ((_X,), {"axis": 0}),
    "split": ((_X,), {"sizes": (1, 2), "axis": 1}),
    "stack": ((_X, _Y), {"axis": 1}),
    "sum": ((_X,), {"axis": 1}),
    "take": ((_X, np.array([1, 0, 1])), {"axis": 0}),
    "take_along_axis": ((_X, np.array([[1], [2]])), {"axis": 1}),
    "transpose": ((_X,), {}),
    "transposed_convolution": ((_IMAGE, _WINDOW), _GRID),
    "where": ((np.array([True, False, True]), _X, _Y), {}),
    **{name: ((_X, _Y), {}) for name in ("absolute_error", "add", "binary_cross_entropy", "divide", "maximum")},
    **{name: ((_X, _Y), {}) for name in ("minimum", "multiply", "power", "squared_error", "subtract")},
    **{name: ((_X, _Y), {}) for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")},
    **{name: ((_X,), {}) for name in ("absolute", "cos", "erf", "exp", "gelu_erf", "gelu_tanh", "log", "negative")},
    **{name: ((_X,), {}) for name in ("relu", "sigmoid", "silu", "sin", "sqrt", "squared_relu", "tanh")},
}
"""name -> (positional arguments, options)."""

FRACTIONS = {
    *("absolute_error", "attention", "attention_weights", "binary_cross_entropy", "cos", "cross_entropy", "divide"),
    *("dropout", "erf", "exp", "gelu_erf", "gelu_tanh", "layer_norm", "log", "log_softmax", "logsumexp", "max_pool"),
    *(
        "mean",
        "power",
        "rms_norm",
        "sigmoid",
        "silu",
        "sin",
        "softmax",
        "sqrt",
        "squared_error",
        "squared_relu",
        "tanh",
    ),
}
"""Ops whose results are fractions even of whole numbers, or that fill in what no integer can be."""

LABELS = {"cross_entropy": (1,), "take": (1,), "take_along_axis": (1,), "where": (0,)}
"""Positions of what is no value: classes, indices, a condition."""
