"""A pre-norm Transformer block for the engine alone: in ours, in HIPS autograd and in MyGrad, forward and backward.

    x = x + attention(norm(x)); x = x + mlp(norm(x)); loss = sum(x * c)

"ours" is written with the ops that the engine has (a layer norm, an attention and a linear map are one op each); the
others, and "ours elementary", with what all three have.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import perceiver_ref as pr
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import keep_memory, ops, tree, value_and_grad

from .base import ROOT, Built, MissingError, Spec, sample, with_gradients
from .case import BOTH
from .cases import case
from .memory import cupy_peak, process_peak, resident

Params = dict[str, Any]


def parameters(channels: int) -> Params:
    """The block's weights: four matrices of attention, two of an MLP four times as wide, two norms."""
    rng = np.random.default_rng(0)
    wide = 4 * channels
    shapes = dict.fromkeys(("query", "key", "value", "output"), (channels, channels))
    shapes |= {"hidden": (channels, wide), "out": (wide, channels)}
    made = {name: rng.standard_normal(s, np.float32) / np.float32(math.sqrt(s[0])) for name, s in shapes.items()}
    made |= {f"{name}_bias": rng.standard_normal(s[1], np.float32) * np.float32(0.1) for name, s in shapes.items()}
    for norm in ("first", "second"):
        made |= {f"{norm}_scale": np.ones(channels, np.float32), f"{norm}_offset": np.zeros(channels, np.float32)}
    return made


