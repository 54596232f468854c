"""Perceiver (Jaegle et al. 2021, arXiv 2103.03206): repeated cross-attentions, and the mean of the latents at the end.

The repeated cross-attentions were never released as code: the released encoder attends to the inputs once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..conventions import Conventions
from ..decoder import ProjectionDecoder
from ..encoder import Encoder, Sharing
from ..inputs import ConvStem, GridInput, Pixels, PointInput
from ..perceiver_io import PerceiverIO
from ..positions import FourierPositions, Positions, TrainablePositions


def perceiver(
    preprocessor: Any,
    classes: int,
    conventions: Conventions,
    *,
    channels: int = 1024,
    cross_attends: int = 8,
    blocks: int | None = None,
    layers: int = 6,
    shared_cross: Sharing = "later",
    shared_blocks: Sharing = "all",
) -> PerceiverIO:
    """512 latents; `blocks` (default: one after each cross-attention) of `layers` self-attentions with 8 heads."""
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=512,
        channels=channels,
        blocks=cross_attends if blocks is None else blocks,
        layers=layers,
        cross_heads=1,
        self_heads=8,
        cross_attends=cross_attends,
        shared_cross=shared_cross,
        shared_blocks=shared_blocks,
        conventions=conventions,
    )
    return PerceiverIO(encoder, preprocessor, ProjectionDecoder(channels, classes))


def _imagenet(conventions: Conventions, *, positions: Positions | None = None, **encoder: Any) -> PerceiverIO:
    """Section 4.1: 50,176 pixels, 8 cross-attentions, the first with weights of its own, and 8 x 6 self-attentions."""
    positions = positions or FourierPositions(64, (224, 224), conventions=conventions)
    return perceiver(GridInput(Pixels(3), positions), 1000, conventions, **encoder)


def _imagenet_conv(conventions: Conventions) -> PerceiverIO:
    """One cross-attention to the 56 x 56 outputs of a convolution and max-pool (Perceiver IO, table 5)."""
    positions = FourierPositions(64, (56, 56), conventions=conventions)
    return perceiver(GridInput(ConvStem(3), positions), 1000, conventions, cross_attends=1, blocks=8)


def _modelnet40(conventions: Conventions) -> PerceiverIO:
    """Section 4.3: 2,048 points in space, 2 cross-attentions and 2 x 6 self-attentions; highest frequency 1,120.

    The paper leaves open how wide the latents are and whose weights are shared; both are ImageNet's here.
    """
    positions = FourierPositions(64, (2240, 2240, 2240), conventions=conventions)
    return perceiver(PointInput(positions), 40, conventions, cross_attends=2)


PRESETS: dict[str, Callable[[Conventions], PerceiverIO]] = {
    "perceiver/imagenet": _imagenet,
    "perceiver/modelnet40": _modelnet40,
}

VARIANTS: dict[str, Callable[[Conventions], PerceiverIO]] = {
    "perceiver/imagenet-unshared": partial(_imagenet, shared_cross="none", shared_blocks="none"),
    # table 6: the number of cross-attentions, with 48 self-attentions
    "perceiver/imagenet-1-cross": partial(_imagenet, cross_attends=1, blocks=8),
    "perceiver/imagenet-2-cross": partial(_imagenet, cross_attends=2, blocks=8),
    "perceiver/imagenet-4-cross": partial(_imagenet, cross_attends=4, blocks=8),
    # table 5: cross-attentions alone, without sharing
    "perceiver/imagenet-4-cross-only": partial(_imagenet, cross_attends=4, layers=0, shared_cross="none"),
    "perceiver/imagenet-8-cross-only": partial(_imagenet, cross_attends=8, layers=0, shared_cross="none"),
    "perceiver/imagenet-12-cross-only": partial(_imagenet, cross_attends=12, layers=0, shared_cross="none"),
    # table 1: positions as a table of 50,176 rows of 128, with one cross-attention
    "perceiver/imagenet-learned": partial(
        _imagenet, positions=TrainablePositions(224 * 224, 128, grid=(224, 224)), cross_attends=1, blocks=8
    ),
    "perceiver/imagenet-conv": _imagenet_conv,
}
