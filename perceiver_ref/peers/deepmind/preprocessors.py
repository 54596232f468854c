"""The preprocessors of `io_processors.py`. Widths that Haiku infers come from inputs, or from parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.call import Call
from ...models.inputs import AudioPatches, Conv1x1, ConvStem, GridInput, MultimodalInput, OneHotInput, Patches, Pixels
from ...models.layers import BatchNorm
from ..base import REQUIRED, Shape
from ..names import Table, same
from . import positions
from .names import DOWNSAMPLE, LINEAR, POINTWISE, POSITIONS, Names, downsample_state
from .part import NamedPart, component, options

Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Known:
    """What widths follow from: the shapes of inputs (by modality) and of all parameters, the encoder's input width."""

    inputs: Any
    params: Shapes
    width: int | None = None


@dataclass(frozen=True)
class FlatAudio(AudioPatches):
    """DeepMind's code cuts patches of `samples` numbers out of all channels' samples, interleaved."""

    def apply(self, p: Tree, x: Any, call: Call) -> Any:
        """audio (B, n, channels) -> (B, n channels / samples, samples)."""
        return super().apply(p, ops.reshape(x, shape=(x.shape[0], math.prod(x.shape[1:]), 1)), call)


BATCH_NORM_OPTIONS = {"decay_rate": 0.9, "eps": 1e-5, "create_scale": True, "create_offset": True}


def batch_norm(channels: int, config: Mapping[str, Any] | None) -> BatchNorm:
    """`hk.BatchNorm` with the defaults of Conv2DDownsample."""
    chosen = options("BatchNorm", config, BATCH_NORM_OPTIONS)
    return BatchNorm(
        channels,
        eps=chosen["eps"],
        decay=chosen["decay_rate"],
        scale=bool(chosen["create_scale"]),
        offset=bool(chosen["create_offset"]),
    )


_IMAGE = {
    "prep_type": "conv",
    "spatial_downsample": 4,
    "temporal_downsample": 1,
    "n_extra_pos_mlp": 0,
    "num_channels": 64,
    "conv_after_patching": False,
    "conv2d_use_batchnorm": True,
    "concat_or_add_pos": "concat",
    "name": None,
    **positions.KEYS,
}


def _image(kwargs: Mapping[str, Any], known: Known, names: Names, ours: str, flatten: bool) -> NamedPart:
    chosen = options("ImagePreprocessor", kwargs, _IMAGE)
    name = names(chosen["name"] or "image_preprocessor")
    kind = chosen["prep_type"]
    if kind not in _FEATURES:
        raise one_of("prep_type", str(kind), _FEATURES)
    if kind in ("conv", "conv1x1") and chosen["temporal_downsample"] != 1:
        raise InputError(f"prep_type {kind!r} does not downsample in time; got {chosen['temporal_downsample']}")
    grid = None if known.inputs is None else _grid(chosen, known.inputs)
    encoding = _encoding(name, chosen, grid, known)
    channels = _image_channels(name, chosen, known, encoding.channels)
    video = chosen["temporal_downsample"] > 1 if known.inputs is None else len(known.inputs) == 5
    features = _FEATURES[kind](chosen, channels, video)
    model = GridInput(features, encoding, _combine(chosen), chosen["n_extra_pos_mlp"], flatten)
    stem = f"{name}/~/conv2_d_downsample"
    table: Table = {
        "features/convolution": (f"{name}/~/conv2_d", POINTWISE),
        "features/linear": (f"{name}/patches_linear", LINEAR),
        "features": (f"{stem}/~", DOWNSAMPLE),
        **_grid_table(name),
    }
    layers = features.layers if isinstance(features, ConvStem) else 0
    points = [(f"{name}/patches_linear/output", f"{ours}.linear"), (f"{stem}/output", f"{ours}.stem")]
    points += downsample_points(f"{stem}/~", ours, layers)
    state: Table = {"features": (f"{stem}/~", downsample_state(layers))} if model.state()["features"] else {}
    return NamedPart(model, table, [*points, *_grid_points(name, ours, chosen)], _grids(encoding, ours), state=state)


def downsample_points(theirs: str, ours: str, layers: int) -> list[tuple[str, str]]:
    """The trace points of a Conv2DDownsample's layers."""
    rows = []
    for i in range(layers):
        suffix = f"_{i}" if i else ""
        rows += [(f"{theirs}/conv{suffix}/output", f"{ours}.{i}.convolution")]
        rows += [(f"{theirs}/batchnorm{suffix}/output", f"{ours}.{i}.norm")]
    return rows


