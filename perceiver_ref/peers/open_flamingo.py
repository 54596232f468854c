"""open_flamingo 2.0.1 (`src/helpers.py`): PerceiverResampler and GatedCrossAttentionBlock.

Taken over there from flamingo-pytorch, whose names and results these classes share. Different: features always come
with axes of media and of frames; embeddings of frames and of media are options, cut to what a call has and never
interpolated; media have a width of their own; cached media for generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..autograd.tree import Tree
from ..errors import InputError
from ..models.call import Call
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, read_call
from .lucidrains.flamingo.parts import (
    GATED,
    RESAMPLER,
    RESAMPLER_NAMES,
    RESAMPLER_POINTS,
    SIZE,
    gated_block,
    one_for_all,
    resampler,
)
from .names import Table, bind, same

_NAMES: Table = {
    **RESAMPLER_NAMES,
    "time_embedding": ("frame_embs", same),
    "media_embedding": ("media_time_embs", RESAMPLER_NAMES["media_embedding"][1]),
}


def _resampler(given: Given) -> Rebuilt:
    known = {**RESAMPLER, "depth": 6, "max_num_media": Option(int), "max_num_frames": Option(int)}
    chosen = options("PerceiverResampler", given.config, known)
    frames = chosen["max_num_frames"]
    model = resampler(chosen, "open-flamingo", media=chosen["max_num_media"], frames=frames)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("PerceiverResampler", arguments, called, {"x"}, {}, ["x"])
        x = values["x"]
        check_axes("x", x, "batch, media, frames, tokens, dim")
        if frames is not None and x.shape[2] > frames > 1:
            raise InputError(
                f"x has {x.shape[2]} frames, and max_num_frames is {frames}: open_flamingo does not resize"
            )
        used, sizes = dict(params), {}
        for option, name, places in (
            ("media", "media_embedding", x.shape[1]),
            ("frames", "time_embedding", x.shape[2]),
        ):
            if name in params:
                used[name] = one_for_all(params[name], places)
                sizes[option] = used[name].shape[0]
        return {"out": model.with_fields(**sizes).apply(used, x)}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, RESAMPLER_POINTS)


def _gated(given: Given) -> Rebuilt:
    chosen = options("GatedCrossAttentionBlock", given.config, {**GATED, "dim_visual": SIZE})
    return gated_block(chosen, chosen["dim_visual"], "open-flamingo")


PEER = Peer("open-flamingo", {"PerceiverResampler": _resampler, "GatedCrossAttentionBlock": _gated})
