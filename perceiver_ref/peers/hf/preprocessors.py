"""transformers' preprocessors, from their class names and keyword arguments, as ours with their names."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ...errors import InputError, one_of
from ...inputs import (
    AudioPatches,
    Conv1x1,
    ConvStem,
    GridInput,
    MultimodalInput,
    OneHotInput,
    Patches,
    TextInput,
)
from ...layers import BatchNorm
from ...position import Positions, ProjectedPositions, TrainablePositions
from ..base import options
from ..names import same
from .config import conventions
from .names import GRID, GRID_STATE, STEM_POINTS, TEXT, TEXT_POINTS, Component, by_modality
from .quirks import STEM_PADDING, FirstItemFourier, SlicedPixels

Config = Mapping[str, Any]
Shapes = Any
"""Shape of a part's input, a dict of them by modality, or None where it is not known."""

POSITIONS: dict[str, Any] = {
    "position_encoding_type": "fourier",
    "fourier_position_encoding_kwargs": None,
    "trainable_position_encoding_kwargs": None,
    "project_pos_dim": -1,
}
_IMAGE: dict[str, Any] = {
    **POSITIONS,
    "prep_type": "conv",
    "spatial_downsample": 4,
    "temporal_downsample": 1,
    "in_channels": 3,
    "out_channels": 64,
    "conv_after_patching": False,
    "conv_after_patching_in_channels": 54,
    "conv2d_use_batchnorm": True,
    "concat_or_add_pos": "concat",
}
_AUDIO: dict[str, Any] = {
    **POSITIONS,
    "prep_type": "patches",
    "samples_per_patch": 96,
    "concat_or_add_pos": "concat",
    "out_channels": 64,
}
_FOURIER: dict[str, Any] = {"num_bands": None, "max_resolution": None, "concat_pos": True, "sine_only": False}
_MULTIMODAL: dict[str, Any] = {"modalities": None, "mask_probs": None, "min_padding_size": 2}


def fourier(config: Config, kwargs: Mapping[str, Any]) -> FirstItemFourier:
    """A PerceiverFourierPositionEncoding."""
    chosen = options("fourier_position_encoding_kwargs", kwargs, _FOURIER)
    require("fourier_position_encoding_kwargs", chosen, "num_bands", "max_resolution")
    return FirstItemFourier(
        chosen["num_bands"],
        tuple(chosen["max_resolution"]),
        chosen["concat_pos"],
        chosen["sine_only"],
        conventions(config),
    )


def trainable(kwargs: Mapping[str, Any]) -> TrainablePositions:
    """A PerceiverTrainablePositionEncoding."""
    chosen = options("trainable_position_encoding_kwargs", kwargs, {"index_dims": None, "num_channels": 128})
    require("trainable_position_encoding_kwargs", chosen, "index_dims")
    dims = chosen["index_dims"]
    return TrainablePositions(dims if isinstance(dims, int) else prod(dims), chosen["num_channels"])


def positions(config: Config, what: str, chosen: Mapping[str, Any]) -> Positions:
    """A position encoding of the chosen type, projected to another width where that is asked for."""
    kind = choose(what, chosen, "position_encoding_type", ("fourier", "trainable"))
    name = f"{kind}_position_encoding_kwargs"
    if not chosen[name]:
        raise InputError(f"{what} with position_encoding_type {kind!r} needs {name}")
    encoding = fourier(config, chosen[name]) if kind == "fourier" else trainable(chosen[name])
    return ProjectedPositions(encoding, chosen["project_pos_dim"]) if chosen["project_pos_dim"] > 0 else encoding


def _axes(chosen: Mapping[str, Any]) -> int:
    """The number of axes that the peer takes a position encoding to have."""
    if chosen["position_encoding_type"] == "fourier":
        return len(chosen["fourier_position_encoding_kwargs"]["max_resolution"])
    dims = chosen["trainable_position_encoding_kwargs"]["index_dims"]
    return 1 if isinstance(dims, int) else len(dims)


