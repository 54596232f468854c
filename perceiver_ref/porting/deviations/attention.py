"""Deviations of attention: its scale, heads, keys and values, softmax and masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import Op, array_of
from ...autograd.ops.attention import scale_factor
from ...autograd.tree import Tree
from ...models.attention import Attention, join_heads, split_heads
from ...models.flamingo.gated_xattn import GatedCrossAttention
from ...models.flamingo.resampler import ResamplerLayer
from ...models.tracing import where
from .base import Candidate, Change, Exchange, Match, OpReplacement, Survey, exchanged, groups
from .fused import attention_params
from .masks import everywhere

_SCALES: dict[str, Callable[[int, int], float]] = {
    "none": lambda d, heads: 1.0,
    "1 / d": lambda d, heads: 1 / d,
    "1 / sqrt(width of all heads)": lambda d, heads: 1 / math.sqrt(d * heads),
    "1 / sqrt(heads)": lambda d, heads: 1 / math.sqrt(heads),
    "d^(-1/4)": lambda d, heads: d**-0.25,
    "sqrt(d)": lambda d, heads: math.sqrt(d),
    "1 / width of all heads": lambda d, heads: 1 / (d * heads),
    "1 / sqrt(2 d)": lambda d, heads: 1 / math.sqrt(2 * d),
}


def _places(found: Survey) -> list[str]:
    return found.ops.get("attention", [])


def attention_scale(found: Survey) -> Iterator[Candidate]:
    """Logits scaled otherwise than by 1 / sqrt(d)."""
    for name, factor in _SCALES.items():

        def run(op: Op, arguments: Any, static: Any, factor: Callable[[int, int], float] = factor) -> Any:
            q = arguments[0]
            heads = q.shape[-3] if len(q.shape) > 2 else 1
            return op(*arguments, **{**static, "scale": factor(q.shape[-1], heads)})

        if _places(found):
            yield from everywhere(found, "attention-scale", f"scale {name}", run)
    yield from attention_scale_by_width(found)


_WIDTHS: dict[str, Callable[[Attention], int]] = {
    "queries' input": lambda layer: layer.q_inputs,
    "keys' input": lambda layer: layer.kv_inputs,
    "output": lambda layer: layer.outputs,
    "values": lambda layer: layer.v_channels,
    "values of one head": lambda layer: layer.v_channels // layer.heads,
}


def attention_scale_by_width(found: Survey) -> Iterator[Candidate]:
    """1 / sqrt of another width of the layer."""
    uneven = any(layer.v_channels != layer.qk_channels for layer in found.of_class(Attention))
    for name, width in _WIDTHS.items():
        if name == "values of one head" and not uneven:
            continue  # it is that of queries
        for label, match, rare in groups(_places(found)) if _places(found) else []:

            def scaled(
                original: Any, layer: Any, *a: Any, width: Callable[[Any], int] = width, match: Match = match, **o: Any
            ) -> Any:
                if match(f"{where()}.attention"):
                    layer = layer.with_fields(scale=width(layer) ** -0.5)
                return original(layer, *a, **o)

            variant = f"scale 1 / sqrt(width of the {name}), {label}"
            yield Candidate("attention-scale", variant, exchanged({Attention.apply: scaled}), rare)


def softmax_axis(found: Survey) -> Iterator[Candidate]:
    """The softmax over another axis than keys."""
    for name, axis, lowered in (
        ("queries", -2, False),
        ("queries, less each query's largest logit", -2, True),
        ("heads", -3, False),
        ("heads, less each query's largest logit", -3, True),
    ):
        if _places(found):
            yield from everywhere(found, "softmax-axis", f"softmax over {name}", _over(axis, lowered))


def _over(axis: int, lowered: bool) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        q, k, *rest = arguments
        axes = (*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2)
        logits = ops.multiply(
            ops.matmul(q, ops.transpose(k, axes=axes)), scale_factor(array_of(q), static.get("scale"))
        )
        bias = rest[-1] if len(rest) == (2 if op.name == "attention" else 1) else None
        if bias is not None:
            logits = ops.add(logits, bias)
        mask, data = static.get("mask"), array_of(logits)
        if mask is not None:
            logits = ops.where(mask, logits, xp(data).asarray(np.finfo(data.dtype).min, data.dtype))
        if lowered:
            logits = ops.subtract(logits, ops.max(logits, axis=-1, keepdims=True))
        grouped = logits.shape
        if axis == -3 and len(grouped) > 4 and k.shape[-3] == 1:  # heads that share keys are an axis of their own
            logits = ops.reshape(logits, shape=(*grouped[:-4], grouped[-4] * grouped[-3], *grouped[-2:]))
        weights = ops.reshape(ops.softmax(logits, axis=axis), shape=grouped)
        if mask is not None and static.get("masked_rows", "zero") == "zero":  # they are wiped after the softmax
            weights = ops.where(mask.any(-1, keepdims=True), weights, xp(data).zeros((), data.dtype))
        return ops.matmul(weights, rest[0]) if op.name == "attention" else weights

    return run


def mask_inverted(found: Survey) -> Iterator[Candidate]:
    """True taken for padding."""
    if found.masked:
        yield from everywhere(found, "mask-inverted", "True taken for padding", _with_mask(lambda mask: ~mask))
        yield Candidate(
            "mask-inverted", "True taken for padding in the features alone", Change(parts=_features_mask_inverted)
        )
        yield from everywhere(found, "mask-inverted", "masked and kept keys exchanged in the logits", _exchanged_keys)
        variant = "True taken for padding, and rows without any key by the other rule"
        yield from everywhere(found, "mask-inverted", variant, _inverted_by_the_other_rule)


def _inverted_by_the_other_rule(op: Op, arguments: Any, static: Any) -> Any:
    mask = static.get("mask")
    other = "uniform" if static.get("masked_rows", "zero") == "zero" else "zero"
    return op(*arguments, **{**static, "mask": None if mask is None else ~mask, "masked_rows": other})


def _exchanged_keys(op: Op, arguments: Any, static: Any) -> Any:
    """The logits' mask inverted, while rows without a key are those of the mask as given."""
    mask = static.get("mask")
    if mask is None or op.name != "attention":
        return op(*arguments, **static)
    out = op(*arguments, **{**static, "mask": ~mask, "masked_rows": "uniform"})
    if static.get("masked_rows", "zero") != "zero":
        return out
    return ops.where(mask.any(-1, keepdims=True), out, xp(array_of(out)).zeros((), out.dtype))


