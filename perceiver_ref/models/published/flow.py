"""Optical flow between two frames (Perceiver IO, section 4.2, table 9 and appendix H)."""

from __future__ import annotations

from ..conventions import Conventions
from ..decoder import GridDecoder
from ..encoder import Encoder
from ..inputs import GridInput, Patches
from ..perceiver_io import PerceiverIO
from ..positions import FourierPositions
from ..queries import InputQueries

SIZE = (368, 496)


def _optical_flow(conventions: Conventions) -> PerceiverIO:
    """Two frames of 3 x 3 patches, (B, 2, 368, 496, 27), as one grid; queries are the preprocessed inputs."""
    features = Patches(27, space=1, time=2, linear=64, video=True)
    preprocessor = GridInput(features, FourierPositions(64, SIZE, conventions=conventions))
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=2048,
        channels=512,
        blocks=1,
        layers=24,
        cross_heads=1,
        self_heads=16,
        conventions=conventions,
    )
    decoder = GridDecoder(
        512,
        preprocessor.channels,
        queries=InputQueries(preprocessor.channels),
        outputs=2,
        conventions=conventions,
        grid=SIZE,
        rescale=100.0,
    )
    return PerceiverIO(encoder, preprocessor, decoder)


PRESETS = {"perceiver-io/optical-flow": _optical_flow}
