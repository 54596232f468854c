"""Functions without parameters: attention itself, masks, position features, patches, pooling, losses, flow tiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.call import Call
from ...models.classification import soft_cross_entropy, soft_labels, top_k_correct
from ...models.inputs import depth_to_space, flow_patches, space_to_depth
from ...models.inputs.features import extract_patches
from ...models.positions import fourier_features, linear_positions
from ...models.tiling import stitch, tile_origins
from ...models.tracing import lazy_point, point
from ..base import REQUIRED, Arguments, Function, Given, Outputs, Rebuilt, read_call
from .convolutions import CONVOLUTIONS, padding
from .part import NamedPart, flags, mask, no_dropout, options, rebuilt

Compute = Callable[[dict[str, Any], dict[str, Any], Mapping[str, Any]], Outputs]


def _function(
    what: str,
    compute: Compute,
    arguments: tuple[str, ...],
    config: Mapping[str, Any],
    optional: tuple[str, ...] = (),
    points: tuple[tuple[str, str], ...] = (),
) -> Callable[[Given], Rebuilt]:
    """A builder for a function of named arguments and the options of `config`."""

    def build(given: Given) -> Rebuilt:
        chosen = options(what, given.config, config)

        def run(model: Any, params: Tree, given: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
            values, _ = read_call(what, given, {}, {*arguments, *optional}, {}, arguments)
            return compute({name: values.get(name) for name in (*arguments, *optional)}, chosen, called)

        return rebuilt(Function(compute), {}, run, NamedPart(None, points=points))

    return build


def _attend(given: dict[str, Any], _: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    """q (B, N, H, d), k (B, M, H, d), v (B, M, H, e), attention_mask (B, N, M) -> (B, N, H e)."""
    no_dropout("attend", flags("attend", called, dropout_prob=0.0)["dropout_prob"], training=True)
    q, k, v = (ops.transpose(given[name], axes=(0, 2, 1, 3)) for name in ("q", "k", "v"))
    attend = mask(given["attention_mask"])
    attend = None if attend is None else attend[:, None]
    shape = (*q.shape[:-1], k.shape[-2])
    lazy_point("softmax", shape, lambda: ops.attention_weights(q, k, mask=attend, masked_rows="uniform"))
    mixed = ops.transpose(ops.attention(q, k, v, mask=attend, masked_rows="zero"), axes=(0, 2, 1, 3))
    return {"out": ops.reshape(mixed, shape=(*mixed.shape[:2], mixed.shape[2] * mixed.shape[3]))}


def _cross_mask(given: dict[str, Any], _: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    """query_mask (B, N), kv_mask (B, M) -> their outer product (B, N, M), in their dtype."""
    query, kv = (array_of(given[name]) for name in ("query_mask", "kv_mask"))
    return {"mask": query[:, :, None] * kv[:, None, :]}


def _fourier_features(given: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    out = fourier_features(
        given["pos"],
        chosen["num_bands"],
        tuple(chosen["max_resolution"]),
        concat_pos=bool(chosen["concat_pos"]),
        sine_only=bool(chosen["sine_only"]),
    )
    return {"out": out}


def _linear_positions(_: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    low, high = chosen["output_range"]
    grid = linear_positions(tuple(chosen["index_dims"]), np.float32, "float32", (low, high))
    return {"pos": point("pos", grid)}


def _space_to_depth(given: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    return {"out": space_to_depth(given["x"], space=chosen["spatial_block_size"], time=chosen["temporal_block_size"])}


def _depth_to_space(given: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    return {"out": depth_to_space(given["x"], space=chosen["spatial_block_size"], time=chosen["temporal_block_size"])}


def _extract_patches(given: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    pairs = {}
    for key in ("sizes", "strides", "rates"):
        first, *pair, last = chosen[key]
        if (first, last) != (1, 1) or len(pair) != 2:
            raise InputError(f"{key} of extract_patches must be [1, rows, columns, 1], got {chosen[key]}")
        pairs[key] = (pair[0], pair[1])
    if chosen["padding"] not in ("SAME", "VALID"):
        raise one_of("padding", str(chosen["padding"]), ("SAME", "VALID"))
    out = extract_patches(
        given["x"],
        size=pairs["sizes"],
        strides=pairs["strides"],
        rates=pairs["rates"],
        same=chosen["padding"] == "SAME",
    )
    return {"out": out}


def _gelu(given: dict[str, Any], _: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    point("gelu_erf", ops.gelu_erf(given["x"]))
    return {"gelu": ops.gelu_tanh(given["x"]), "relu": ops.relu(given["x"])}


def _max_pool(given: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    """`hk.max_pool`: windows and strides of all axes, of the last few, or one number for the grid's."""
    x = given["x"]
    window, strides = (_all_axes(key, chosen[key], len(x.shape)) for key in ("window_shape", "strides"))
    grid = tuple(x.shape[1:-1])
    out = ops.max_pool(x, window=window, strides=strides, padding=padding(chosen["padding"], grid, window, strides))
    return {"out": out}


