"""What Flamingo's resampler became: many features to few tokens, in image adapters, speech models and poolers.

resampler   several layers of latents that attend to features, with linear maps around them (IP-Adapter, XTTS)
pool        learned queries that attend to features once, with nothing added (SigLIP, timm, Kosmos-2, MiniCPM-V)
"""

from .pool import AttentionPool
from .resampler import LatentAttention, Resampler

__all__ = ["AttentionPool", "LatentAttention", "Resampler"]
