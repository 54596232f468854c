"""Small Flamingos and prompts for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from support import normal, on, random_parameters

from perceiver_ref.autograd import tree
from perceiver_ref.models.flamingo import GatedCrossAttention, GatedLayers, PerceiverResampler
from perceiver_ref.models.flamingo.language_model import LanguageModel
from perceiver_ref.models.flamingo.model import Flamingo
from perceiver_ref.models.flamingo.prompts import VOCABULARY, Batch, Chunk, Prompt, collate, interleave
from perceiver_ref.models.flamingo.vision import Features, PatchEncoder

C, S = 6, 3
"""Channels of media, tokens of a frame of features."""


def flamingo(
    *, images: bool = False, layers: int = 3, every: int = 2, frames: int | None = 4, length: int = 64, **options: Any
) -> Flamingo:
    """Features (S, 6), or images of 4 x 4 pixels, 2 channels each; 8 channels of text."""
    return Flamingo(
        LanguageModel(VOCABULARY, length, 8, layers, heads=2, widening=2, logits=options.pop("logits", "tied")),
        PatchEncoder((4, 4), 2, C, image_channels=2, layers=1, heads=2, widening=2) if images else Features(C),
        PerceiverResampler(C, latents=2, layers=min(layers, 2), heads=2, widening=2, frames=frames),
        GatedLayers(layers, every, GatedCrossAttention(8, C, heads=2, widening=2)),
        **options,
    )


def parameters(model: Flamingo, backend: str, seed: int = 0) -> Any:
    """Random ones with open gates, so that everything has a say; gates are near 1, not 0."""
    return on(backend, random_parameters(model, seed))


def features(seed: int, frames: int = 1) -> np.ndarray:
    return normal(seed, frames, S, C)


def batch(*prompts: Prompt) -> Batch:
    return collate(prompts, frame_axes=2)


def run(model: Flamingo, params: Any, made: Batch, backend: str) -> Any:
    """Logits of a batch."""
    ids, mask, media, frames, _ = on(backend, made)
    return model.apply(params, ids, media, mask=mask, frames=frames)


@st.composite
def prompts(draw: st.DrawFn, *, most: int = 4, images: bool = True) -> Prompt:
    """Short texts with media of one to three frames here and there."""
    chunks = draw(st.lists(st.tuples(st.text("ab ", max_size=4), st.integers(0, 3 if images else 0)), max_size=most))
    made = [Chunk(text, features(len(text) + 7 * i, n) if n else None) for i, (text, n) in enumerate(chunks)]
    return interleave([Chunk("a"), *made], complete=draw(st.booleans()))


def paths(params: Any) -> list[str]:
    return [path for path, _ in tree.leaves(params)]
