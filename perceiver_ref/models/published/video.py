"""Autoencoding of Kinetics' video, sound and label (Perceiver IO, section 4.3 and table 9)."""

from __future__ import annotations

from ..conventions import Conventions
from ..decoder import Decoder
from ..encoder import Encoder
from ..inputs import AudioPatches, GridInput, MultimodalInput, OneHotInput, Patches
from ..outputs import AudioOutput, ClassificationOutput, MultimodalOutput, ProjectionOutput
from ..perceiver_io import PerceiverIO
from ..positions import FourierPositions, TrainablePositions
from ..queries import MultimodalQueries, PositionQueries

FRAMES, SIDE, SAMPLES, PATCH, CLASSES, OUTPUTS = 16, 224, 30720, 16, 700, 512


def _multimodal(conventions: Conventions) -> PerceiverIO:
    """16 frames of 224 x 224 pixels, 30,720 samples and a label, which is always masked: a classifier."""
    image = FourierPositions(32, (FRAMES, SIDE // 4, SIDE // 4), conventions=conventions)
    audio = FourierPositions(192, (SAMPLES,), conventions=conventions)
    preprocessor = MultimodalInput(
        {
            "audio": GridInput(AudioPatches(PATCH), audio),
            "image": GridInput(Patches(3, space=4, video=True), image),
            "label": OneHotInput(CLASSES),
        },
        min_padding=4,
        mask_probabilities={"audio": 0.0, "image": 0.0, "label": 1.0},
    )
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=784,
        channels=512,
        blocks=1,
        layers=8,
        cross_heads=1,
        self_heads=8,
        conventions=conventions,
    )
    queries = MultimodalQueries(
        {
            "audio": PositionQueries(audio, (SAMPLES // PATCH,), conventions=conventions),
            "image": PositionQueries(image, (FRAMES, SIDE, SIDE), conventions=conventions),
            "label": PositionQueries(TrainablePositions(1, 1024), (1,), conventions=conventions),
        },
        min_padding=2,
    )
    postprocessor = MultimodalOutput(
        {
            "audio": AudioOutput(OUTPUTS, PATCH),
            "image": ProjectionOutput(OUTPUTS, 3),
            "label": ClassificationOutput(OUTPUTS, CLASSES),
        }
    )
    decoder = Decoder(512, queries.channels, queries=queries, outputs=OUTPUTS, conventions=conventions)
    return PerceiverIO(encoder, preprocessor, decoder, postprocessor)


PRESETS = {"perceiver-io/multimodal": _multimodal}
