"""Optimizers, learning rates and clipping, as pure functions on trees of arrays.

schedules      constant, linear, polynomial, cosine, exponential, piecewise, join, warm_up, warmup_cosine, flat_cosine
parts          what optimizers are made of: momentum, adaptive, decay, trust_ratio
optimizers     sgd, adam, adamw, lamb
clipping       global_norm, clip_by_global_norm
accumulation   Accumulated: one update from several batches
averaging      Averaged: a moving average of the parameters beside them
scaling        Scaled: float16 gradients of a loss that was multiplied
"""

from .accumulation import Accumulated
from .averaging import Averaged
from .clipping import clip_by_global_norm, global_norm
from .optimizers import Optimizer, adam, adamw, lamb, sgd
from .parts import Chosen, Part
from .scaling import Scaled
from .schedules import (
    Schedule,
    constant,
    cosine,
    exponential,
    flat_cosine,
    join,
    linear,
    piecewise,
    polynomial,
    warm_up,
    warmup_cosine,
)

__all__ = [
    "Accumulated",
    "Averaged",
    "Chosen",
    "Optimizer",
    "Part",
    "Scaled",
    "Schedule",
    "adam",
    "adamw",
    "clip_by_global_norm",
    "constant",
    "cosine",
    "exponential",
    "flat_cosine",
    "global_norm",
    "join",
    "lamb",
    "linear",
    "piecewise",
    "polynomial",
    "sgd",
    "warm_up",
    "warmup_cosine",
]
