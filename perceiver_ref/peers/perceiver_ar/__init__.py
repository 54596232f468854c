"""Perceiver AR as released (`google-research/perceiver-ar`, JAX and Haiku, commit cc756f5).

Read off its source: token 0 is padding, on the right; latents are a sequence's last tokens, wherever it ends, and one
that lies before its beginning stands at the last slot; positions count back from the last token; rotary bands have both
ends; scores that are masked are -1e30, so that a latent without any key averages all values; the activation is squared
ReLU. What only this code does is in `model`.
"""

from __future__ import annotations

from ..deepmind.names import HaikuPeer
from .config import perceiver_ar
from .functions import FUNCTIONS

PEER = HaikuPeer("perceiver-ar", {"PerceiverAR": perceiver_ar, **FUNCTIONS})
