"""The deviations that `diagnose` knows: a table from the id of each cause to what could make it.

A row is a function from a `Survey` of the model to `Candidate`s: the variants in which the cause occurs, each a change
of parameters, of a layer or of an op of the reference.

base        what a deviation is, and how a run deviates
attention   scale, heads, keys and values, softmax, masks
fused       maps stored as one, what heads are
masks       masks that are added, and what is masked
tokens      which tokens are attended to, and in which order they stand
layers      linear maps, activations, residuals
residuals   what is added to what, branches left out
norms       their epsilon, absence and place
norm_places norms elsewhere, one more, one for another
positions   grids and Fourier features
placed      where positions are added; sines of places, points and times; resized tables
rotary      rotary position embedding
structure   order and sharing of layers
flamingo    embeddings of frames, gates, masks of media
tables      rows of learned tables, scaled embeddings
timesteps   timesteps, adaptive norms, losses
precision   a part in fewer digits
narrow      the arithmetic of a narrower format, op by op, as libraries do it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from . import (
    attention,
    flamingo,
    fused,
    layers,
    masks,
    norm_places,
    norms,
    placed,
    positions,
    precision,
    residuals,
    rotary,
    structure,
    tables,
    timesteps,
    tokens,
)
from .base import Candidate, Change, Survey, deviating, survey

Variants = Callable[[Survey], Iterable[Candidate]]


def _all(*several: Variants) -> Variants:
    """The variants of one function after those of another."""
    return lambda found: chain.from_iterable(variants(found) for variants in several)


CAUSES: dict[str, Variants] = {
    "activation": _all(layers.activation, layers.composed_activation, layers.second_activation),
    "layer-norm-eps": _all(norms.layer_norm_eps, norm_places.layer_norm_eps),
    "norm-missing": _all(norms.norm_missing, norm_places.norm_missing, norm_places.keys_or_values_unnormed),
    "norm-after": _all(norms.norm_after, norm_places.norm_after),
    "final-norm": _all(norms.final_norm, norm_places.final_norm),
    "attention-scale": _all(attention.attention_scale, fused.attention_scale),
    "head-layout": _all(attention.head_layout, fused.head_layout),
    "key-value-swapped": _all(attention.key_value_swapped, fused.key_value_swapped),
    "softmax-axis": _all(attention.softmax_axis, fused.softmax_axis),
    "weight-transposed": _all(layers.weight_transposed, layers.one_weight_transposed),
    "bias-missing": _all(layers.bias_missing, layers.one_bias_missing),
    "query-residual": _all(layers.query_residual, residuals.query_residual),
    "mlp-residual": _all(layers.mlp_residual, residuals.mlp_residual),
    "fully-masked-row": _all(
        attention.fully_masked_row, masks.bias_filled, masks.rows_wiped_late, masks.rows_elsewhere
    ),
    "mask-inverted": _all(attention.mask_inverted, masks.bias_inverted),
    "mask-ignored": _all(attention.mask_ignored, masks.bias_ignored, masks.queries_unmasked),
    "fourier-order": _all(positions.fourier_order, placed.fourier_order, timesteps.fourier_order),
    "fourier-frequencies": _all(
        positions.fourier_frequencies, placed.fourier_frequencies, timesteps.fourier_frequencies
    ),
    "position-grid": _all(positions.position_grid, placed.position_grid),
    "position-axes": _all(positions.position_axes, placed.position_axes),
    "weight-sharing": structure.weight_sharing,
    "block-order": _all(structure.block_order, tokens.second_pass),
    "latents-not-in-keys": _all(tokens.latents_not_in_keys, tokens.latents_weightless),
    "time-embedding": _all(flamingo.time_embedding, placed.time_embedding, tables.time_embedding),
    "gate-not-tanh": flamingo.gate_not_tanh,
    "gate-missing": flamingo.gate_missing,
    "media-mask": flamingo.media_mask,
    "norm-extra": norm_places.norm_extra,
    "norm-shared": norm_places.norm_shared,
    "branch-missing": residuals.branch_missing,
    "mask-kind": masks.mask_kind,
    "token-order": tokens.token_order,
    "context": tokens.context,
    "position-use": _all(placed.position_use, tables.position_use),
    "embedding-scale": tables.embedding_scale,
    "rotary": rotary.rotary,
    "interpolation": placed.interpolation,
    "modulation": timesteps.modulation,
    "loss": timesteps.loss,
    "dtype": precision.dtype,
}
"""Cause id -> its variants. Ids are never renamed."""


def candidates(found: Survey, causes: Iterable[str] = CAUSES) -> list[Candidate]:
    """Every deviation that the model could have, or those of some causes, common ones first."""
    made = [candidate for cause in causes for candidate in CAUSES[cause](found)]
    return sorted(made, key=lambda candidate: candidate.rare)


__all__ = ["CAUSES", "Candidate", "Change", "Survey", "candidates", "deviating", "survey"]
