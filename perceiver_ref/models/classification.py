"""Training a classifier: mixed and smoothed labels, their loss, and top-k accuracy (Perceiver IO, on ImageNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autograd import ops
from ..autograd.backend import Array, xp
from ..autograd.core import array_of
from ..errors import InputError


def soft_labels(
    labels: Array,
    classes: int,
    *,
    like: Array,
    mix_labels: Array | None = None,
    ratio: Any = None,
    smoothing: float = 0.0,
) -> Any:
    """The distribution over classes that training aims at, (..., classes), in the dtype of `like`.

        y = (1 - s) (r onehot(labels) + (1 - r) onehot(mix_labels)) + s / classes        s = smoothing

    labels (...) integers; mix_labels (...) those of the image mixed in (MixUp, arXiv 1710.09412; CutMix, 1905.04899)
    and ratio (...) the share of the first. Smoothing is that of arXiv 1512.00567, section 7.
    """
    if not 0 <= smoothing < 1:
        raise InputError(f"label smoothing must be in [0, 1), got {smoothing}")
    target: Any = _one_hot(labels, classes, like)
    if mix_labels is not None:
        share = ops.reshape(ratio, shape=(*ratio.shape, 1))
        other = _one_hot(mix_labels, classes, like)
        target = ops.add(ops.multiply(share, target), ops.multiply(ops.subtract(1.0, share), other))
    return ops.add(ops.multiply(target, 1 - smoothing), smoothing / classes) if smoothing else target


@ops.in_float32
def soft_cross_entropy(logits: Any, targets: Any) -> Any:
    """-sum over classes of y log softmax(logits): logits and targets (..., classes) -> (...)."""
    return ops.negative(ops.sum(ops.multiply(targets, ops.log_softmax(logits)), axis=-1))


def top_k_correct(logits: Any, labels: Array, topk: Sequence[int]) -> dict[int, Array]:
    """For each k, whether the label is among the k largest logits: (..., classes), (...) -> bool (...).

    Of logits that tie, the one of the larger class counts as larger (a stable ascending sort, as DeepMind's code does).
    """
    values = array_of(logits)
    order = xp(values).argsort(values, axis=-1, kind="stable")
    return {k: (order[..., -k:] == labels[..., None]).any(-1) for k in topk}


def _one_hot(labels: Array, classes: int, like: Array) -> Array:
    library = xp(like)
    return (library.asarray(labels)[..., None] == library.arange(classes)).astype(like.dtype)
