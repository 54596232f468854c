"""Small Perceiver AR models drawn by hypothesis, and token ids for them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from perceiver_ref.models.conventions import AUTOREGRESSIVE_DIALECTS
from perceiver_ref.models.perceiver_ar import PerceiverAR
from perceiver_ref.models.rotary import Rotary, frequencies

LENGTH = 9
"""The longest sequence of the models."""
VOCABULARY = 11
dialects = st.sampled_from(sorted(AUTOREGRESSIVE_DIALECTS)).map(AUTOREGRESSIVE_DIALECTS.__getitem__)


@st.composite
def rotaries(draw: st.DrawFn, heads: int, channels: int) -> Rotary:
    """For so many heads, each of so many channels."""
    turning = 2 * draw(st.integers(0, channels // 2))
    bands = frequencies(turning, draw(st.sampled_from([8.0, 10_000.0])), draw(st.sampled_from(["half_open", "closed"])))
    which = draw(st.none() | st.tuples(*[st.booleans()] * heads))
    return Rotary(bands, draw(st.sampled_from(["interleaved", "half_split"])), which)


@st.composite
def models(draw: st.DrawFn, *, tied: bool | None = None, table: bool | None = None) -> PerceiverAR:
    cross, own = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    width = cross * own * draw(st.integers(4, 6))  # norms of fewer channels make much of rounding
    layers = draw(st.integers(0, 2))
    own_keys = draw(st.sampled_from(["inputs", "queries"]))
    tied = draw(st.booleans()) if tied is None else tied
    wide = own_keys == "queries" or tied
    channels = width if wide else cross * draw(st.integers(4, 6))
    attended = draw(st.sampled_from(["kv", "q"]))
    head = (channels if attended == "kv" else width) // cross
    return PerceiverAR(
        vocabulary=VOCABULARY,
        length=LENGTH,
        latents=draw(st.integers(1, LENGTH)),
        channels=channels,
        layers=layers,
        cross_heads=cross,
        self_heads=own,
        latent_channels=width,
        cross_widening=draw(st.integers(1, 2)),
        self_widening=draw(st.integers(1, 2)),
        attend_in=attended,
        cross_attends=tuple(sorted(draw(st.sets(st.integers(0, layers))))),
        query_residual=draw(st.booleans()),
        position_table=draw(st.booleans()) if table is None else table,
        cross_rotary=draw(st.none() | rotaries(cross, head)),
        self_rotary=draw(st.none() | rotaries(own, width // own)),
        rotary_layers=draw(st.none() | st.integers(0, 2)),
        query_map=channels != width or draw(st.booleans()),
        own_keys=own_keys,
        final_norm=draw(st.booleans()),
        tied=tied,
        output_bias=draw(st.booleans()),
        self_output_bias=draw(st.sampled_from([None, True, False])),
        conventions=draw(dialects),
    )


@st.composite
def calls(draw: st.DrawFn, model: PerceiverAR, *, padded: bool = True) -> tuple[np.ndarray, int, np.ndarray]:
    """(ids (2, M), prefix, mask (2, M)): the second row is padded on the left, but for its last token at least."""
    total = draw(st.integers(1, LENGTH))
    prefix = draw(st.integers(max(total - model.latents, 0), total - 1))
    ids = np.array(draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=2 * total, max_size=2 * total)))
    mask = np.ones((2, total), bool)
    mask[1, : draw(st.integers(0, total - 1)) if padded else 0] = False
    return ids.reshape(2, total), prefix, mask
