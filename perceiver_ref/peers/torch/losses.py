"""PyTorch's losses."""

from __future__ import annotations

import math
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...errors import InputError
from ..base import Option, Outputs
from .function import function


@ops.in_float32
def _cross_entropy(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    """Classes are the second axis (the only one of a single example); targets are classes or probabilities."""
    logits, target, weight = given["input"], given["target"], array_of(given["weight"])
    axes = len(logits.shape)
    logits = ops.transpose(logits, axes=(0, *range(2, axes), 1)) if axes > 1 else logits
    if array_of(target).dtype.kind in "iu":
        options = {key: o[key] for key in ("ignore_index", "label_smoothing")} | {"reduction": _reduction(o)}
        return {"loss": ops.cross_entropy(logits, array_of(target), class_weights=weight, **options)}
    target = ops.transpose(target, axes=(0, *range(2, axes), 1)) if axes > 1 else target
    smoothing, classes = o["label_smoothing"], logits.shape[-1]
    target = ops.add(ops.multiply(target, 1 - smoothing), smoothing / classes)
    weighted = target if weight is None else ops.multiply(target, weight)
    losses = ops.negative(ops.sum(ops.multiply(weighted, ops.log_softmax(logits)), axis=-1))
    return {"loss": _reduced(losses, _reduction(o))}


@ops.in_float32
def _losses(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    pair = given["input"], given["target"]
    return {
        "bce_with_logits": ops.binary_cross_entropy(*pair, reduction=o["reduction"]),
        "mse": ops.squared_error(*pair, reduction=o["reduction"]),
        "smooth_l1": _reduced(_smooth_l1(*pair, o["beta"]), o["reduction"]),
        "l1": ops.absolute_error(*pair, reduction=o["reduction"]),
    }


def _smooth_l1(x: Any, y: Any, beta: float) -> Any:
    """d^2 / (2 beta) where d = |x - y| < beta, else d - beta / 2 (Girshick 2015, arXiv 1504.08083, eq. 3)."""
    d = ops.absolute(ops.subtract(x, y))
    if beta == 0:
        return d
    square = ops.multiply(ops.multiply(d, d), 0.5 / beta)
    return ops.where(array_of(d) < beta, square, ops.subtract(d, 0.5 * beta))


def _reduced(losses: Any, reduction: str) -> Any:
    if reduction not in ("none", "mean", "sum"):
        raise InputError(f"unknown reduction {reduction!r}; known: mean, sum, none")
    if reduction == "none":
        return losses
    total = ops.sum(losses)
    return ops.divide(total, max(math.prod(losses.shape), 1)) if reduction == "mean" else total


def _reduction(o: dict[str, Any]) -> str:
    """The reduction; `size_average` and `reduce`, which came before it, win where either is given."""
    if o["size_average"] is None and o["reduce"] is None:
        return str(o["reduction"])
    if o["reduce"] is False:
        return "none"
    return "sum" if o["size_average"] is False else "mean"


def _single(name: str) -> Any:
    """One of the losses on its own, with what only the single one takes."""

    def compute(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
        o = {"beta": 1.0, **o, "reduction": _reduction(o)}
        if given.get("weight") is None and given.get("pos_weight") is None:
            return {"loss": _losses(given, o)[name]}
        x, y, weight = given["input"], given["target"], given["weight"]
        if name == "bce_with_logits":
            return {"loss": _weighted_entropy(x, y, weight, given["pos_weight"], o["reduction"])}
        if tuple(weight.shape) != tuple(x.shape):
            raise InputError(f"weight must have the shape of input, {tuple(x.shape)}, got {tuple(weight.shape)}")
        losses = ops.multiply(_losses(given, {**o, "reduction": "none"})[name], weight)
        if o["reduction"] == "mean":
            return {"loss": ops.divide(ops.sum(losses), ops.sum(weight))}
        return {"loss": _reduced(losses, o["reduction"])}

    return compute


def _weighted_entropy(x: Any, y: Any, weight: Any, positive: Any, reduction: str) -> Any:
    """weight * -(positive * y log sigmoid(x) + (1 - y) log(1 - sigmoid(x)))."""
    library, data = xp(array_of(x)), array_of(x)
    if tuple(y.shape) != tuple(x.shape):
        raise InputError(f"target must have the shape of input, {tuple(x.shape)}, got {tuple(y.shape)}")
    right, wrong = (
        ops.binary_cross_entropy(x, library.full(data.shape, value, data.dtype), reduction="none")
        for value in (1.0, 0.0)
    )
    losses = ops.multiply(y, right if positive is None else ops.multiply(positive, right))
    losses = ops.add(losses, ops.multiply(ops.subtract(1.0, y), wrong))
    return _reduced(losses if weight is None else ops.multiply(losses, weight), reduction)


_PAIR = ("input", "target")
_REDUCTION: dict[str, Any] = {"size_average": Option(bool), "reduce": Option(bool), "reduction": "mean"}
_TOGETHER = "torch.nn.functional.{binary_cross_entropy_with_logits,mse_loss,smooth_l1_loss,l1_loss}"
LOSSES = {
    "cross_entropy": function(_cross_entropy, _PAIR, ("weight",), ignore_index=-100, label_smoothing=0.0, **_REDUCTION),
    _TOGETHER: function(_losses, _PAIR, reduction="mean", beta=1.0),
    "binary_cross_entropy_with_logits": function(
        _single("bce_with_logits"), _PAIR, ("weight", "pos_weight"), **_REDUCTION
    ),
    "mse_loss": function(_single("mse"), _PAIR, ("weight",), **_REDUCTION),
    "smooth_l1_loss": function(_single("smooth_l1"), _PAIR, **_REDUCTION, beta=1.0),
    "l1_loss": function(_single("l1"), _PAIR, ("weight",), **_REDUCTION),
}
