"""Small models of every kind, each with the shape of one example of its input."""

from __future__ import annotations

from typing import Any

import numpy as np

from perceiver_ref.autograd import tree
from perceiver_ref.models.conventions import DIALECTS
from perceiver_ref.models.decoder import Decoder, GridDecoder, ProjectionDecoder, classification_decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.inputs import (
    AudioPatches,
    Conv1x1,
    ConvStem,
    GridInput,
    MultimodalInput,
    OneHotInput,
    Patches,
    Pixels,
    PointInput,
    VectorInput,
)
from perceiver_ref.models.ledger import example
from perceiver_ref.models.outputs import (
    AudioOutput,
    ClassificationOutput,
    ImageOutput,
    MultimodalOutput,
    ProjectionOutput,
)
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.positions import FourierPositions, ProjectedPositions, TrainablePositions
from perceiver_ref.models.published import language_model
from perceiver_ref.models.queries import InputQueries, MultimodalQueries, PositionQueries


def encoder(inputs: int, **options: Any) -> Encoder:
    """5 latents, 8 wide, 2 heads, 2 x 2 self-attentions, unless told otherwise."""
    chosen = {"latents": 5, "channels": 8, "blocks": 2, "layers": 2, "self_heads": 2, **options}
    return Encoder(inputs=inputs, **chosen)


def image_model(features: Any, positions: Any, combine: Any = "concat", layers: int = 0, **options: Any) -> PerceiverIO:
    """A classifier with 3 classes."""
    grid = GridInput(features, positions, combine, layers)
    decoder = classification_decoder(options.get("channels", 8), 3, query_residual=True)
    return PerceiverIO(encoder(grid.channels, **options), grid, decoder)


def _multimodal() -> PerceiverIO:
    parts = {
        "audio": GridInput(AudioPatches(4), FourierPositions(3, (16,))),
        "image": GridInput(Patches(3, space=2, time=1, video=True), FourierPositions(2, (2, 4, 4))),
        "label": OneHotInput(6),
    }
    preprocessor = MultimodalInput(parts, min_padding=2, mask_probabilities={"audio": 0.0, "label": 1.0})
    queries = MultimodalQueries(
        {
            "audio": PositionQueries(FourierPositions(4, (16,)), (4,)),
            "image": PositionQueries(FourierPositions(3, (2, 4, 4)), (2, 4, 4)),
            "label": PositionQueries(TrainablePositions(1, 9), (1,)),
        }
    )
    decoder = Decoder(8, queries.channels, queries=queries, outputs=10)
    output = MultimodalOutput(
        {"audio": AudioOutput(10, 4), "image": ProjectionOutput(10, 3), "label": ClassificationOutput(10, 6)}
    )
    return PerceiverIO(encoder(preprocessor.channels), preprocessor, decoder, output)


def _flow() -> PerceiverIO:
    features = Patches(5, space=1, time=2, linear=6, video=True)
    grid = GridInput(features, FourierPositions(2, (4, 6)))
    queries = InputQueries(grid.channels)
    decoder = GridDecoder(8, grid.channels, queries=queries, outputs=2, grid=(4, 6), rescale=100.0)
    return PerceiverIO(encoder(grid.channels), grid, decoder)


def _upsampling() -> PerceiverIO:
    grid = GridInput(Pixels(3, space=2), FourierPositions(2, (4, 4)))
    queries = PositionQueries(FourierPositions(3, (4, 4)), (4, 4), concat_inputs=True)
    decoder = Decoder(8, 3 + queries.channels, queries=queries, outputs=4)
    output = ImageOutput(4, 3, "conv", grid=(4, 4), space=4)
    return PerceiverIO(encoder(grid.channels), grid, decoder, output)


_FOURIER = FourierPositions(3, (4, 6))

