"""Flamingo: Perceiver Resampler, GATED XATTN-DENSE and the model around them (Alayrac et al. 2022, arXiv 2204.14198).

vision          media -> features, of patches or of any encoder
resampler       features of any number of frames and tokens -> a fixed number of latents a medium
media           which media each text token attends to
gated_xattn     text attends to media through tanh gates that start closed
language_model  a causal decoder, which stays as it is
model           all of them together, with what is frozen apart from what is trained
prompts         interleaved text and media as token ids, few-shot prompts, batches
generation      text that goes on from prompts
"""

from .gated_xattn import GatedCrossAttention, GatedLayers
from .generation import generate
from .language_model import LanguageModel
from .media import MediaMask, media_mask, preceding
from .model import Flamingo
from .prompts import Chunk, Prompt, collate, few_shot, interleave, marked
from .resampler import PerceiverResampler
from .vision import Features, PatchEncoder

__all__ = [
    "Chunk",
    "Features",
    "Flamingo",
    "GatedCrossAttention",
    "GatedLayers",
    "LanguageModel",
    "MediaMask",
    "PatchEncoder",
    "PerceiverResampler",
    "Prompt",
    "collate",
    "few_shot",
    "generate",
    "interleave",
    "marked",
    "media_mask",
    "preceding",
]
