"""optax 0.2.8, and the training utilities that DeepMind's Perceiver builds on it (deepmind-research, commit f5de0ed).

Read off their source: clipping has no epsilon; weight decay follows the moments and the trust ratio follows it; the
global norm that a case reports is that before clipping.
"""

from __future__ import annotations

from ..base import Peer
from .optimizers import OPTIMIZERS
from .schedules import schedules

PEER = Peer("optax", {**OPTIMIZERS, "optax schedules": schedules})