def _features_mask_inverted() -> Exchange:
    def layer(original: Any, self: Any, p: Tree, x: Any, features: Any, *, mask: Any = None) -> Any:
        return original(self, p, x, features, mask=None if mask is None else ~mask)

    return {ResamplerLayer.apply: layer}


def mask_ignored(found: Survey) -> Iterator[Candidate]:
    """No mask."""
    if found.masked:
        yield from everywhere(found, "mask-ignored", "no mask", _with_mask(lambda mask: None))


def _with_mask(change: Callable[[Any], Any]) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        mask = static.get("mask")
        return op(*arguments, **{**static, "mask": None if mask is None else change(mask)})

    return run


def fully_masked_row(found: Survey) -> Iterator[Candidate]:
    """What a query without any key gets: zero where it is the average, the average where it is zero."""

    def flipped(op: Op, arguments: Any, static: Any) -> Any:
        other = "uniform" if static.get("masked_rows", "zero") == "zero" else "zero"
        return op(*arguments, **{**static, "masked_rows": other})

    if found.masked:
        yield from everywhere(found, "fully-masked-row", "average in place of zero, or zero in place of it", flipped)
        if found.of_class(GatedCrossAttention):
            yield Candidate(
                "fully-masked-row", "text before the first medium gets the average", Change(parts=_average_unseen)
            )
            yield Candidate(
                "fully-masked-row",
                "text without a medium: the MLP's part is zero too",
                exchanged({GatedCrossAttention.apply: _no_mlp}),
            )
        for fill in (-1e4, -1e9, -100.0, -65504.0, -1e30):
            yield from everywhere(found, "fully-masked-row", f"{fill:g} added to masked logits", _filled(fill))


