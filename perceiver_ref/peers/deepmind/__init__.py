"""DeepMind's Perceiver and Perceiver IO (`deepmind-research/perceiver`, JAX and Haiku, commit f5de0ed).

Read off its source: gelu is the tanh approximation; a fully masked row gives zeros; grid positions are float32 whatever
the dtype; positions of single points are half-open; convolutions pad like TensorFlow's SAME; dimensions that a module
does not state are those of its first input.
"""

from __future__ import annotations

from collections.abc import Callable

from ..base import Given, Rebuilt
from . import models
from .functions import FUNCTIONS
from .names import HaikuPeer
from .parts import PARTS

CLASSES: dict[str, Callable[[Given], Rebuilt]] = {
    "Perceiver": models.perceiver,
    "masked_language_modelling colab (hk.Embed + TrainablePositionEncoding + Perceiver + EmbeddingDecoder)": (
        models.language_model
    ),
    "optical_flow colab (patches_for_flow + Perceiver with FlowDecoder) * flow_scale_factor": models.optical_flow,
    **PARTS,
    **FUNCTIONS,
}

PEER = HaikuPeer("deepmind", CLASSES)
