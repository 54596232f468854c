"""krasserm's Perceiver IO and Perceiver AR (`perceiver-io` 0.11, PyTorch, Martin Krasser).

Read off its source: linear weights are (outputs, inputs); masks are True where there is padding; scores that are masked
are `-finfo.max`, so that a fully masked row averages all values, later ones included; the width of cross-attention is
that of its queries; Fourier positions and rotary frequencies are buffers, kept with the weights. Perceiver AR turns
half of each head's channels when it also adds positions, has biases only in the cross-attention's output, and leaves
padding among the latents unmasked.
"""

from __future__ import annotations

from ..base import Peer
from .causal import causal_sequence_model
from .models import image_classifier, masked_language_model, optical_flow, text_classifier
from .parts import fourier_positions, multi_head_attention, perceiver_decoder, perceiver_encoder

PEER = Peer(
    "krasserm",
    {
        "MultiHeadAttention": multi_head_attention,
        "FourierPositionEncoding": fourier_positions,
        "PerceiverEncoder": perceiver_encoder,
        "PerceiverDecoder": perceiver_decoder,
        "ImageClassifier": image_classifier,
        "OpticalFlow": optical_flow,
        "TextClassifier": text_classifier,
        "MaskedLanguageModel": masked_language_model,
        "CausalSequenceModel": causal_sequence_model,
        "CausalLanguageModel": causal_sequence_model,
        "SymbolicAudioModel": causal_sequence_model,
    },
)
