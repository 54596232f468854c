"""Perceiver IO on ImageNet and JFT (its experiments on images, tables 5 and 9)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..conventions import Conventions
from ..decoder import classification_decoder
from ..encoder import Encoder
from ..inputs import Conv1x1, ConvStem, GridInput, Pixels
from ..perceiver_io import PerceiverIO
from ..positions import FourierPositions, ProjectedPositions, TrainablePositions


def _classifier(
    preprocessor: GridInput,
    conventions: Conventions,
    *,
    blocks: int = 8,
    layers: int = 6,
    widening: int = 1,
    query_residual: bool = True,
) -> PerceiverIO:
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=512,
        channels=1024,
        blocks=blocks,
        layers=layers,
        cross_heads=1,
        self_heads=8,
        self_widening=widening,
        conventions=conventions,
    )
    decoder = classification_decoder(1024, 1000, query_residual=query_residual, conventions=conventions)
    return PerceiverIO(encoder, preprocessor, decoder)


def _fourier(conventions: Conventions, **sizes: int) -> PerceiverIO:
    """Pixels as they are, with Fourier features."""
    positions = FourierPositions(64, (224, 224), conventions=conventions)
    return _classifier(GridInput(Pixels(3), positions), conventions, **sizes)  # type: ignore[arg-type]


def _learned(conventions: Conventions) -> PerceiverIO:
    """Pixels mapped to 256 channels, with trainable positions. Released without the decoder's query residual, which
    transformers' class has."""
    positions = ProjectedPositions(TrainablePositions(224 * 224, 256, grid=(224, 224)), 256)
    return _classifier(GridInput(Conv1x1(3, 256), positions), conventions, query_residual=False)


def _conv(conventions: Conventions) -> PerceiverIO:
    """A convolutional stem to 56 x 56, with Fourier features. `conventions` leave its paddings as released."""
    positions = FourierPositions(64, (56, 56), conventions=conventions)
    return _classifier(GridInput(ConvStem(3), positions), conventions)


PRESETS: dict[str, Callable[[Conventions], PerceiverIO]] = {
    "perceiver-io/imagenet-conv": _conv,
    "perceiver-io/imagenet-fourier": _fourier,
    "perceiver-io/imagenet-learned": _learned,
}

VARIANTS: dict[str, Callable[[Conventions], PerceiverIO]] = {
    "perceiver-io/imagenet-fourier-b": partial(_fourier, blocks=1, layers=16, widening=4)
}
"""Configuration B, trained on JFT: 16 self-attentions with weights of their own and MLPs four times as wide. The
printed parameters fit 16 layers, the printed FLOPs 12; the classes are ImageNet's, those of JFT are not published."""
