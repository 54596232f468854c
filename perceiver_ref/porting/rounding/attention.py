"""Attention in the steps that a narrower format rounds: logits, weights, mixture. The one arithmetic of them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.ops.attention import keep_used, scale_factor
from .steps import LOWEST, Rounding, softmax_in_steps


def attention(
    to: Rounding,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    *,
    mixed: Rounding | None = None,
    scaled_first: bool = False,
    lowered: bool = False,
) -> Any:
    """The op `attention` with its logits, weights and mixture rounded as `to` says, the mixture as `mixed` if given.

    scaled_first, lowered: as `logits` and `weights` have them.
    """
    q, k, v, *rest = map(array_of, arguments)
    s = logits(to, q, k, *rest, options=options, scaled_first=scaled_first)
    return mixture(mixed or to, weights(to, s, options, lowered=lowered), v, options)


def logits(
    to: Rounding, q: Any, k: Any, bias: Any = None, *, options: Mapping[str, Any], scaled_first: bool = False
) -> Any:
    """Scores, with a bias added: the queries scaled before their product with keys, or the scores after it."""
    factor, keys = q.dtype.type(scale_factor(q, options.get("scale"))), k.swapaxes(-1, -2)
    s = to.product(to.round(q * factor), keys) if scaled_first else to.round(to.product(q, keys) * factor)
    return s if bias is None else to.round(s + _but_lowest(bias, options))


def weights(to: Rounding, s: Any, options: Mapping[str, Any], *, lowered: bool = False) -> Any:
    """The softmax of scores, in its steps where `to` has steps; 0 where masked.

    Rows without any key are what `masked_rows` says. With `lowered` each row's largest is subtracted first.
    """
    mask, library = options.get("mask"), xp(s)
    if mask is not None:
        some = mask.any(-1, keepdims=True)
        alone = s.dtype.type(0) if to.lowest is None or _rows(options) != "added" else _added(to, s, to.lowest)
        s = library.where(some, library.where(mask, s, library.asarray(-library.inf, s.dtype)), alone)
    if to.steps:
        p = softmax_in_steps(to, s)
    else:
        p = to.round(array_of(ops.softmax(to.round(s - s.max(-1, keepdims=True)) if lowered else s)))
    return library.where(some, p, p.dtype.type(0)) if mask is not None and _rows(options) == "zero" else p


def _but_lowest(bias: Any, options: Mapping[str, Any]) -> Any:
    """A bias without a dtype's lowest number in rows without any key, where `weights` adds the format's own."""
    mask, library = options.get("mask"), xp(bias)
    if mask is None or _rows(options) != "added":
        return bias
    lowest = bias <= LOWEST["float16"]  # or that of a wider format
    return library.where(lowest & ~mask.any(-1, keepdims=True), bias.dtype.type(0), bias)


def _added(to: Rounding, s: Any, lowest: float) -> Any:
    """Scores with the lowest number added, less that number: float16 has but 32nds of them left, or less than it."""
    library = xp(s)
    made = to.round(s + s.dtype.type(lowest))
    made = library.where(made < lowest, -library.inf, made - s.dtype.type(lowest))
    return library.where(made.max(-1, keepdims=True) == -library.inf, s.dtype.type(0), made).astype(s.dtype)


def mixture(to: Rounding, p: Any, v: Any, options: Mapping[str, Any]) -> Any:
    """Weights times values."""
    return to.product(p, keep_used(v, options.get("mask"), _rows(options)))


def _rows(options: Mapping[str, Any]) -> Any:
    return options.get("masked_rows", "zero")
