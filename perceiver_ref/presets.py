"""The published configurations, by name (Perceiver IO, table 9 and appendices; DeepMind's released notebooks)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conventions import DIALECTS, Conventions
from .decoder import Decoder, classification_decoder, trainable_queries
from .encoder import Encoder
from .errors import one_of
from .inputs import GridInput, Pixels, TextInput
from .outputs import TiedEmbedding
from .perceiver_io import PerceiverIO
from .position import FourierPositions


def language_model(
    conventions: Conventions,
    *,
    encoder: Encoder,
    vocabulary: int = 262,
    length: int = 2048,
    decoder_qk_channels: int = 256,
    decoder_heads: int = 8,
) -> PerceiverIO:
    """A masked language model: embeddings in, one trainable query per position, tied embeddings out."""
    channels = encoder.inputs
    return PerceiverIO(
        encoder=encoder,
        preprocessor=TextInput(vocabulary, length, channels),
        decoder=Decoder(
            encoder.channels,
            channels,
            queries=trainable_queries(length, channels),
            heads=decoder_heads,
            qk_channels=decoder_qk_channels,
            v_channels=channels,
            query_residual=False,
            conventions=conventions,
        ),
        postprocessor=TiedEmbedding(vocabulary),
    )


def _language(conventions: Conventions) -> PerceiverIO:
    encoder = Encoder(
        inputs=768,
        latents=256,
        channels=1280,
        blocks=1,
        layers=26,
        cross_heads=8,
        self_heads=8,
        qk_channels=256,
        v_channels=1280,
        conventions=conventions,
    )
    return language_model(conventions, encoder=encoder)


def _imagenet_fourier(conventions: Conventions) -> PerceiverIO:
    preprocessor = GridInput(Pixels(3), FourierPositions(64, (224, 224), conventions=conventions))
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=512,
        channels=1024,
        blocks=8,
        layers=6,
        cross_heads=1,
        self_heads=8,
        conventions=conventions,
    )
    decoder = classification_decoder(1024, 1000, query_residual=True, conventions=conventions)
    return PerceiverIO(encoder, preprocessor, decoder)


PRESETS: dict[str, Callable[[Conventions], Any]] = {
    "perceiver-io/imagenet-fourier": _imagenet_fourier,
    "perceiver-io/language": _language,
}


def presets() -> list[str]:
    """The names that `preset` knows."""
    return sorted(PRESETS)


def preset(name: str, *, dialect: str = "deepmind") -> Any:
    """The model of a published configuration, without parameters: call its `init` or load some.

    `dialect` names the implementation whose conventions it follows. Raises `InputError` listing the known names.
    """
    if name not in PRESETS:
        raise one_of("preset", name, PRESETS)
    if dialect not in DIALECTS:
        raise one_of("dialect", dialect, DIALECTS)
    return PRESETS[name](DIALECTS[dialect])
