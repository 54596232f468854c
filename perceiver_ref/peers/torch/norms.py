"""PyTorch's norms: over trailing axes, over the batch, and to a length of 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...errors import InputError
from ..base import REQUIRED, Outputs
from .function import function, sizes


def _trailing(given: dict[str, Any], o: dict[str, Any]) -> tuple[Any, list[Any], tuple[int, ...]]:
    """The input with its normalised axes as one, weight and bias (ones and zeros for None) likewise, and its shape."""
    x = given["input"]
    shape = sizes("normalized_shape", o["normalized_shape"], len(o["normalized_shape"]))
    if tuple(x.shape[-len(shape) :]) != shape:
        raise InputError(f"normalized_shape is {shape}, but the input ends in {tuple(x.shape[-len(shape) :])}")
    count, data = math.prod(shape), array_of(x)
    affine = []
    for name, missing in (("weight", 1), ("bias", 0)):
        array = given.get(name)
        constant = xp(data).full((count,), missing, data.dtype)
        affine.append(constant if array is None else ops.reshape(array, shape=(count,)))
    return ops.reshape(x, shape=(*x.shape[: -len(shape)], count)), affine, tuple(x.shape)


def _layer_norm(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    rows, (scale, offset), shape = _trailing(given, o)
    return {"out": ops.reshape(ops.layer_norm(rows, scale, offset, eps=o["eps"]), shape=shape)}


def _rms_norm(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    """`eps` None is the rounding unit of the dtype that is computed in: float32's for float16."""
    rows, (scale, _), shape = _trailing(given, o)
    data = array_of(rows)
    eps = float(np.finfo(np.promote_types(data.dtype, np.float32)).eps) if o["eps"] is None else o["eps"]
    return {"out": ops.reshape(ops.rms_norm(rows, scale, eps=eps), shape=shape)}


@ops.in_float32
def _batch_norm(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    """Over all axes but the channels, the second. Training normalises with the biased variance and keeps the unbiased.

    Running statistics are new = (1 - momentum) old + momentum of the batch.
    """
    x = given["input"]
    axes = tuple(a for a in range(len(x.shape)) if a != 1)
    along = (1, -1, *(1,) * (len(x.shape) - 2))
    outputs: Outputs = {}
    if o["training"] or given["running_mean"] is None:
        mean = ops.mean(x, axis=axes, keepdims=True)
        centred = ops.subtract(x, mean)
        variance = ops.mean(ops.multiply(centred, centred), axis=axes, keepdims=True)
        count = math.prod(x.shape[a] for a in axes)
        unbiased = {"mean": array_of(mean), "var": array_of(variance) * (count / max(count - 1, 1))}
        for name, batch in unbiased.items():
            if given[f"running_{name}"] is not None:
                old = array_of(given[f"running_{name}"])
                outputs[f"new_running_{name}"] = (1 - o["momentum"]) * old + o["momentum"] * batch.reshape(-1)
    else:
        mean, variance = (ops.reshape(given[f"running_{name}"], shape=along) for name in ("mean", "var"))
        centred = ops.subtract(x, mean)
    out = ops.divide(centred, ops.sqrt(ops.add(variance, o["eps"])))
    if given["weight"] is not None:
        out = ops.multiply(out, ops.reshape(given["weight"], shape=along))
    if given["bias"] is not None:
        out = ops.add(out, ops.reshape(given["bias"], shape=along))
    return {"out": out, **outputs}


@ops.in_float32
def _normalize(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    """x / max(|x|_p, eps) along `dim`, one axis or several; a norm below eps gets no gradient."""
    x, dim = given["input"], 1 if o["dim"] is None else o["dim"]
    if not x.shape and dim in (0, -1):  # PyTorch takes a number as one element
        return {name: ops.reshape(y, shape=()) for name, y in _normalize({"input": x[None]}, o).items()}
    along: dict[str, Any] = {"axis": tuple(dim) if isinstance(dim, list) else dim, "keepdims": True}
    norm, flat = length(x, float(o["p"]), along)
    small = array_of(norm) < o["eps"]
    norm = ops.where(flat, array_of(norm), norm)
    return {"out": ops.divide(x, ops.where(small, o["eps"], norm))}


def length(x: Any, p: float, along: dict[str, Any]) -> tuple[Any, Any]:
    """(|x|_p, where it has no slope): the number of elements that are not 0 for p = 0, their largest or smallest size
    for infinite ones, else the sum of |x|^p to 1 / p. An element that is 0 has no slope."""
    data, library = array_of(x), xp(array_of(x))
    size, zero = ops.absolute(x), data == 0
    if p == 0:
        count = (~zero).sum(along["axis"], keepdims=True).astype(data.dtype)
        return count, library.ones(count.shape, bool)
    if math.isinf(p):
        norm = ops.max(size, **along) if p > 0 else ops.negative(ops.max(ops.negative(size), **along))
        return norm, library.zeros(norm.shape, bool)
    if p == 1:
        norm = ops.sum(size, **along)
        return norm, library.zeros(norm.shape, bool)
    nothing = library.asarray(0.0 if p > 0 else math.inf, data.dtype)
    powers = ops.where(zero, nothing, ops.power(ops.where(zero, library.ones((), data.dtype), size), p))
    total = ops.sum(powers, **along)
    flat = (array_of(total) == 0) | library.isinf(array_of(total))  # a root has no slope at 0
    ends = library.asarray(0.0, data.dtype) if p < 0 else array_of(total)
    root = ops.power(ops.where(flat, library.ones((), data.dtype), total), 1 / p)
    return ops.where(flat, ends, root), flat


NORMS = {
    "layer_norm": function(_layer_norm, ("input",), ("weight", "bias"), normalized_shape=REQUIRED, eps=1e-5),
    "rms_norm": function(_rms_norm, ("input",), ("weight",), normalized_shape=REQUIRED, eps=None),
    "batch_norm": function(
        _batch_norm,
        ("input",),
        ("running_mean", "running_var", "weight", "bias"),
        training=False,
        momentum=0.1,
        eps=1e-5,
    ),
    "normalize": function(_normalize, ("input",), p=2.0, dim=None, eps=1e-12),
}
