"""docs/DEFAULTS.md: what the table says of frameworks, read off those that are installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from defaults.rows import ROWS

pytestmark = pytest.mark.heavy
ONE = 1.0
ERF, TANH = 0.8413447, 0.8411920
EMPTY = np.array([[True, True], [False, False]])
VALUES = np.arange(8, dtype=np.float32).reshape(2, 4)


def default(function: Any, name: str) -> Any:
    """What a parameter is where it is left out."""
    return inspect.signature(function).parameters[name].default


def gelu(found: float) -> str:
    return "erf" if abs(found - ERF) < 1e-5 else "tanh" if abs(found - TANH) < 1e-5 else str(found)


def variance(found: float) -> str:
    return {14 / 9: "biased", 14 / 6: "unbiased"}[min((14 / 9, 14 / 6), key=lambda v: abs(v - found))]


def empty(row: Any) -> str:
    row = np.asarray(row, np.float64)
    return "zeros" if not row.any() else "the average of all values" if np.allclose(row, VALUES.mean(0)) else str(row)


def half(found: Any) -> str:
    """Of glu([1, 2, 3, 4])."""
    first = np.array([1, 2]) / (1 + np.exp(-np.array([3.0, 4.0])))
    return "second" if np.allclose(np.asarray(found), first, atol=1e-5) else "first"


def grid(found: Any) -> str:
    return {(3, 2): "x first", (2, 3): "y first"}[tuple(found[0].shape)]


def exponent(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")


def torch_values() -> dict[str, str]:
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    q = torch.ones(1, 1, 2, 4)
    attended = torch.nn.functional.scaled_dot_product_attention(
        q, q, torch.tensor(VALUES)[None, None], attn_mask=torch.tensor(EMPTY)
    )
    return {
        "GELU": gelu(float(torch.nn.functional.gelu(torch.tensor(ONE)))),
        "Epsilon of layer norm": exponent(default(torch.nn.LayerNorm, "eps")),
        "Epsilon of RMS norm": {None: "that of the dtype"}[default(torch.nn.RMSNorm, "eps")],
        "Variance": variance(float(torch.tensor([1.0, 2.0, 4.0]).var())),
        "Halves of a gated MLP": half(torch.nn.functional.glu(x)),
        "Weight of a linear map": {(3, 2): "(outputs, inputs)"}[tuple(torch.nn.Linear(2, 3).weight.shape)],
        "Rows without any key": empty(attended[0, 0, 1]),
        "Momentum of batch norm": f"{default(torch.nn.BatchNorm2d, 'momentum')}, of the new",
        "Epsilon of Adam": exponent(default(torch.optim.Adam, "eps")),
        "Padding of an embedding": {None: "none"}[default(torch.nn.Embedding, "padding_idx")],
    }


def jax_values() -> dict[str, str]:
    jax = pytest.importorskip("jax")
    ones = np.ones((1, 2, 1, 4), np.float32)
    attended = jax.nn.dot_product_attention(ones, ones, VALUES[None, :, None], mask=EMPTY[None, None])
    made = {
        "GELU": gelu(float(jax.nn.gelu(ONE))),
        "Variance": variance(float(jax.numpy.var(np.array([1.0, 2.0, 4.0])))),
        "Halves of a gated MLP": half(jax.nn.glu(np.array([1.0, 2.0, 3.0, 4.0]))),
        "Axes of a grid": grid(jax.numpy.meshgrid(np.arange(2), np.arange(3))),
        "Axis of softmax": {-1: "the last"}[default(jax.nn.softmax, "axis")],
    }
    assert empty(attended[0, 1, 0]) == "the average of all values"
    return made


def flax_values() -> dict[str, str]:
    linen = pytest.importorskip("flax.linen")
    return {
        "Epsilon of layer norm": exponent(default(linen.LayerNorm, "epsilon")),
        "Epsilon of RMS norm": exponent(default(linen.RMSNorm, "epsilon")),
        "Momentum of batch norm": f"{default(linen.BatchNorm, 'momentum')}, of the old",
    }


def haiku_values() -> dict[str, str]:
    haiku = pytest.importorskip("haiku")
    return {
        "Epsilon of layer norm": exponent(default(haiku.LayerNorm, "eps")),
        "Epsilon of RMS norm": exponent(default(haiku.RMSNorm, "eps")),
        "Momentum of batch norm": {inspect.Parameter.empty: "must be given"}[default(haiku.BatchNorm, "decay_rate")],
    }


def keras_values() -> dict[str, str]:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    return {
        "GELU": {False: "erf"}[default(keras.activations.gelu, "approximate")],
        "Epsilon of layer norm": exponent(default(layers.LayerNormalization, "epsilon")),
        "Epsilon of RMS norm": exponent(default(layers.RMSNormalization, "epsilon")),
        "Axis of softmax": {-1: "the last"}[default(keras.activations.softmax, "axis")],
        "Momentum of batch norm": f"{default(layers.BatchNormalization, 'momentum')}, of the old",
        "Epsilon of Adam": exponent(default(keras.optimizers.Adam, "epsilon")),
    }


def mlx_values() -> dict[str, str]:
    mx = pytest.importorskip("mlx.core")
    nn, optimizers = pytest.importorskip("mlx.nn"), pytest.importorskip("mlx.optimizers")
    ones = mx.ones((1, 1, 2, 4))
    attended = mx.fast.scaled_dot_product_attention(
        ones, ones, mx.array(VALUES)[None, None], scale=0.5, mask=mx.array(EMPTY)
    )
    every = np.allclose(np.array(mx.softmax(mx.zeros((2, 2)))), 0.25)
    corrected = {True: "", False: ", and no correction"}[default(optimizers.Adam, "bias_correction")]
    return {
        "GELU": gelu(float(nn.GELU()(mx.array(ONE)))),
        "Epsilon of layer norm": exponent(default(nn.LayerNorm, "eps")),
        "Epsilon of RMS norm": exponent(default(nn.RMSNorm, "eps")),
        "Variance": variance(float(mx.var(mx.array([1.0, 2.0, 4.0])))),
        "Halves of a gated MLP": half(np.array(nn.glu(mx.array([1.0, 2.0, 3.0, 4.0])))),
        "Weight of a linear map": {(3, 2): "(outputs, inputs)"}[tuple(nn.Linear(2, 3).weight.shape)],
        "Rows without any key": empty(np.array(attended)[0, 0, 1]),
        "Axis of softmax": "all axes together" if every else "another",
        "Axes of a grid": grid(mx.meshgrid(mx.arange(2), mx.arange(3))),
        "Corners in resizing": {False: "centres"}[default(nn.Upsample, "align_corners")],
        "Momentum of batch norm": f"{default(nn.BatchNorm, 'momentum')}, of the new",
        "Epsilon of Adam": f"{exponent(default(optimizers.Adam, 'eps'))}{corrected}",
    }


FRAMEWORKS: dict[str, Callable[[], dict[str, str]]] = {
    "PyTorch": torch_values,
    "JAX": jax_values,
    "Flax": flax_values,
    "Haiku": haiku_values,
    "Keras": keras_values,
    "MLX": mlx_values,
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.filterwarnings("default")
def test_a_framework_has_the_defaults_of_the_table(framework: str) -> None:
    table = {row.name: value for row in ROWS for name, value, _ in row.values if name == framework}
    for name, found in FRAMEWORKS[framework]().items():
        assert name in table, name
        assert table[name].startswith(found), (name, found, table[name])
