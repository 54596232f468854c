"""Flamingo: Perceiver Resampler, GATED XATTN-DENSE and the model around them (Alayrac et al. 2022, arXiv 2204.14198).

resampler     features of any number of frames and tokens -> a fixed number of latents a medium
media         which media each text token attends to
gated_xattn   text attends to media through tanh gates that start closed
"""

from .gated_xattn import GatedCrossAttention, GatedLayers
from .media import MediaMask, media_mask, preceding
from .resampler import PerceiverResampler

__all__ = ["GatedCrossAttention", "GatedLayers", "MediaMask", "PerceiverResampler", "media_mask", "preceding"]
