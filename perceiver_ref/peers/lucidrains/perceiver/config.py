"""Constructor arguments of perceiver-pytorch's classes, with its defaults, and what a call is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....autograd.core import array_of
from ....errors import InputError
from ....models.masks import check_mask
from ...base import Option, options

_SIZE, _NUMBER = Option(int, required=True), Option(float, required=True)
HEADS: dict[str, Any] = {"cross_heads": 1, "latent_heads": 8, "cross_dim_head": 64, "latent_dim_head": 64}
_LATENTS: dict[str, Any] = {"num_latents": 512, "latent_dim": 512, **HEADS}
_RESIDUAL: dict[str, Any] = {"inverted_cross_attn": False, "attn_residual": False, "attn_residual_rank": 64}

GRID: dict[str, Any] = {
    "num_freq_bands": _SIZE,
    "depth": _SIZE,
    "max_freq": _NUMBER,
    "input_channels": 3,
    "input_axis": 2,
    **_LATENTS,
    "num_classes": 1000,
    "attn_dropout": 0.0,
    "ff_dropout": 0.0,
    "weight_tie_layers": False,
}
"""What every `Perceiver` takes."""
PERCEIVER: dict[str, Any] = {
    **GRID,
    "fourier_encode_data": True,
    "self_per_cross_attn": 1,
    "final_classifier_head": True,
    **_RESIDUAL,
}
PERCEIVER_IO: dict[str, Any] = {
    "depth": _SIZE,
    "dim": _SIZE,
    "queries_dim": _SIZE,
    "logits_dim": Option(int),
    **_LATENTS,
    "weight_tie_layers": False,
    "decoder_ff": False,
    "seq_dropout_prob": 0.0,
    **_RESIDUAL,
}
BLOCK: dict[str, Any] = {
    "dim": _SIZE,
    "context_dim": Option(int),
    **HEADS,
    "self_per_cross_attn": 1,
    "attn_dropout": 0.0,
    "ff_dropout": 0.0,
    "has_cross_attn": True,
    "queries_contribute_kv": False,
}
ATTENTION: dict[str, Any] = {
    "query_dim": _SIZE,
    "context_dim": Option(int),
    "heads": 8,
    "dim_head": 64,
    "dropout": 0.0,
    "queries_contribute_kv": False,
}

_MAY_BE_0 = frozenset(["num_freq_bands", "self_per_cross_attn", "num_bands"])


def read(
    what: str, given: Mapping[str, Any], known: Mapping[str, Any], ignored: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The options of `what`, of which no size is 0; `inverted_cross_attn` is left to `inverted`."""
    untyped = {"inverted_cross_attn": None} if "inverted_cross_attn" in known else {}
    chosen = options(what, given, {**known, **untyped}, ignored)
    for name, value in chosen.items():
        if value == 0 and type(value) is int and name not in _MAY_BE_0:
            raise InputError(f"option {name!r} of {what} must be at least 1, got 0")
    return chosen


def inverted(what: str, value: Any, depth: int) -> tuple[bool, ...]:
    """`inverted_cross_attn` for each of `depth` cross-attentions; None is the default, false."""
    each = [bool(value)] * depth if value is None or isinstance(value, bool) else value
    if not isinstance(each, (list, tuple)) or not all(isinstance(one, bool) for one in each) or len(each) != depth:
        raise InputError(
            f"option 'inverted_cross_attn' of {what} must be true, false, or a list of {depth} of them, "
            f"one for each cross-attention; got {value!r}"
        )
    return tuple(each)


def flat_mask(mask: Any, batch: int, elements: int) -> Any:
    """A mask (B, *axes), True = attend, as (B, M); None stays None."""
    if mask is None:
        return None
    mask = array_of(mask)
    if mask.ndim > 2:
        mask = mask.reshape(mask.shape[0], -1)
    return check_mask(mask, (batch, elements), "mask, with all axes after the batch as one,")


def array_list(value: Any) -> list[Any]:
    """A list of arrays, which a case holds as `name.0`, `name.1` and so on; one array is a list of its first axis."""
    if isinstance(value, Mapping):
        return [value[key] for key in sorted(value, key=int)]
    return [value[i] for i in range(value.shape[0])]
