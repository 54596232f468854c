"""Deviations of what a mask is: filled or added, of keys or of nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import Op, array_of
from ...autograd.tree import Tree
from ...models.attention import Attention
from ...models.flamingo.gated_xattn import GatedCrossAttention
from ...models.tracing import where
from ...peers.transformers.edgetam import MemoryResampler, PlacedCrossAttention
from .base import Candidate, Change, Exchange, Match, OpReplacement, Survey, at, exchanged, groups, replaced

_OPS = {"attention": 3, "attention_weights": 2}
"""Ops that a mask belongs to, and which argument a bias is"""
_PADDING = -9e3
"""What is added to scores of padding is below it"""


def everywhere(found: Survey, cause: str, variant: str, replacement: OpReplacement) -> Iterator[Candidate]:
    """The same replacement of attention in each group of places."""
    for label, match, rare in groups(found.ops.get("attention", [])):
        change = replaced(at(dict.fromkeys(_OPS, replacement), match))
        yield Candidate(cause, f"{variant}, {label}", change, rare)


def _bias(op: Op, arguments: Any) -> Any:
    n = _OPS[op.name]
    return arguments[n] if len(arguments) > n else None


def _with(op: Op, arguments: Any, static: Any, bias: Any, mask: Any) -> Any:
    n = _OPS[op.name]
    return op(*arguments[:n], bias, **{**static, "mask": mask})


def mask_kind(found: Survey) -> Iterator[Candidate]:
    """A mask added to scores as numbers, where it should be filled, or filled where it is added; or one of padding."""
    if found.masked:
        yield from everywhere(found, "mask-kind", "a bool mask added to the scores as 1 and 0", _added)
    if found.biased:
        yield from everywhere(found, "mask-kind", "an added mask of 1 and 0 taken for what to attend to", _taken)
    if any(model.window_latents for model in found.of_class(MemoryResampler)):
        yield Candidate("mask-kind", "padding of windows masked out", Change(parts=_windows_masked))


def _added(op: Op, arguments: Any, static: Any) -> Any:
    mask, bias = static.get("mask"), _bias(op, arguments)
    if mask is None:
        return op(*arguments, **static)
    numbers = mask.astype(arguments[0].dtype)
    return _with(op, arguments, static, numbers if bias is None else ops.add(bias, numbers), None)


def _taken(op: Op, arguments: Any, static: Any) -> Any:
    bias = _bias(op, arguments)
    data = array_of(bias)
    if bias is None or not bool(((data == 0) | (data == 1)).all()):
        return op(*arguments, **static)
    mask = static.get("mask")
    return _with(op, arguments, static, None, data != 0 if mask is None else mask & (data != 0))


def bias_ignored(found: Survey) -> Iterator[Candidate]:
    """No bias: what is added to the scores left out."""
    if found.biased:
        yield from everywhere(found, "mask-ignored", "nothing added to the scores", _unbiased)


def _unbiased(op: Op, arguments: Any, static: Any) -> Any:
    return op(*arguments[: _OPS[op.name]], **static)


def queries_unmasked(found: Survey) -> Iterator[Candidate]:
    """The mask of queries: those that attend to nothing attend to what some other query of the example does."""
    if found.masked:
        yield from everywhere(found, "mask-ignored", "the mask of queries", _with_queries)


def _with_queries(op: Op, arguments: Any, static: Any) -> Any:
    mask = static.get("mask")
    if mask is None or mask.shape[-2] < 2:
        return op(*arguments, **static)
    keys = mask.any(-2, keepdims=True)
    return op(*arguments, **{**static, "mask": mask | (keys & ~mask.any(-1, keepdims=True))})


def rows_wiped_late(found: Survey) -> Iterator[Candidate]:
    """Rows without any key are zero after the output map, and so do not have its bias."""
    if found.masked:
        for label, match, rare in groups(found.ops["attention"]):
            change = Change(parts=partial(_wiped_late, match))
            yield Candidate("fully-masked-row", f"zero after the output map, {label}", change, rare)


def _wiped_late(match: Match) -> Exchange:
    masks: list[Any] = []

    def attend(original: Any, layer: Any, p: Tree, x: Any, z: Any, *, mask: Any = None, **rest: Any) -> Any:
        masks.append(mask)
        try:
            return original(layer, p, x, z, mask=mask, **rest)
        finally:
            masks.pop()

    def point(original: Any, name: str, value: Any) -> Any:
        place = where()
        if name or not masks or masks[-1] is None or place.rpartition(".")[2] != "attention" or not match(place):
            return original(name, value)
        kept = masks[-1].any(-1)[..., None]
        return original(name, ops.where(kept, value, xp(array_of(value)).zeros((), value.dtype)))

    return {Attention.apply: attend, "point": point}


def rows_elsewhere(found: Survey) -> Iterator[Candidate]:
    """The mask of texts without a medium, of attention and of the MLP: on another of them, on both, on neither."""
    if not found.of_class(GatedCrossAttention):
        return
    for name, (attention, mlp) in {
        "attention, not of the MLP": (True, False),
        "attention and of the MLP": (True, True),
        "the MLP, not of attention": (False, True),
        "neither attention nor the MLP": (False, False),
    }.items():

        def gated(
            original: Any,
            layer: Any,
            p: Tree,
            x: Any,
            media: Any,
            *,
            mask: Any = None,
            attention: bool = attention,
            mlp: bool = mlp,
            **rest: Any,
        ) -> Any:
            rows = rest.pop("rows", None)
            seen = None if mask is None else mask.seen
            if rows is None and seen is not None:
                rows = seen[..., None].astype(x.dtype)
            if mask is not None:
                mask = mask._replace(seen=None if rows is None or not attention else array_of(rows)[..., 0] != 0)
            return original(layer, p, x, media, mask=mask, rows=rows if mlp else None, **rest)

        variant = f"texts without a medium: zero after {name}"
        yield Candidate("fully-masked-row", variant, exchanged({GatedCrossAttention.apply: gated}))


def bias_inverted(found: Survey) -> Iterator[Candidate]:
    """What is added to scores has the other sign; or padding is added to and the rest is not."""
    if found.biased:
        yield from everywhere(found, "mask-inverted", "what is added to the scores with the other sign", _negated)
        yield from everywhere(found, "mask-inverted", "an added mask of what is real", _real_masked)


def _negated(op: Op, arguments: Any, static: Any) -> Any:
    bias = _bias(op, arguments)
    return (
        op(*arguments, **static)
        if bias is None
        else _with(op, arguments, static, ops.negative(bias), static.get("mask"))
    )


def _real_masked(op: Op, arguments: Any, static: Any) -> Any:
    data = array_of(_bias(op, arguments))
    if data is None or not bool((data < _PADDING).any()):
        return op(*arguments, **static)
    lowest = data.min()
    bias = xp(data).where(data < _PADDING, xp(data).zeros((), data.dtype), lowest)
    return _with(op, arguments, static, bias, static.get("mask"))


def bias_filled(found: Survey) -> Iterator[Candidate]:
    """What an added mask leaves of a row of padding alone: the average, or nothing."""
    if found.biased:
        for name, how in (("the average", "uniform"), ("nothing", "zero")):
            yield from everywhere(
                found, "fully-masked-row", f"an added mask filled, so that padding alone gives {name}", _filled(how)
            )


def _filled(rows: str) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        bias = _bias(op, arguments)
        data = array_of(bias)
        if data is None or not bool((data < _PADDING).any()):
            return op(*arguments, **static)
        real = data >= _PADDING
        mask = static.get("mask")
        rest = None
        if bool((data[real] != 0).any()):
            rest = xp(data).where(real, data, xp(data).zeros((), data.dtype))
        scores = np.broadcast_shapes(real.shape, (*arguments[0].shape[:-1], arguments[1].shape[-2]))
        kept = xp(data).broadcast_to(real if mask is None else mask & real, scores)
        return _with(op, arguments, {**static, "masked_rows": rows}, rest, kept)

    return run


def _windows_masked() -> Exchange:
    """Keys of windows' padding masked out."""
    kept: dict[str, Any] = {}

    def windows(original: Any, model: Any, x: Any) -> Any:
        ones = xp(array_of(x)).ones((*x.shape[:-1], 1), x.dtype)
        kept["real"] = array_of(original(model, ones))[:, None, :, 0] > 0
        kept["windows"] = original(model, x)
        return kept["windows"]

    def cross(original: Any, layer: Any, p: Tree, x: Any, z: Any, **options: Any) -> Any:
        if z is kept.get("windows"):
            options["mask"] = kept["real"]
        return original(layer, p, x, z, **options)

    return {MemoryResampler._windows: windows, PlacedCrossAttention.apply: cross}
