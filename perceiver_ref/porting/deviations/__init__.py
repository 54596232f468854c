"""The deviations that `diagnose` knows: a table from the id of each cause to what could make it.

A row is a function from a `Survey` of the model to `Candidate`s: the variants in which the cause occurs, each a change
of parameters, of a layer or of an op of the reference.

base        what a deviation is, and how a run deviates
attention   scale, heads, keys and values, softmax, masks
layers      linear maps, activations, residuals
norms       their epsilon, absence and place
positions   grids and Fourier features
structure   order and sharing of layers
flamingo    resampler and gates
precision   a part in fewer digits
narrow      the arithmetic of a narrower format, op by op, as libraries do it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import attention, flamingo, layers, norms, positions, precision, structure
from .base import Candidate, Change, Survey, deviating, survey

CAUSES: dict[str, Callable[[Survey], Iterable[Candidate]]] = {
    "activation": layers.activation,
    "layer-norm-eps": norms.layer_norm_eps,
    "norm-missing": norms.norm_missing,
    "norm-after": norms.norm_after,
    "final-norm": norms.final_norm,
    "attention-scale": attention.attention_scale,
    "head-layout": attention.head_layout,
    "key-value-swapped": attention.key_value_swapped,
    "softmax-axis": attention.softmax_axis,
    "weight-transposed": layers.weight_transposed,
    "bias-missing": layers.bias_missing,
    "query-residual": layers.query_residual,
    "mlp-residual": layers.mlp_residual,
    "fully-masked-row": attention.fully_masked_row,
    "mask-inverted": attention.mask_inverted,
    "mask-ignored": attention.mask_ignored,
    "fourier-order": positions.fourier_order,
    "fourier-frequencies": positions.fourier_frequencies,
    "position-grid": positions.position_grid,
    "position-axes": positions.position_axes,
    "weight-sharing": structure.weight_sharing,
    "block-order": structure.block_order,
    "latents-not-in-keys": flamingo.latents_not_in_keys,
    "time-embedding": flamingo.time_embedding,
    "gate-not-tanh": flamingo.gate_not_tanh,
    "gate-missing": flamingo.gate_missing,
    "media-mask": flamingo.media_mask,
    "dtype": precision.dtype,
}
"""Cause id -> its variants. Ids are never renamed."""


def candidates(found: Survey) -> list[Candidate]:
    """Every deviation that the model could have, common ones first."""
    made = [candidate for variants in CAUSES.values() for candidate in variants(found)]
    return sorted(made, key=lambda candidate: candidate.rare)


__all__ = ["CAUSES", "Candidate", "Change", "Survey", "candidates", "deviating", "survey"]