def image(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverImagePreprocessor. Images are (B, C, H, W) and video is (B, T, C, H, W); `shape` decides which."""
    what = "PerceiverImagePreprocessor"
    chosen = options(what, kwargs, _IMAGE)
    encoding = positions(config, what, chosen)
    kind = choose(what, chosen, "prep_type", ("conv", "conv1x1", "patches", "pixels"))
    combine = choose(what, chosen, "concat_or_add_pos", ("concat", "add"))
    space, time = chosen["spatial_downsample"], chosen["temporal_downsample"]
    if time != 1 and kind in ("conv", "conv1x1"):
        raise InputError(f"{what} with prep_type {kind!r} takes only temporal_downsample 1, got {time}")
    temporal = _axes(chosen) > 2
    video = len(shape) == 5 if shape else temporal or time > 1
    channels, width = chosen["in_channels"], chosen["out_channels"]
    linear = width if chosen["conv_after_patching"] else None
    features: Any
    if kind == "conv":
        features = ConvStem(
            channels,
            width,
            batch_norm=chosen["conv2d_use_batchnorm"],
            norm=BatchNorm(width, running="plain"),
            **STEM_PADDING,
        )
    elif kind == "conv1x1":
        features = Conv1x1(channels, width, stride=space)
    elif kind == "pixels":
        features = SlicedPixels(channels, space, time, temporal)
    else:  # in_channels is not used, so it may be anything: what counts is what comes
        if linear is not None:
            channels = chosen["conv_after_patching_in_channels"] // (space**2 * (time if video else 1))
        elif shape and len(shape) in (4, 5):
            channels = shape[-3]
        features = Patches(channels, space, time if video else 1, linear, video)
    return _grid(GridInput(features, encoding, combine))


def audio(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverAudioPreprocessor; it takes any array whose elements make whole patches."""
    what = "PerceiverAudioPreprocessor"
    chosen = options(what, kwargs, _AUDIO)
    choose(what, chosen, "prep_type", ("patches",))
    combine = choose(what, chosen, "concat_or_add_pos", ("concat", "add"))
    return _grid(GridInput(AudioPatches(chosen["samples_per_patch"]), positions(config, what, chosen), combine))


def _grid(module: GridInput) -> Component:
    points = [("", ""), ("position_embeddings", "positions")]
    points.append(("positions_projection", "projected_positions|positions"))
    return Component(module, GRID, [*points, *STEM_POINTS], GRID_STATE)


def text(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverTextPreprocessor."""
    options("PerceiverTextPreprocessor", kwargs, {})
    module = TextInput(config["vocab_size"], config["max_position_embeddings"], config["d_model"])
    return Component(module, TEXT, TEXT_POINTS)


def one_hot(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverOneHotPreprocessor."""
    options("PerceiverOneHotPreprocessor", kwargs, {})
    return Component(OneHotInput(config["num_labels"]), {}, [("", "")])


def multimodal(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverMultimodalPreprocessor."""
    what = "PerceiverMultimodalPreprocessor"
    chosen = options(what, kwargs, _MULTIMODAL)
    require(what, chosen, "modalities")
    shapes = shape if isinstance(shape, Mapping) else {}
    parts = {
        name: component("preprocessor", PREPROCESSORS, config, given, shapes.get(name))
        for name, given in chosen["modalities"].items()
    }
    module = MultimodalInput(
        {name: part.module for name, part in parts.items()}, chosen["min_padding_size"], chosen["mask_probs"]
    )
    table, points, state = by_modality(parts, parts, "modalities")
    rows = {f"{kind}/{name}": (f"{kind}.{name}", same) for kind in ("padding", "mask") for name in parts}
    return Component(module, {**table, **rows}, [("", ""), *points], state)


PREPROCESSORS: dict[str, Any] = {
    "PerceiverAudioPreprocessor": audio,
    "PerceiverImagePreprocessor": image,
    "PerceiverMultimodalPreprocessor": multimodal,
    "PerceiverOneHotPreprocessor": one_hot,
    "PerceiverTextPreprocessor": text,
}


def component(kind: str, builders: Mapping[str, Any], config: Config, given: Any, shape: Shapes = None) -> Component:
    """The part that {"class": ..., "kwargs": ...} describes."""
    if not isinstance(given, Mapping) or "class" not in given:
        raise InputError(f'{kind} must be {{"class": name, "kwargs": options}}, got {given!r}')
    name = str(given["class"]).rpartition(".")[2]
    if name not in builders:
        raise one_of(kind, name, builders)
    built: Component = builders[name](config, given.get("kwargs") or {}, shape)
    return built


def choose(what: str, chosen: Mapping[str, Any], option: str, known: tuple[str, ...]) -> Any:
    """The value of an option that has few; `InputError` listing them otherwise."""
    if chosen[option] not in known:
        raise one_of(f"{option} of {what}", chosen[option], known)
    return chosen[option]


def require(what: str, chosen: Mapping[str, Any], *names: str) -> None:
    """Raise `InputError` for an option that has no default and was not given."""
    for name in names:
        if chosen[name] is None:
            raise InputError(f"{what} needs {name}")