def _no_mlp(original: Any, self: Any, p: Tree, x: Any, media: Any, *, mask: Any = None, **rest: Any) -> Any:
    if mask is not None:
        seen = mask.attend.any(-1) if mask.seen is None else mask.seen
        rest["rows"] = seen[..., None].astype(x.dtype)
    return original(self, p, x, media, mask=mask, **rest)


def _filled(fill: float) -> OpReplacement:
    """Masked logits get a finite addition; a row without keys keeps what comes of it."""

    def run(op: Op, arguments: Any, static: Any) -> Any:
        mask = static.get("mask")
        if mask is None:
            return op(*arguments, **static)
        n = 3 if op.name == "attention" else 2
        library, dtype = xp(array_of(arguments[0])), arguments[0].dtype
        added = library.where(mask, library.zeros((), dtype), library.asarray(fill, dtype))
        bias = ops.add(arguments[n], added) if len(arguments) > n and arguments[n] is not None else added
        return op(*arguments[:n], bias, **{**static, "mask": None})

    return run


def _average_unseen() -> Exchange:
    def gated(original: Any, self: Any, p: Tree, x: Any, media: Any, *, mask: Any = None, **rest: Any) -> Any:
        if mask is not None:
            mask = mask._replace(seen=None)
        return original(self, p, x, media, mask=mask, **rest)

    def uniform(original: Any, self: Any, *arguments: Any, **options: Any) -> Any:
        return original(
            self.with_fields(conventions=replace(self.conventions, masked_rows="uniform")), *arguments, **options
        )

    return {GatedCrossAttention.apply: gated, Attention.apply: uniform}


def key_value_swapped(found: Survey) -> Iterator[Candidate]:
    """Keys' weights used for values and the other way round."""
    for label, match, rare in groups(_places(found)) if _places(found) else []:
        change = Change(parts=attention_params(match, lambda layer, p: {**p, "key": p["value"], "value": p["key"]}))
        yield Candidate("key-value-swapped", f"keys and values swapped, {label}", change, rare)


def head_layout(found: Survey) -> Iterator[Candidate]:
    """Channels split into heads as (d h) in place of (h d); or a fused key-value map split within heads."""
    kinds: dict[str, Callable[[Any, Tree], Tree]] = {
        "(d h) in splitting and joining": lambda layer, p: _joined(layer, _split(layer, p)),
        "(d h) in splitting": _split,
        "(d h) in joining": _joined,
        "(d h) of queries and keys": lambda layer, p: _split(layer, p, ("query", "key")),
        "(d h) of values": lambda layer, p: _split(layer, p, ("value",)),
        "(d h) of queries": lambda layer, p: _split(layer, p, ("query",)),
        "(d h) of keys and values": lambda layer, p: _split(layer, p, ("key", "value")),
        "keys and values fused within heads": _fused_in_heads,
        "keys and values fused channel by channel": _fused_in_turn,
    }
    if not _places(found):
        return
    for name, change in kinds.items():
        for label, match, rare in groups(_places(found)):
            yield Candidate("head-layout", f"{name}, {label}", Change(parts=attention_params(match, change)), rare)
    stored: dict[str, Callable[[Any, Tree], Tree]] = {
        "queries, keys and values stored as (d h) read as (h d)": partial(_split, order=_inverse),
        "all maps stored as (d h) read as (h d)": lambda layer, p: _joined(
            layer, _split(layer, p, order=_inverse), _inverse
        ),
        "the output map stored as (d h) read as (h d)": partial(_joined, order=_inverse),
    }
    for name, change in stored.items():
        for label, match, _ in groups(_places(found)):
            yield Candidate("head-layout", f"{name}, {label}", Change(parts=attention_params(match, change)), rare=True)
    for label, match, rare in groups(_places(found)):
        yield Candidate("head-layout", f"heads share keys in turn, {label}", Change(parts=_keys_in_turn(match)), rare)
    for name, split, joined in (
        ("joined by a reshape without a transpose", False, True),
        ("split by a reshape without a transpose", True, False),
        ("split and joined by reshapes without transposes", True, True),
    ):
        yield from everywhere(found, "head-layout", name, _reshaped(split, joined))


def _columns(part: Tree, order: Any) -> Tree:
    return {name: array[..., order] for name, array in part.items()}


