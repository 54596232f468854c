"""Masked language models over bytes and SentencePiece tokens (Perceiver IO, section 4.1, table 9, appendix F).

Appendix F prints two widths for the decoder's query, 1280 and 768; the released code has 768. It prints 4 special
tokens; the code has 6, so that the bytes' vocabulary is 262.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..conventions import Conventions
from ..decoder import Decoder, trainable_queries
from ..encoder import Encoder
from ..inputs import TextInput
from ..outputs import TiedEmbedding
from ..perceiver_io import PerceiverIO


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


def _published(
    conventions: Conventions, *, channels: int = 1280, layers: int = 26, vocabulary: int = 262, length: int = 2048
) -> PerceiverIO:
    encoder = Encoder(
        inputs=768,
        latents=256,
        channels=channels,
        blocks=1,
        layers=layers,
        cross_heads=8,
        self_heads=8,
        qk_channels=256,
        v_channels=channels,
        conventions=conventions,
    )
    return language_model(conventions, encoder=encoder, vocabulary=vocabulary, length=length)


PRESETS: dict[str, Callable[[Conventions], PerceiverIO]] = {
    "perceiver-io/language": _published,
    "perceiver-io/language-sp": partial(_published, vocabulary=32_000, length=512),
    "perceiver-io/language-plus": partial(_published, channels=1536, layers=40),
}
