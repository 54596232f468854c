"""Flamingo-3B, 9B and 80B: their Perceiver Resampler and their GATED XATTN-DENSE layers (Flamingo, table 4 and A.1).

The paper prints widths, heads and layers; vision features (NFNet-F6) and resampler are 1536 wide in all three. What it
leaves open: the width of the resampler's heads and of its feed-forward's input (heads of 1536 / 16 = 96 and 4 x 1536
here; printed are 194M parameters, which 128-wide heads and a projection from 3072 would give), and whether the gated
layers' keys are made of 1536-wide media (as here, since nothing between is mentioned) or of the text's width (2.01B for
9B). Inputs of the ledger: 8 frames of 10 x 10 features; 256 tokens of text with 5 media, as in training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..conventions import Conventions
from ..flamingo import GatedCrossAttention, GatedLayers, PerceiverResampler

_MEDIA = 1536
_SIZES = {  # language layers, a gated layer before every so many, width of the text, heads
    "3b": (24, 1, 2048, 16),
    "9b": (40, 4, 4096, 32),
    "80b": (80, 7, 8192, 64),
}


def _resampler(conventions: Conventions) -> PerceiverResampler:
    return PerceiverResampler(_MEDIA, latents=64, layers=6, heads=16, frames=8, conventions=conventions)


def _gated(size: str, conventions: Conventions) -> GatedLayers:
    layers, every, channels, heads = _SIZES[size]
    return GatedLayers(layers, every, GatedCrossAttention(channels, _MEDIA, heads, conventions=conventions))


PRESETS: dict[str, Callable[[Conventions], Any]] = {
    **{f"flamingo/resampler-{size}": _resampler for size in _SIZES},
    **{f"flamingo/gated-xattn-{size}": partial(_gated, size) for size in _SIZES},
}
INPUTS: dict[str, Any] = {
    **{f"flamingo/resampler-{size}": (1, 8, 100, _MEDIA) for size in _SIZES},
    **{
        f"flamingo/gated-xattn-{size}": {"text": (256, row[2]), "media": (5, 64, _MEDIA)}
        for size, row in _SIZES.items()
    },
}
