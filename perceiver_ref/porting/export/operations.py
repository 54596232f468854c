"""Cases of single operations: what a port is made of, each alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...peers.base import Given
from ...peers.reference import NAME, PEER
from .adversarial import Kind
from .draw import Argument
from .subject import Draft, Exported, Layout

Change = Callable[[Draft], None]


@dataclass(frozen=True)
class Operation:
    """A case of one operation: the shapes of its arguments, its options, what `change` does to drawn values."""

    id: str
    operation: str
    arguments: Mapping[str, Argument]
    catches: str
    call: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    change: Change = lambda draft: None

    @property
    def subject(self) -> Exported:
        """The operation, called so."""
        laid_out = Layout((), lambda batch, sizes: dict(self.arguments), call=dict(self.call))
        rebuilt = PEER.rebuild(self.operation, Given({}))
        return Exported("operations", NAME, self.operation, {}, rebuilt, laid_out)

    @property
    def row(self) -> Kind:
        """The only row of that subject."""
        return Kind(self.id, ("operation", *self.flags), self.catches, change=self.change)


def _set(**arrays: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change arguments by name."""

    def change(draft: Draft) -> None:
        for name, function in arrays.items():
            draft.inputs[name] = function(draft.inputs[name])

    return change


def _mask(keep: Callable[[np.ndarray], np.ndarray]) -> Change:
    return _set(mask=lambda ones: keep(np.indices(ones.shape).sum(0)))


def _rows_without_keys(ones: np.ndarray) -> np.ndarray:
    ones[..., 1, :] = False
    ones[..., 2:] = ones[..., 2:] & (np.arange(ones.shape[-1] - 2) % 2 == 0)
    return ones


def _special(x: np.ndarray) -> np.ndarray:
    """From far below to far above zero, where activations are flat, and zero itself."""
    special = np.array([0.0, -0.0, 1e-8, -1e-8, 6.0, -6.0, 40.0, -40.0, 1e4, -1e4])
    x.flat[: special.size] = special
    return x


_X = Argument((3, 7))
_QKV = {"q": Argument((2, 2, 4, 3)), "k": Argument((2, 2, 5, 3)), "v": Argument((2, 2, 5, 6))}
_KEPT = Argument((2, 1, 4, 5), "real")
_NORM = {"x": Argument((3, 4, 6)), "scale": Argument((6,)), "offset": Argument((6,))}
_GRID = {"strides": [2, 2], "padding": [[2, 3], [3, 3]]}
_POINTS = Argument((5, 2), "unit")
_ACTIVATION = "an activation mistaken for another, and its gradient where it is flat"

