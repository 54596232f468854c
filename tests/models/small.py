"""Small models of every kind, drawn by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from perceiver_ref.models.conventions import DEEPMIND, DIALECTS, Conventions
from perceiver_ref.models.decoder import ClassificationDecoder, Decoder, classification_decoder, trainable_queries
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.inputs import GridInput, Pixels, TextInput
from perceiver_ref.models.outputs import TiedEmbedding
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.positions import FourierPositions

dialects = st.sampled_from(sorted(DIALECTS)).map(DIALECTS.__getitem__)


@st.composite
def encoders(draw: st.DrawFn) -> Encoder:
    cross, own = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    channels = cross * own * draw(st.integers(1, 3))
    conventions, blocks = draw(dialects), draw(st.integers(1, 3))
    free = conventions.free_widths and draw(st.booleans())
    widths = free or draw(st.booleans())
    sharing = st.sampled_from(["all", "later", "none"])
    return Encoder(
        inputs=cross * draw(st.integers(1, 3)),
        latents=draw(st.integers(1, 4)),
        channels=draw(st.integers(1, 5)) if free else channels,
        blocks=blocks,
        layers=draw(st.integers(0, 2)),
        cross_heads=cross,
        self_heads=own,
        qk_channels=cross * own * draw(st.integers(1, 3)) if widths else None,
        v_channels=channels if widths else None,
        attend_in=draw(st.sampled_from(["kv", "q"])),
        cross_widening=draw(st.integers(1, 2)),
        self_widening=draw(st.integers(1, 2)),
        query_residual=draw(st.booleans()),
        cross_attends=draw(st.integers(1, blocks)),
        shared_cross=draw(sharing),
        shared_blocks=draw(sharing),
        self_qk_channels=own * draw(st.integers(1, 3)) if free else None,
        self_v_channels=own * draw(st.integers(1, 3)) if free else None,
        conventions=conventions,
    )


@st.composite
def decoders(draw: st.DrawFn, *, outputs: bool = True) -> Decoder:
    """Decoders that are given their queries."""
    heads = draw(st.integers(1, 2))
    return Decoder(
        latent_channels=heads * draw(st.integers(1, 3)),
        query_channels=heads * draw(st.integers(1, 3)),
        outputs=draw(st.none() | st.integers(1, 3)) if outputs else None,
        heads=heads,
        widening=draw(st.integers(1, 2)),
        query_residual=draw(st.booleans()),
        conventions=draw(dialects),
    )


def encoder(conventions: Conventions = DEEPMIND, *, inputs: int = 6, blocks: int = 2, layers: int = 2) -> Encoder:
    """One small encoder with several heads and shared blocks."""
    return Encoder(inputs, 4, 8, blocks, layers, cross_heads=2, self_heads=4, conventions=conventions)


def language_model(conventions: Conventions = DEEPMIND) -> PerceiverIO:
    """Tokens in [0, 11), up to 7 of them -> logits (B, 7, 11)."""
    return PerceiverIO(
        encoder(conventions),
        TextInput(11, 7, 6),
        Decoder(
            8,
            6,
            trainable_queries(7, 6),
            heads=2,
            qk_channels=4,
            v_channels=6,
            conventions=conventions,
        ),
        TiedEmbedding(11),
    )


def image_classifier(conventions: Conventions = DEEPMIND) -> PerceiverIO:
    """Images (B, H, W, 2) of any size -> logits (B, 5)."""
    pixels = GridInput(Pixels(2), FourierPositions(3, (6, 5), conventions=conventions))
    decoder = classification_decoder(8, 5, query_residual=True, conventions=conventions)
    assert isinstance(decoder, ClassificationDecoder)
    return PerceiverIO(encoder(conventions, inputs=pixels.channels), pixels, decoder)