def _all_axes(key: str, value: Any, axes: int) -> tuple[int, ...]:
    """The entries of the grid's axes."""
    sizes = (value,) * (axes - 2) + (1,) if isinstance(value, int) else tuple(value)
    sizes = (1,) * (axes - len(sizes)) + sizes
    if sizes[0] != 1 or sizes[-1] != 1 or len(sizes) != axes:
        raise InputError(f"{key} must be 1 for the batch and the channels, got {value}")
    return sizes[1:-1]


def _loss(given: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    logits, labels = given["logits"], array_of(given["labels"])
    target = soft_labels(
        labels,
        chosen["num_classes"],
        like=array_of(logits),
        mix_labels=None if given["mix_labels"] is None else array_of(given["mix_labels"]),
        ratio=given["ratio"],
        smoothing=chosen["label_smoothing"],
    )
    losses = soft_cross_entropy(logits, target)
    correct = top_k_correct(logits, labels, chosen["topk"])
    accuracies = {f"top_{k}_acc": hit.astype("int32") for k, hit in correct.items()}
    return {"label": target, "loss": ops.mean(losses), "loss_per_example": losses, **accuracies}


def _top_k(given: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    """Accuracies, times the mask where there is one."""
    correct = top_k_correct(given["logits"], array_of(given["labels"]), chosen["topk"])
    weights = 1 if given["mask"] is None else array_of(given["mask"])
    return {f"{chosen['prefix']}top_{k}_acc": (hit * weights).astype("int32") for k, hit in correct.items()}


def _flow_tiles(given: dict[str, Any], chosen: dict[str, Any], called: Mapping[str, Any]) -> Outputs:
    image, patch = (tuple(chosen[key]) for key in ("image_shape", "patch_size"))
    origins = tile_origins(image, patch, chosen["min_overlap"])
    return {
        "flow": stitch(given["flow_pieces"], origins, image),
        "grid_indices": np.array(origins, np.int32),
    }


_BLOCKS = {"temporal_block_size": 1, "spatial_block_size": 1}
_WINDOW = {"window_shape": REQUIRED, "strides": REQUIRED, "padding": "VALID"}

FUNCTIONS: dict[str, Callable[[Given], Rebuilt]] = {
    "attend": _function(
        "attend", _attend, ("q", "k", "v"), {}, ("attention_mask",), (("attention_weights/00", "softmax"),)
    ),
    "make_cross_attention_mask": _function("make_cross_attention_mask", _cross_mask, ("query_mask", "kv_mask"), {}),
    "generate_fourier_features": _function(
        "generate_fourier_features",
        _fourier_features,
        ("pos",),
        {"num_bands": REQUIRED, "max_resolution": REQUIRED, "concat_pos": True, "sine_only": False},
    ),
    "build_linear_positions": _function(
        "build_linear_positions",
        _linear_positions,
        (),
        {"index_dims": REQUIRED, "output_range": (-1.0, 1.0)},
        points=(("pos_under_jit", "pos"), ("pos_plain_call", "pos"), ("linear_positions/0", "pos")),
    ),
    "space_to_depth": _function("space_to_depth", _space_to_depth, ("x",), _BLOCKS),
    "reverse_space_to_depth": _function("reverse_space_to_depth", _depth_to_space, ("x",), _BLOCKS),
    "extract_patches": _function(
        "extract_patches",
        _extract_patches,
        ("x",),
        {"sizes": REQUIRED, "strides": REQUIRED, "rates": REQUIRED, "padding": "VALID"},
    ),
    "patches_for_flow": _function("patches_for_flow", lambda given, *_: {"out": flow_patches(given["x"])}, ("x",), {}),
    "gelu": _function("gelu", _gelu, ("x",), {}, points=(("gelu_exact_erf_for_contrast", "gelu_erf"),)),
    "max_pool": _function("max_pool", _max_pool, ("x",), _WINDOW),
    "perceiver.train.experiment.Experiment._loss_fn (loss part) + perceiver.train.utils": _function(
        "the loss",
        _loss,
        ("logits", "labels"),
        {"label_smoothing": 0.0, "num_classes": REQUIRED, "topk": (1, 5)},
        ("mix_labels", "ratio"),
    ),
    "topk_correct": _function("topk_correct", _top_k, ("logits", "labels"), {"prefix": "", "topk": (1, 5)}, ("mask",)),
    "optical_flow colab: compute_grid_indices, compute_optical_flow": _function(
        "flow tiling",
        _flow_tiles,
        ("flow_pieces",),
        {"image_shape": REQUIRED, "patch_size": REQUIRED, "min_overlap": 20},
    ),
    **CONVOLUTIONS,
}
