"""Sound and video of AudioSet (Perceiver, section 4.2; Perceiver IO, its experiments on AudioSet, table 9).

1.28 s: 32 frames of 224 x 224 pixels in 2 x 8 x 8 patches, 12,544 elements; 61,440 samples in 480 patches of 128, or
4,800 elements of a mel spectrogram. An element has 487 channels.

The papers print neither the frequency bands nor the padding: 384 channels of a patch, 3 (2 16 + 1) of its position and
4 of padding make 487. The bands of sound are not determined (64 here), nor is what an element of the spectrogram
holds (one value here); parameters and FLOPs other than the padding's depend on neither.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..conventions import Conventions
from ..decoder import classification_decoder
from ..encoder import Encoder
from ..inputs import AudioPatches, GridInput, MultimodalInput, Patches
from ..perceiver_io import PerceiverIO
from ..positions import FourierPositions
from .perceiver import perceiver

CLASSES = 527


def _input(conventions: Conventions, *, mel: bool) -> MultimodalInput:
    length, patch = (4800, 1) if mel else (480 * 128, 128)
    sound = FourierPositions(64, (length,), conventions=conventions)
    place = FourierPositions(16, (16, 28, 28), conventions=conventions)
    modalities = {
        "audio": GridInput(AudioPatches(patch), sound),
        "video": GridInput(Patches(3, space=8, time=2, video=True), place),
    }
    return MultimodalInput(modalities, min_padding=4)


def _perceiver(
    conventions: Conventions, *, mel: bool = False, cross_attends: int = 1, blocks: int = 1, layers: int = 12
) -> PerceiverIO:
    """12 self-attentions on 512 latents, 512 wide, none sharing weights: the row that Perceiver IO's table prints.

    Perceiver's own text (section 4.2) has 2 cross-attentions and 2 x 8 self-attentions, and prints no figures.
    """
    return perceiver(
        _input(conventions, mel=mel),
        CLASSES,
        conventions,
        channels=512,
        cross_attends=cross_attends,
        blocks=blocks,
        layers=layers,
        shared_cross="none",
        shared_blocks="none",
    )


def _perceiver_io(conventions: Conventions, *, mel: bool = False) -> PerceiverIO:
    """12 self-attentions on 512 latents, 512 wide for raw sound and 1,024 for spectrograms; the query is 1,024 wide."""
    preprocessor = _input(conventions, mel=mel)
    channels = 1024 if mel else 512
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=512,
        channels=channels,
        blocks=1,
        layers=12,
        conventions=conventions,
    )
    decoder = classification_decoder(
        channels, CLASSES, query_channels=1024, query_residual=True, conventions=conventions
    )
    return PerceiverIO(encoder, preprocessor, decoder)


PRESETS: dict[str, Callable[[Conventions], PerceiverIO]] = {
    "perceiver/audioset": _perceiver,
    "perceiver-io/audioset": _perceiver_io,
}
VARIANTS: dict[str, Callable[[Conventions], PerceiverIO]] = {
    "perceiver/audioset-mel": partial(_perceiver, mel=True),
    "perceiver/audioset-2-cross": partial(_perceiver, cross_attends=2, blocks=2, layers=8),
    "perceiver/audioset-mel-2-cross": partial(_perceiver, mel=True, cross_attends=2, blocks=2, layers=8),
    "perceiver-io/audioset-mel": partial(_perceiver_io, mel=True),
}
