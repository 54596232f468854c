"""Perceiver IO on ImageNet and JFT (section 4.5, tables 5 and 9, appendix I)."""

from __future__ import annotations

from functools import partial

from ..conventions import Conventions
from ..decoder import classification_decoder
from ..encoder import Encoder
from ..inputs import GridInput, Pixels
from ..perceiver_io import PerceiverIO
from ..position import FourierPositions


def _fourier(conventions: Conventions, *, blocks: int = 8, layers: int = 6, widening: int = 1) -> PerceiverIO:
    preprocessor = GridInput(Pixels(3), FourierPositions(64, (224, 224), conventions=conventions))
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
    decoder = classification_decoder(1024, 1000, query_residual=True, conventions=conventions)
    return PerceiverIO(encoder, preprocessor, decoder)


PRESETS = {"perceiver-io/imagenet-fourier": _fourier}

VARIANTS = {"perceiver-io/imagenet-fourier-b": partial(_fourier, blocks=1, layers=16, widening=4)}
"""Configuration B, trained on JFT: 16 self-attentions with weights of their own and MLPs four times as wide. The
printed parameters fit 16 layers, the printed FLOPs 12; the classes are ImageNet's, those of JFT are not published."""