OPERATIONS: tuple[Operation, ...] = (
    Operation("attention", "attention", _QKV, "a wrong scale, softmax over the wrong axis, keys and values exchanged"),
    Operation(
        "attention-mask",
        "attention",
        {**_QKV, "mask": _KEPT},
        "a mask inverted, or added with a number that is too small",
        flags=("mask",),
        change=_mask(lambda place: place % 3 != 1),
    ),
    Operation(
        "attention-masked-row-zero",
        "attention",
        {**_QKV, "mask": _KEPT},
        "a row without keys that does not give zeros, or whose gradients are NaN",
        {"masked_rows": "zero"},
        ("mask", "numerics"),
        _set(mask=_rows_without_keys),
    ),
    Operation(
        "attention-masked-row-uniform",
        "attention",
        {**_QKV, "mask": _KEPT},
        "a row without keys that does not give the average of all values",
        {"masked_rows": "uniform"},
        ("mask", "numerics"),
        _set(mask=_rows_without_keys),
    ),
    Operation(
        "attention-masked-row-added",
        "attention",
        {**_QKV, "mask": _KEPT},
        "a row without keys whose average gives no gradient to queries and keys, as if scores were filled in",
        {"masked_rows": "added"},
        ("mask", "numerics"),
        _set(mask=_rows_without_keys),
    ),
    Operation(
        "attention-bias",
        "attention",
        {**_QKV, "bias": Argument((2, 1, 4, 5))},
        "a bias scaled with the logits, or its gradient not summed over heads",
    ),
    Operation(
        "attention-scale",
        "attention",
        _QKV,
        "a scale that is always 1 / sqrt(d)",
        {"scale": 0.7},
    ),
    Operation(
        "attention-large-logits",
        "attention",
        _QKV,
        "softmax that overflows for want of subtracting the largest logit",
        flags=("numerics",),
        change=_set(q=lambda q: 60 * q, k=lambda k: 60 * k),
    ),
    Operation(
        "attention-one-key",
        "attention",
        {"q": Argument((2, 2, 4, 3)), "k": Argument((2, 2, 1, 3)), "v": Argument((2, 2, 1, 6))},
        "gradients of queries and keys that are not zero where softmax is constant",
        flags=("sizes",),
    ),
    Operation("attention-weights", "attention_weights", {k: _QKV[k] for k in "qk"}, "rows that do not sum to 1"),
    Operation("softmax", "softmax", {"x": _X}, "the wrong axis", {"axis": -1}),
    Operation(
        "softmax-large",
        "softmax",
        {"x": _X},
        "overflow for want of subtracting the largest value",
        {"axis": 0},
        ("numerics",),
        _set(x=lambda x: 800 * x),
    ),
    Operation(
        "log-softmax",
        "log_softmax",
        {"x": _X},
        "the logarithm of a softmax that is 0",
        change=_set(x=lambda x: 800 * x),
    ),
    Operation("layer-norm", "layer_norm", _NORM, "the unbiased variance, and scale before offset", {"eps": 1e-5}),
    Operation(
        "layer-norm-tiny-variance",
        "layer_norm",
        _NORM,
        "another eps, or eps outside the square root",
        {"eps": 1e-5},
        ("numerics",),
        _set(x=lambda x: 1e-3 * x),
    ),
    Operation(
        "layer-norm-large-mean",
        "layer_norm",
        _NORM,
        "variance as the difference of two large numbers",
        {"eps": 1e-5},
        ("numerics",),
        _set(x=lambda x: x + 1e4),
    ),
    Operation(
        "layer-norm-constant",
        "layer_norm",
        _NORM,
        "0 / 0 where all channels are equal",
        {"eps": 1e-5},
        ("numerics",),
        _set(x=np.zeros_like),
    ),
    Operation("rms-norm", "rms_norm", {k: _NORM[k] for k in ("x", "scale")}, "a mean subtracted", {"eps": 1e-6}),
    *(
        Operation(name.replace("_", "-"), name, {"x": _X}, _ACTIVATION, change=_set(x=_special), flags=("numerics",))
        for name in ("gelu_erf", "gelu_tanh", "relu", "squared_relu", "silu", "sigmoid")
    ),
    Operation(
        "linear",
        "linear",
        {"x": Argument((2, 3, 5)), "weight": Argument((5, 4)), "bias": Argument((4,))},
        "a weight transposed: here it is (inputs, outputs)",
    ),
    Operation(
        "fourier-features",
        "fourier_features",
        {"positions": _POINTS},
        "sines and cosines in turn, bands before axes, frequencies spaced otherwise",
        {"num_bands": 3, "max_resolution": [8, 20]},
        ("positions",),
    ),
    Operation(
        "fourier-features-sine-only",
        "fourier_features",
        {"positions": _POINTS},
        "positions or cosines that should be left out",
        {"num_bands": 4, "max_resolution": [5, 7], "concat_pos": False, "sine_only": True},
        ("positions",),
    ),
    Operation(
        "linear-positions",
        "linear_positions",
        {},
        "a grid without its end point, axes exchanged, float64 where DeepMind's code has float32",
        {"index_dims": [3, 5]},
        ("positions",),
    ),
    Operation(
        "linear-positions-one",
        "linear_positions",
        {},
        "0 / 0, or the middle, for an axis of one position",
        {"index_dims": [1, 4, 3], "grid": "compute"},
        ("positions", "sizes"),
    ),
    Operation(
        "subsampled-positions",
        "subsampled_positions",
        {"indices": Argument((6,), "ids", 15)},
        "single outputs placed where the full grid has them: DeepMind's code has -1 + 2 i / n",
        {"index_dims": [3, 5]},
        ("positions", "points"),
    ),
    Operation(
        "space-to-depth",
        "space_to_depth",
        {"x": Argument((2, 4, 6, 3))},
        "channels before the offsets in a patch",
        {"space": 2},
    ),
    Operation(
        "space-to-depth-video",
        "space_to_depth",
        {"x": Argument((1, 4, 4, 6, 2))},
        "time in the wrong place of a patch",
        {"space": 2, "time": 2},
    ),
    Operation(
        "depth-to-space",
        "depth_to_space",
        {"x": Argument((2, 2, 3, 12))},
        "not the inverse of space-to-depth",
        {"space": 2},
    ),
    Operation(
        "flow-patches",
        "flow_patches",
        {"frames": Argument((1, 2, 4, 5, 3))},
        "borders that repeat instead of being zero, x before y in a patch",
        {"size": 3},
        ("sizes",),
    ),
    Operation(
        "convolution",
        "convolution",
        {"x": Argument((2, 7, 8, 3)), "weight": Argument((5, 7, 3, 4))},
        "a kernel turned around, unequal padding on the wrong side",
        _GRID,
    ),
    Operation(
        "transposed-convolution",
        "transposed_convolution",
        {"x": Argument((2, 3, 4, 3)), "weight": Argument((4, 4, 3, 2))},
        "a kernel not turned around, cropping on the wrong side",
        {"strides": [2, 2], "padding": [[1, 1], [1, 1]]},
    ),
    Operation(
        "max-pool",
        "max_pool",
        {"x": Argument((2, 5, 6, 2))},
        "padding with zeros, which are larger than negative values",
        {"window": [3, 3], "strides": [2, 2], "padding": [[1, 1], [0, 1]]},
        change=_set(x=lambda x: x - 5),
    ),
    Operation(
        "resize-linear",
        "resize_linear",
        {"table": Argument((4, 3))},
        "cells whose centres align instead of their ends",
        {"target": 7},
        ("frames",),
    ),
    Operation(
        "resize-bicubic",
        "resize_bicubic",
        {"table": Argument((12, 2))},
        "another cubic kernel, ends that align instead of centres",
        {"source": [3, 4], "target": [5, 3]},
        ("positions",),
    ),
    Operation(
        "rotary-interleaved",
        "rotate",
        {"x": Argument((2, 2, 5, 6)), "positions": Argument((2, 5), "ids", 50)},
        "channels paired by halves, or turned the other way",
        {"pairing": "interleaved"},
        ("positions",),
    ),
    Operation(
        "rotary-half-split",
        "rotate",
        {"x": Argument((2, 2, 5, 6)), "positions": Argument((2, 5), "ids", 50)},
        "neighbouring channels paired",
        {"pairing": "half_split"},
        ("positions",),
    ),
    Operation(
        "media-locations",
        "media_locations",
        {"locations": Argument((3, 8), "tags")},
        "a tag that does not count for its own token",
        flags=("media",),
    ),
    Operation(
        "cross-entropy",
        "cross_entropy",
        {"logits": Argument((2, 4, 5)), "targets": Argument((2, 4), "ids", 5)},
        "a mean over ignored positions, smoothing that leaves the target out",
        {"label_smoothing": 0.1, "ignore_index": 2},
        ("tokens",),
    ),
)
"""Every operation of the pack."""
