"""Functions of the released code: masks, positions, rotary embedding, tables of features, the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...host.memory import require
from ...models.call import Call
from ...models.rotary import Rotary, even_part, frequencies
from ..base import REQUIRED, Arguments, Function, Given, Outputs, Rebuilt, options, read_call
from .sequences import causal_masks, lengths, mask_output, terminal_relative, truncated

Compute = Callable[[dict[str, Any], dict[str, Any]], Outputs]


def sinusoidal_features(length: int, channels: int, shortest: float = 1.0, longest: float = 10_000.0) -> np.ndarray:
    """Sines, then cosines of positions at geometrically spaced wavelengths: (length, channels), float32.

    Computed in float64 and rounded. Of an odd number of channels the last is 0.
    """
    half = channels // 2
    require(f"a table of {length:,} positions", length * channels * 8)
    if half < 2:
        raise InputError(f"sinusoidal features need at least 4 channels, got {channels}")
    speeds = shortest * np.exp(np.arange(half) * (-np.log(longest / shortest) / (half - 1)))
    angles = np.arange(length)[:, None] * speeds
    table = np.zeros((length, channels), np.float32)
    table[:, :half], table[:, half : 2 * half] = np.sin(angles), np.cos(angles)
    return table


def linear_features(length: int, channels: int) -> np.ndarray:
    """The position itself in every channel: (length, channels), float32."""
    return np.repeat(np.arange(length, dtype=np.float32)[:, None], channels, 1)


def weighted_cross_entropy(
    logits: Any, targets: Any, weights: Any = None, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Any:
    """logits (..., K), targets (...) integers, weights (...) -> losses (...).

        loss = w (sum_k y_k (log y_k - log p_k) + z (log Z)^2)        Z = sum exp(logits)

    y is 1 - s at the target and s / (K - 1) elsewhere, s being `label_smoothing`; where it meets log p it is rounded to
    float32, and what it then lacks of a sum of 1 is left out of the gradient.
    """
    classes = logits.shape[-1]
    exact = 1.0 - label_smoothing, (1.0 - (1.0 - label_smoothing)) / (classes - 1)
    on, off = (float(np.float32(y)) for y in exact)
    log_z = ops.logsumexp(logits, axis=-1)
    at_target = ops.take_along_axis(logits, array_of(targets)[..., None], axis=-1)[..., 0]
    expected = ops.add(ops.multiply(at_target, on - off), ops.multiply(ops.sum(logits, axis=-1), off))
    excess = array_of(log_z) * (on + (classes - 1) * off - 1)
    entropy = -(exact[0] * math.log(exact[0]) + (classes - 1) * exact[1] * math.log(exact[1] + 1e-20))
    loss = ops.subtract(ops.add(ops.subtract(log_z, expected), excess), entropy)
    loss = ops.add(loss, ops.multiply(ops.multiply(log_z, log_z), z_loss))
    return loss if weights is None else ops.multiply(loss, weights)


def _function(
    what: str, compute: Compute, arguments: tuple[str, ...], config: Mapping[str, Any], optional: tuple[str, ...] = ()
) -> Callable[[Given], Rebuilt]:
    def build(given: Given) -> Rebuilt:
        chosen = options(what, given.config, config)

        def run(model: Any, params: Tree, given: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
            values, _ = read_call(what, given, called, {*arguments, *optional}, {"is_training": False}, arguments)
            return compute(values, chosen)

        return Rebuilt(Function(compute), [], run)

    return build


def _masks(values: dict[str, Any], chosen: dict[str, Any]) -> Outputs:
    latents, per_position = chosen["latent_index_dim"], chosen["latents_per_position"]
    if chosen["mask_style"] != "final_block" or latents % per_position:
        raise InputError(f"mask_style must be final_block and {latents} latents a multiple of {per_position}")
    inputs, among, steps = causal_masks(values["inputs"], latents, per_position)
    return {"encoder": mask_output(inputs), "processor": mask_output(among), "latent_last_steps": steps}


def _positions(values: dict[str, Any], chosen: dict[str, Any]) -> Outputs:
    ids = values["inputs"]
    return {
        "length": lengths(ids),
        "positions": terminal_relative(values["pos"], ids),
        "truncated": truncated(ids),
    }


def _turned(values: dict[str, Any], chosen: dict[str, Any]) -> Outputs:
    """x (B, T, H, d), positions (B, T)."""
    x = ops.transpose(values["x"], axes=(0, 2, 1, 3))
    turning = int(chosen.get("fraction_heads_to_rotate", 1.0) * x.shape[1])
    channels = even_part(x.shape[-1], chosen.get("fraction_to_rotate", 1.0))
    rotary = Rotary(
        frequencies(channels, chosen["max_wavelength"], "closed"), heads=tuple(h < turning for h in range(x.shape[1]))
    )
    return {"out": ops.transpose(rotary.apply(x, values["positions"]), axes=(0, 2, 1, 3))}


def _features(values: dict[str, Any], chosen: dict[str, Any]) -> Outputs:
    length, size = chosen["max_len"], chosen["size"]
    waves = sinusoidal_features(length, size, chosen["min_scale"], chosen["max_scale"])
    return {"sinusoidal": waves, "linear": linear_features(length, size)}


def _loss(values: dict[str, Any], chosen: dict[str, Any]) -> Outputs:
    return {"loss": weighted_cross_entropy(values["logits"], values["targets"], values.get("weights"), **chosen)}


_SCALES = {"min_scale": 1.0, "max_scale": 10_000.0}
_WAVELENGTH = {"max_wavelength": REQUIRED}

FUNCTIONS: dict[str, Callable[[Given], Rebuilt]] = {
    "make_block_causal_masks": _function(
        "make_block_causal_masks",
        _masks,
        ("inputs",),
        {"latent_index_dim": REQUIRED, "latents_per_position": 1, "mask_style": "final_block"},
    ),
    "make_positions_terminal_relative, get_sequence_length, truncate_sequence": _function(
        "make_positions_terminal_relative", _positions, ("pos", "inputs"), {}
    ),
    "_apply_rotary_encoding": _function("_apply_rotary_encoding", _turned, ("x", "positions"), _WAVELENGTH),
    "_apply_rotary_encoding_to_subset": _function(
        "_apply_rotary_encoding_to_subset",
        _turned,
        ("x", "positions"),
        {**_WAVELENGTH, "fraction_to_rotate": REQUIRED, "fraction_heads_to_rotate": 1.0},
    ),
    "generate_sinusoidal_features, generate_linear_features": _function(
        "generate_sinusoidal_features", _features, (), {"size": REQUIRED, "max_len": 2048, **_SCALES}
    ),
    "compute_weighted_cross_entropy": _function(
        "compute_weighted_cross_entropy",
        _loss,
        ("logits", "targets"),
        {"label_smoothing": 0.0, "z_loss": 0.0},
        ("weights",),
    ),
}
