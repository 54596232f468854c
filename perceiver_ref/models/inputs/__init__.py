"""Preprocessors by modality: raw inputs -> (B, M, C) for the encoder.

grid        images, video, audio: features of a grid, placed by a position encoding
features    what a grid element holds: pixels, patches, a 1x1 convolution, a convolutional stem, audio patches
text        token ids: embeddings plus trainable positions
sets        one-hot labels, points and entities: elements without a grid
multimodal  several of these side by side
bytes       the byte tokenizer
"""

from .base import Preprocessed
from .features import AudioPatches, Conv1x1, ConvStem, Patches, Pixels, depth_to_space, flow_patches, space_to_depth
from .grid import GridInput
from .multimodal import MultimodalInput
from .sets import OneHotInput, PointInput, VectorInput
from .text import TextInput

Preprocessor = GridInput | TextInput | OneHotInput | PointInput | VectorInput | MultimodalInput

__all__ = [
    "AudioPatches",
    "Conv1x1",
    "ConvStem",
    "GridInput",
    "MultimodalInput",
    "OneHotInput",
    "Patches",
    "Pixels",
    "PointInput",
    "Preprocessed",
    "Preprocessor",
    "TextInput",
    "VectorInput",
    "depth_to_space",
    "flow_patches",
    "space_to_depth",
]
