"""Released resamplers and poolers: IP-Adapter Plus, XTTS v2, MiniCPM-V 2.6, Kosmos-2 and SigLIP's head.

Sizes that the packages have in their own code or as defaults: IP-Adapter's loaders (`ip_adapter/ip_adapter.py`: depth,
heads and widths of heads; the width of features is ViT-H/14's, whose 256 patches and class token come in, the outputs
are as wide as the text encoders of Stable Diffusion 1.5 and XL, and there are 16 tokens), coqui-tts' `GPT` (6 seconds
of its mel frames), vLLM's `MiniCPMV2_6` (heads 128 wide; the language model is 3584 and the vision encoder 1152 wide;
448 x 448 pixels in patches of 14), transformers' `Kosmos2Config` and `SiglipVisionConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..conventions import Conventions
from ..resamplers import AttentionPool, Resampler

_VIT_H = 1280


def _adapter(channels: int, outputs: int, conventions: Conventions) -> Resampler:
    return Resampler(
        channels,
        features=_VIT_H,
        outputs=outputs,
        latents=16,
        layers=4,
        heads=channels // 64,
        head_channels=64,
        hidden=4 * channels,
        conventions=conventions,
    )


def _xtts(conventions: Conventions) -> Resampler:
    return Resampler(
        1024,
        latents=32,
        layers=2,
        heads=8,
        head_channels=64,
        hidden=int(1024 * 4 * 2 / 3),
        latents_first=True,
        norms="none",
        conventions=conventions,
    )


def _minicpmv(conventions: Conventions) -> AttentionPool:
    width = 3584
    return AttentionPool(
        features=1152,
        channels=width,
        latents=64,
        heads=width // 128,
        projection="linear",
        norms="before",
        end="norm",
        last=width,
        conventions=conventions,
    )


def _kosmos2(conventions: Conventions) -> AttentionPool:
    return AttentionPool(
        features=1024,
        channels=2048,
        latents=64,
        heads=32,
        projection="affine",
        latents_in_keys=True,
        conventions=conventions,
    )


def _siglip(conventions: Conventions) -> AttentionPool:
    return AttentionPool(features=768, channels=768, heads=12, hidden=3072, take="first", conventions=conventions)


PRESETS: dict[str, Callable[[Conventions], Any]] = {
    "ip-adapter/plus-sd15": partial(_adapter, 768, 768),
    "ip-adapter/plus-sdxl": partial(_adapter, 1280, 2048),
    "xtts/v2": _xtts,
    "minicpmv/2.6": _minicpmv,
    "kosmos2/patch14-224": _kosmos2,
    "siglip/base-patch16-224": _siglip,
}
INPUTS: dict[str, Any] = {
    "ip-adapter/plus-sd15": (257, _VIT_H),
    "ip-adapter/plus-sdxl": (257, _VIT_H),
    "xtts/v2": (517, 1024),
    "minicpmv/2.6": (1024, 1152),
    "kosmos2/patch14-224": (257, 1024),
    "siglip/base-patch16-224": (196, 768),
}
