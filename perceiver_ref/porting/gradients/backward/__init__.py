"""The wrong backward passes that `diagnose` knows: a table from the id of each cause to what it is.

base        what a wrong backward pass is, and in which places one is looked for
flow        gradients stopped, scaled or not added up on their way, whatever the op
attention   the softmax, scale and mask of attention
rules       norms, activations, embeddings, linear maps, broadcasting
"""

from .attention import ATTENTION
from .base import Place, Slip, Wrong, scaled
from .flow import described, factor_said, flows, narrowed, norm_of, shared
from .rules import RULES, padding

ROWS = (*ATTENTION, *RULES)

GRADIENT_CAUSES: dict[str, str] = {
    "gradient-stopped": "a gradient does not go on through an argument, as after a detach",
    "gradient-sign": "it goes on with the other sign",
    "gradient-not-accumulated": "of what is used several times, only one use counts, or their mean",
    "softmax-backward": "the softmax of attention has another derivative",
    "attention-scale-backward": "the scale of attention is left out, or applied twice",
    "gradient-recomputed": "attention weights are computed again, and otherwise",
    "mask-backward": "gradient flows where a mask stops it",
    "norm-backward": "a term of layer norm's or RMS norm's derivative is missing or wrong",
    "activation-backward": "an activation has the derivative of another",
    "embedding-backward": "gradients of repeated tokens do not add up, or a token gets none",
    "weight-backward": "a matrix is transposed where it should not be, or the other way round",
    "gradient-averaged": "a sum over rows, examples or broadcast axes is a mean, or one term of it",
    "gradient-factor": "a gradient is multiplied by a constant, anywhere or in the loss",
    "gradient-clipped": "gradients are clipped by value or by norm",
    "gradient-dtype": "gradients pass through a narrower format",
}
"""Cause id -> what it means. Ids are never renamed."""

__all__ = [
    "GRADIENT_CAUSES",
    "ROWS",
    "Place",
    "Slip",
    "Wrong",
    "described",
    "factor_said",
    "flows",
    "narrowed",
    "norm_of",
    "padding",
    "scaled",
    "shared",
]
