"""Small models of flamingo-pytorch and open_flamingo."""

from __future__ import annotations

from typing import Any

import numpy as np

from mutants.kinds.inputs import masked, normal
from mutants.models import FLAMINGO, OPEN_FLAMINGO, Model

RESAMPLER = {"dim": 8, "depth": 2, "dim_head": 4, "heads": 2, "num_latents": 3, "ff_mult": 2}
GATED = {"dim": 8, "dim_head": 4, "heads": 2, "ff_mult": 2}
LOCATIONS = np.zeros((2, 7), bool)
LOCATIONS[0, [2, 5]] = LOCATIONS[1, [0, 4]] = True


def flamingo(name: str, cls: str, config: dict[str, Any], inputs: Any) -> Model:
    """A model of flamingo-pytorch."""
    return Model(name, "lucidrains-flamingo", FLAMINGO, cls, config, inputs)


def open_flamingo(name: str, cls: str, config: dict[str, Any], inputs: Any) -> Model:
    """A model of open_flamingo."""
    return Model(name, "open-flamingo", OPEN_FLAMINGO, cls, config, inputs)


def gated(visual: int) -> Any:
    """Inputs of a gated block: two media, the first text before any."""
    return masked(normal(x=(2, 7, 8), media=(2, 2, 3, visual)), media_locations=LOCATIONS)


EMBEDDED = {**RESAMPLER, "max_num_media": 3, "max_num_frames": 2}
FLAMINGO_MODELS = (
    flamingo("resampler_4d", "PerceiverResampler", {**RESAMPLER, "num_media_embeds": 2}, normal(x=(2, 2, 4, 8))),
    flamingo("resampler_3d", "PerceiverResampler", {**RESAMPLER, "num_media_embeds": 3}, normal(x=(2, 5, 8))),
    flamingo(
        "gated_immediate",
        "GatedCrossAttentionBlock",
        {**GATED, "only_attend_immediate_media": True},
        gated(8),
    ),
    flamingo("gated_all", "GatedCrossAttentionBlock", {**GATED, "only_attend_immediate_media": False}, gated(8)),
    open_flamingo("resampler_embs", "PerceiverResampler", EMBEDDED, normal(x=(2, 3, 2, 4, 8))),
    open_flamingo("resampler_plain", "PerceiverResampler", RESAMPLER, normal(x=(2, 1, 1, 5, 8))),
    open_flamingo(
        "gated_immediate",
        "GatedCrossAttentionBlock",
        {**GATED, "dim_visual": 6, "only_attend_immediate_media": True},
        gated(6),
    ),
    open_flamingo(
        "gated_all",
        "GatedCrossAttentionBlock",
        {**GATED, "dim_visual": 6, "only_attend_immediate_media": False},
        gated(6),
    ),
)
