"""naturalspeech2-pytorch 0.1.8: its PerceiverResampler, which is XTTS's but for two defaults."""

from __future__ import annotations

from functools import partial

from .base import Peer
from .xtts import OPTIONS, SIZE, resampler

_OPTIONS = {**OPTIONS, "depth": SIZE, "num_latents": 64}

PEER = Peer("naturalspeech2", {"PerceiverResampler": partial(resampler, known=_OPTIONS, dialect="naturalspeech2")})