def _stem(chosen: Mapping[str, Any], channels: int, video: bool) -> ConvStem:
    layers = math.log(chosen["spatial_downsample"], 4)
    if abs(layers - round(layers)) > 1e-9:
        raise InputError(
            f"prep_type 'conv' needs a power of 4 as spatial_downsample, got {chosen['spatial_downsample']}"
        )
    return ConvStem(channels, chosen["num_channels"], round(layers), bool(chosen["conv2d_use_batchnorm"]))


def _patches(chosen: Mapping[str, Any], channels: int, video: bool) -> Patches:
    linear = chosen["num_channels"] if chosen["conv_after_patching"] else None
    return Patches(channels, chosen["spatial_downsample"], chosen["temporal_downsample"], linear, video)


_FEATURES: dict[str, Any] = {
    "conv": _stem,
    "conv1x1": lambda chosen, channels, video: Conv1x1(channels, chosen["num_channels"], chosen["spatial_downsample"]),
    "patches": _patches,
    "pixels": lambda chosen, channels, video: Pixels(
        channels, chosen["spatial_downsample"], chosen["temporal_downsample"]
    ),
}


def _grid(chosen: Mapping[str, Any], shape: Shape) -> tuple[int, ...]:
    """The grid that a preprocessor makes of images (B, H, W, C) or video (B, T, H, W, C)."""
    if len(shape) not in (4, 5):
        raise InputError(f"images must be (batch, height, width, channels), video with time; got {shape}")
    space, time, kind = chosen["spatial_downsample"], chosen["temporal_downsample"], chosen["prep_type"]
    frames, image = shape[1:-3], shape[-3:-1]
    if kind == "patches":
        frames = tuple(n // time for n in frames)
        return (*(() if frames == (1,) else frames), *(n // space for n in image))
    if kind == "conv":  # every layer halves twice, rounding up
        return (*frames, *(-(-n // space) for n in image))
    return (*(-(-n // time) for n in frames), *(-(-n // space) for n in image))


def _encoding(name: str, chosen: Mapping[str, Any], grid: tuple[int, ...] | None, known: Known) -> Any:
    table = known.params.get(f"{name}/~_build_network_inputs/trainable_position_encoding/pos_embs")
    return positions.build(chosen, grid, table[0] if table else None)


def _image_channels(name: str, chosen: Mapping[str, Any], known: Known, encoded: int) -> int:
    """The channels of an image: the input's, or what fits the parameters."""
    if known.inputs is not None:
        return int(known.inputs[-1])
    for path, axis in ((f"{name}/~/conv2_d/w", 2), (f"{name}/~/conv2_d_downsample/~/conv/w", 2)):
        if path in known.params:
            return int(known.params[path][axis])
    space, time = chosen["spatial_downsample"], chosen["temporal_downsample"]
    block = space**2 * time if chosen["prep_type"] == "patches" else 1
    linear = known.params.get(f"{name}/patches_linear/w")
    if linear:
        return int(linear[0] // block)
    if known.width is None:
        raise InputError(f"the channels of the images of {name} follow from neither inputs nor parameters")
    own = known.width - encoded if chosen["concat_or_add_pos"] == "concat" else known.width
    return int(own // block)


def _combine(chosen: Mapping[str, Any]) -> Any:
    if chosen["concat_or_add_pos"] not in ("concat", "add"):
        raise one_of("concat_or_add_pos", str(chosen["concat_or_add_pos"]), ("concat", "add"))
    return chosen["concat_or_add_pos"]


def _grid_table(name: str) -> Table:
    return {
        "positions": (f"{name}/~_build_network_inputs", POSITIONS),
        "position_layers/{i}": (f"{name}/~_build_network_inputs/linear{{_i}}", LINEAR),
    }


def _grid_points(name: str, ours: str, chosen: Mapping[str, Any]) -> list[tuple[str, str]]:
    build = f"{name}/~_build_network_inputs"
    rows = [(f"{name}/inputs", ours), (f"{name}/inputs_without_pos", f"{ours}.features")]
    for i in range(chosen["n_extra_pos_mlp"]):
        rows.append((f"{build}/linear{f'_{i}' if i else ''}/output", f"{ours}.position_layers.{i}"))
    return rows + positions.points(build, ours)


def _grids(encoding: Any, ours: str) -> list[str]:
    return [] if positions.is_trainable(encoding) else [f"{ours}.grid"]


_AUDIO = {
    "prep_type": "patches",
    "samples_per_patch": 96,
    "n_extra_pos_mlp": 0,
    "concat_or_add_pos": "concat",
    "name": None,
    **positions.KEYS,
}


def _audio(kwargs: Mapping[str, Any], known: Known, names: Names, ours: str, flatten: bool) -> NamedPart:
    chosen = options("AudioPreprocessor", kwargs, _AUDIO)
    if chosen["prep_type"] != "patches":
        raise one_of("prep_type", str(chosen["prep_type"]), ("patches",))
    name = names(chosen["name"] or "audio_preprocessor")
    features = FlatAudio(chosen["samples_per_patch"])
    grid = None if known.inputs is None else (math.prod(known.inputs[1:]) // chosen["samples_per_patch"],)
    encoding = _encoding(name, chosen, grid, known)
    model = GridInput(features, encoding, _combine(chosen), chosen["n_extra_pos_mlp"])
    return NamedPart(model, _grid_table(name), _grid_points(name, ours, chosen), _grids(encoding, ours))


def _one_hot(kwargs: Mapping[str, Any], known: Known, names: Names, ours: str, flatten: bool) -> NamedPart:
    name = names(options("OneHotPreprocessor", kwargs, {"name": None})["name"] or "one_hot_preprocessor")
    width = known.width if known.inputs is None else known.inputs[-1]
    if width is None:
        raise InputError("the number of classes of OneHotPreprocessor follows from neither inputs nor parameters")
    return NamedPart(OneHotInput(width), {}, [(f"{name}/inputs", ours), (f"{name}/inputs_without_pos", ours)])


_MULTIMODAL = {"modalities": REQUIRED, "mask_probs": None, "min_padding_size": 2, "name": None}


def _multimodal(kwargs: Mapping[str, Any], known: Known, names: Names, ours: str, flatten: bool) -> NamedPart:
    chosen = options("MultimodalPreprocessor", kwargs, _MULTIMODAL)
    parts: dict[str, NamedPart] = {}
    name = chosen["name"] or "multimodal_preprocessor"
    for modality, given in chosen["modalities"].items():
        shape = None if known.inputs is None else known.inputs.get(modality)
        if known.inputs is not None and shape is None:
            raise InputError(f"inputs/{modality} is missing; the modalities are {', '.join(chosen['modalities'])}")
        padding = known.params.get(f"{name}/{modality}_padding/pos_embs")
        width = known.width - padding[1] if known.width and padding else None
        parts[modality] = build(given, Known(shape, known.params, width), names, f"{ours}.{modality}")
    name = names(name)
    probabilities = chosen["mask_probs"]
    if probabilities is not None and sorted(probabilities) != sorted(parts):
        raise InputError(f"mask_probs must name the modalities {', '.join(sorted(parts))}")
    model = MultimodalInput({m: part.model for m, part in parts.items()}, chosen["min_padding_size"], probabilities)
    table: dict[str, Any] = {}
    points = [(f"{name}/inputs", ours)]
    state: dict[str, Any] = {}
    for m, part in parts.items():
        table[f"modalities/{m}"] = ("", part.table)
        table[f"padding/{m}"] = (f"{name}/{m}_padding/pos_embs", same)
        table[f"mask/{m}"] = (f"{name}/{m}_mask_token/pos_embs", same)
        points += [(f"{name}/{m}_padding/output", f"{ours}.{m}.padding")]
        points += [(f"{name}/{m}_mask_token/output", f"{ours}.{m}.mask"), *part.points]
        if part.state:
            state[m] = ("", part.state)
    return NamedPart(model, table, points, [grid for part in parts.values() for grid in part.grids], state=state)


PREPROCESSORS: dict[str, Any] = {
    "ImagePreprocessor": _image,
    "AudioPreprocessor": _audio,
    "OneHotPreprocessor": _one_hot,
    "MultimodalPreprocessor": _multimodal,
}


def build(given: Any, known: Known, names: Names, ours: str = "input", *, flatten: bool = True) -> NamedPart:
    """The preprocessor of a configuration; its points lie below `ours`."""
    cls, kwargs = component(given, "input_preprocessor")
    if cls not in PREPROCESSORS:
        raise one_of("input_preprocessor", cls, PREPROCESSORS)
    part: NamedPart = PREPROCESSORS[cls](kwargs, known, names, ours, flatten)
    return part
