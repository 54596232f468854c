"""Postprocessors: decoder outputs -> what the task asks for.

embedding   logits over a vocabulary by the input embedding
linear      logits, pixels and audio samples by a linear map
image       images and video from patches, pixels or transposed convolutions
multimodal  several of these, each on its share of the outputs
"""

from .embedding import TiedEmbedding
from .image import ImageOutput
from .linear import AudioOutput, ClassificationOutput, IdentityOutput, ProjectionOutput
from .multimodal import MultimodalOutput

_Linear = AudioOutput | ClassificationOutput | IdentityOutput | ProjectionOutput
Postprocessor = TiedEmbedding | _Linear | ImageOutput | MultimodalOutput

__all__ = [
    "AudioOutput",
    "ClassificationOutput",
    "IdentityOutput",
    "ImageOutput",
    "MultimodalOutput",
    "Postprocessor",
    "ProjectionOutput",
    "TiedEmbedding",
]