def _order(width: int, heads: int) -> Any:
    """Our channel (h, d) is their channel d H + h."""
    return np.arange(width).reshape(width // heads, heads).T.reshape(-1)


def _inverse(width: int, heads: int) -> Any:
    """Our channel d H + h is their channel (h, d)."""
    return np.argsort(_order(width, heads))


Order = Callable[[int, int], Any]


def _split(layer: Any, p: Tree, parts: tuple[str, ...] = ("query", "key", "value"), *, order: Order = _order) -> Tree:
    shared = layer.shared
    heads = {"query": layer.heads, "key": shared, "value": shared}
    made = {name: _columns(p[name], order(p[name]["weight"].shape[-1], heads[name])) for name in parts}
    return {**p, **made}


def _joined(layer: Any, p: Tree, order: Order = _order) -> Tree:
    weight = p["output"]["weight"]
    return {**p, "output": {**p["output"], "weight": weight[order(weight.shape[0], layer.heads)]}}


def _fused_in_turn(layer: Any, p: Tree) -> Tree:
    """Keys from the even channels of the fused map, values from the odd ones."""
    if p["key"]["weight"].shape != p["value"]["weight"].shape:
        return p
    made: dict[str, Tree] = {"key": {}, "value": {}}
    for name in p["key"]:
        both = xp(p["key"][name]).concatenate([p["key"][name], p["value"][name]], axis=-1)
        made["key"][name], made["value"][name] = both[..., ::2], both[..., 1::2]
    return {**p, **made}


def _fused_in_heads(layer: Any, p: Tree) -> Tree:
    """One map to (heads, 2, d) in place of (2, heads, d)."""
    shared, made = layer.shared, {}
    if p["key"]["weight"].shape != p["value"]["weight"].shape:
        return p
    for name in p["key"]:
        k, v = p["key"][name], p["value"][name]
        both = xp(k).concatenate([k, v], axis=-1)
        apart = both.reshape(*both.shape[:-1], shared, 2, -1)
        made[name] = [apart[..., i, :].reshape(*k.shape) for i in range(2)]
    return {**p, "key": {n: pair[0] for n, pair in made.items()}, "value": {n: pair[1] for n, pair in made.items()}}


def _blocks(heads: Any, width: int) -> Any:
    """The channels of these heads, one head after the other."""
    d = width // len(heads)
    return (heads[:, None] * d + np.arange(d)).reshape(-1)


def _reshaped(split: bool, joined: bool) -> OpReplacement:
    """(N, H d) seen as (H, N, d) with no axes exchanged, and back."""

    def run(op: Op, arguments: Any, static: Any) -> Any:
        if split:
            arguments = (*(_seen_as_heads(a) for a in arguments[:3]), *arguments[3:])
        out = op(*arguments, **static)
        if not joined or op.name != "attention":
            return out
        *lead, h, n, e = out.shape
        if len(lead) > 1 and arguments[1].shape[-3] == 1:  # heads that share keys are an axis of their own
            h *= lead.pop()
        return ops.reshape(split_heads(ops.reshape(out, shape=(*lead, n, h * e)), h), shape=out.shape)

    return run


def _seen_as_heads(x: Any) -> Any:
    return ops.reshape(join_heads(x), shape=x.shape)


def _keys_in_turn(match: Match) -> Callable[[], Exchange]:
    """Query head h uses head h mod Hk of the keys, in place of consecutive heads sharing one."""

    def made() -> Exchange:
        def attend(original: Any, layer: Any, p: Tree, *arguments: Any, **options: Any) -> Any:
            shared = layer.shared
            if shared == layer.heads or not match(where()):
                return original(layer, p, *arguments, **options)
            heads = np.arange(layer.heads).reshape(-1, shared).T.reshape(-1)
            out = p["output"]["weight"]
            columns = _blocks(heads, p["query"]["weight"].shape[-1])
            rows = out[_blocks(heads, out.shape[0])]
            p = {**p, "query": _columns(p["query"], columns), "output": {**p["output"], "weight": rows}}
            return original(layer, p, *arguments, **options)

        return {Attention.apply: attend}

    return made