def fused(p: Params, x: Any, c: Any, heads: int) -> Any:
    """The loss, with our ops."""
    b, n, d = x.shape

    def split(name: str, y: Any) -> Any:
        y = ops.reshape(ops.linear(y, p[name], p[f"{name}_bias"]), shape=(b, n, heads, d // heads))
        return ops.transpose(y, axes=(0, 2, 1, 3))

    y = ops.layer_norm(x, p["first_scale"], p["first_offset"])
    mixed = ops.transpose(ops.attention(split("query", y), split("key", y), split("value", y)), axes=(0, 2, 1, 3))
    x = ops.add(x, ops.linear(ops.reshape(mixed, shape=(b, n, d)), p["output"], p["output_bias"]))
    y = ops.layer_norm(x, p["second_scale"], p["second_offset"])
    y = ops.gelu_tanh(ops.linear(y, p["hidden"], p["hidden_bias"]))
    x = ops.add(x, ops.linear(y, p["out"], p["out_bias"]))
    return ops.sum(ops.multiply(x, c))


class Elementary:
    """The functions that all three engines have, under one name each."""

    reshape: Callable[..., Any]
    transpose: Callable[..., Any]

    def __init__(self, library: Any, *, static: bool) -> None:
        self.exp, self.tanh, self.sum = library.exp, library.tanh, library.sum
        self.matmul = library.matmul
        if static:  # ours: what is no array goes by keyword
            self.reshape = lambda x, shape: library.reshape(x, shape=shape)
            self.transpose = lambda x, axes: library.transpose(x, axes=axes)
        else:
            self.reshape, self.transpose = library.reshape, library.transpose

    def norm(self, x: Any, scale: Any, offset: Any) -> Any:
        d = x.shape[-1]
        centred = x - self.sum(x, axis=-1, keepdims=True) * (1 / d)
        variance = self.sum(centred * centred, axis=-1, keepdims=True) * (1 / d)
        return centred * (variance + 1e-5) ** -0.5 * scale + offset

    def softmax(self, x: Any) -> Any:  # logits are small: no maximum is needed
        e = self.exp(x)
        return e / self.sum(e, axis=-1, keepdims=True)

    def gelu(self, x: Any) -> Any:
        return x * 0.5 * (self.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1.0)

    def loss(self, p: Params, x: Any, c: Any, heads: int) -> Any:
        b, n, d = x.shape

        def split(name: str, y: Any) -> Any:
            y = self.reshape(self.matmul(y, p[name]) + p[f"{name}_bias"], (b, n, heads, d // heads))
            return self.transpose(y, (0, 2, 1, 3))

        y = self.norm(x, p["first_scale"], p["first_offset"])
        q, k, v = (split(name, y) for name in ("query", "key", "value"))
        weights = self.softmax(self.matmul(q, self.transpose(k, (0, 1, 3, 2))) * (1 / math.sqrt(d // heads)))
        mixed = self.reshape(self.transpose(self.matmul(weights, v), (0, 2, 1, 3)), (b, n, d))
        x = x + self.matmul(mixed, p["output"]) + p["output_bias"]
        y = self.norm(x, p["second_scale"], p["second_offset"])
        y = self.gelu(self.matmul(y, p["hidden"]) + p["hidden_bias"])
        x = x + self.matmul(y, p["out"]) + p["out_bias"]
        return self.sum(x * c)


Run = Callable[[Params, Any, Any, int], tuple[Any, Params]]


@contextmanager
def _outside_the_clone() -> Iterator[None]:
    """Import what is installed: the clone's own folder autograd/ has the name of HIPS autograd."""
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if Path(entry or ".").resolve() != ROOT]
    try:
        yield
    finally:
        sys.path[:] = before


def _ours() -> Run:
    return lambda p, x, c, heads: value_and_grad(fused)(p, x, c, heads)


def _ours_elementary() -> Run:
    gradients = value_and_grad(Elementary(ops, static=True).loss)
    return lambda p, x, c, heads: gradients(p, x, c, heads)


def _autograd() -> Run:
    with _outside_the_clone():
        import autograd.numpy  # type: ignore[import-untyped]

        from autograd import value_and_grad as gradients_of

    gradients = gradients_of(Elementary(autograd.numpy, static=False).loss)
    return lambda p, x, c, heads: gradients(p, x, c, heads)


def _mygrad() -> Run:
    mygrad: Any = import_module("mygrad")
    elementary = Elementary(mygrad, static=False)

    def run(p: Params, x: Any, c: Any, heads: int) -> tuple[Any, Params]:
        tensors = {name: mygrad.tensor(a, copy=False) for name, a in p.items()}
        loss = elementary.loss(tensors, x, c, heads)
        loss.backward()
        return loss.data, {name: t.grad for name, t in tensors.items()}

    return run


ENGINES: dict[str, tuple[Callable[[], Run], str]] = {
    "ours": (_ours, ""),
    "ours elementary": (_ours_elementary, ""),
    "autograd": (_autograd, "autograd"),
    "mygrad": (_mygrad, "mygrad"),
}
"""Implementation -> what makes it, and its package."""


def build(spec: Spec) -> Built:
    """The block in one of the engines."""
    sizes = case(spec.case).sizes(spec.quick)
    make, package = ENGINES[spec.implementation]
    if not package:
        keep_memory()
    if package and spec.backend == "cupy":
        raise MissingError(f"{package} has no GPU backend")
    try:
        run = make()
    except ImportError as error:
        raise MissingError(f"{error.name} is not installed") from error
    library = backends.module(spec.backend)
    shape = (sizes["batch"], sizes["length"], sizes["channels"])
    x, c = (library.asarray(a) for a in np.random.default_rng(1).standard_normal((2, *shape), np.float32))
    params = tree.map(library.asarray, parameters(sizes["channels"]))

    def both() -> Any:
        return run(params, x, c, sizes["heads"])

    def summary(result: Any) -> np.ndarray:
        loss, gradients = result
        squares = sum(float((backends.to_host(g).astype(np.float64) ** 2).sum()) for g in gradients.values())
        return with_gradients(sample({"loss": backends.to_host(loss)}), squares)

    on_gpu = spec.backend == "cupy"
    held = resident()
    return Built(
        {BOTH: both},
        {BOTH: summary},
        library.cuda.get_current_stream().synchronize if on_gpu else lambda: None,
        cupy_peak(library) if on_gpu else process_peak(held),
        held,
        versions={package: version(package)} if package else {"perceiver-ref": pr.__version__},
    )