MODELS: dict[str, tuple[PerceiverIO, Any]] = {
    "pixels": (image_model(Pixels(3), _FOURIER), (4, 6, 3)),
    "sine only": (image_model(Pixels(3), FourierPositions(3, (4, 6), sine_only=True)), (4, 6, 3)),
    "position layers": (image_model(Pixels(3), _FOURIER, layers=2), (4, 6, 3)),
    "learned positions": (image_model(Conv1x1(3, 5), TrainablePositions(24, 7)), (4, 6, 3)),
    "learned positions resized": (image_model(Pixels(3), TrainablePositions(30, 7, resize=(5, 6))), (4, 6, 3)),
    "projected positions": (image_model(Pixels(3), ProjectedPositions(_FOURIER, 5)), (4, 6, 3)),
    "added positions": (image_model(Conv1x1(3, 7), TrainablePositions(24, 7), "add"), (4, 6, 3)),
    "strided convolution": (image_model(Conv1x1(3, 7, stride=2), TrainablePositions(6, 7), "add"), (4, 6, 3)),
    "stem": (image_model(ConvStem(3, 6), FourierPositions(2, (4, 4))), (16, 16, 3)),
    "stem without norm": (image_model(ConvStem(3, 6, 2, batch_norm=False), FourierPositions(2, (2, 2))), (32, 32, 3)),
    "patches": (image_model(Patches(3, space=2), FourierPositions(2, (2, 3))), (4, 6, 3)),
    "one head": (image_model(Pixels(3), _FOURIER, self_heads=1, self_widening=3, cross_widening=2), (4, 6, 3)),
    "heads in the encoder": (image_model(Pixels(3), _FOURIER, cross_heads=2, qk_channels=6, v_channels=8), (4, 6, 3)),
    "no query residual": (image_model(Pixels(3), _FOURIER, query_residual=False, attend_in="q"), (4, 6, 3)),
    "one latent": (image_model(Pixels(3), _FOURIER, latents=1), (4, 6, 3)),
    "cross-attentions alone": (
        image_model(Pixels(3), _FOURIER, blocks=3, layers=0, cross_attends=3, shared_cross="none"),
        (4, 6, 3),
    ),
    "perceiver": (
        PerceiverIO(
            encoder(13, blocks=3, cross_attends=2, shared_blocks="later"),
            GridInput(Pixels(3), FourierPositions(2, (4, 6))),
            ProjectionDecoder(8, 3),
        ),
        (4, 6, 3),
    ),
    "points": (
        PerceiverIO(encoder(15), PointInput(FourierPositions(2, (8, 8, 8))), ProjectionDecoder(8, 3)),
        (7, 3),
    ),
    "entities": (
        PerceiverIO(
            encoder(6, conventions=DIALECTS["paper"]), VectorInput(6), Decoder(8, 6, InputQueries(6), outputs=4)
        ),
        (9, 6),
    ),
    "latents alone": (PerceiverIO(encoder(6)), (9, 6)),
    "language": (
        language_model(
            DIALECTS["hf"],
            encoder=encoder(6, cross_heads=2, qk_channels=4, v_channels=8),
            vocabulary=20,
            length=11,
            decoder_qk_channels=4,
            decoder_heads=2,
        ),
        (9,),
    ),
    "full language": (
        language_model(DIALECTS["hf"], encoder=encoder(6), vocabulary=20, length=9, decoder_heads=2),
        (9,),
    ),
    "multimodal": (_multimodal(), {"audio": (16, 1), "image": (2, 8, 8, 3), "label": (6,)}),
    "flow": (_flow(), (2, 4, 6, 5)),
    "upsampling": (_upsampling(), (8, 8, 3)),
}


def filled(model: PerceiverIO, sizes: Any, batch: int, dtype: str) -> Any:
    """Real inputs of these sizes."""
    rng = np.random.default_rng(0)

    def fill(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "i":
            return rng.integers(0, 20, array.shape)
        return rng.uniform(-1, 1, array.shape).astype(dtype)

    return tree.map(fill, example(model, sizes, batch=batch, dtype=dtype))
