"""What transformers' task classes fix in code: the parts of each, with names and values as its source has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
_WIDTH = "input_preprocessor.num_channels"


@dataclass(frozen=True)
class Computed:
    """What the source computes from the configuration in place of a constant: its text there, and the value."""

    text: str
    value: Callable[[Config], Any]


@dataclass(frozen=True)
class PartSpec:
    """A part as the source makes it: a class and its keyword arguments, which may be `Computed` or have such inside."""

    cls: str
    kwargs: Mapping[str, Any]


Specs = Mapping[str, PartSpec]


def field(name: str) -> Computed:
    """A field of the configuration."""
    return Computed(f"config.{name}", lambda config: config[name])


def width(preprocessor: str) -> Computed:
    """The width of the elements of the input_preprocessor, which the source calls by this name."""
    return Computed(f"{preprocessor}.num_channels", lambda config: config[_WIDTH])


def _fourier(num_bands: int, max_resolution: Any) -> dict[str, Any]:
    return {"num_bands": num_bands, "max_resolution": max_resolution, "sine_only": False, "concat_pos": True}


_TEXT = PartSpec("PerceiverTextPreprocessor", {})
_CLASSIFIER = PartSpec(
    "PerceiverClassificationDecoder",
    {
        "num_channels": field("d_latents"),
        "trainable_position_encoding_kwargs": {"num_channels": field("d_latents"), "index_dims": 1},
        "use_query_residual": True,
    },
)
_SAMPLES = Computed("n_audio_samples", lambda config: config["num_frames"] * config["audio_samples_per_frame"])
_AUDIO_PATCHES = Computed(
    "n_audio_samples // config.samples_per_patch",
    lambda config: _SAMPLES.value(config) // config["samples_per_patch"],
)
_AUDIO_POSITIONS = _fourier(192, (_SAMPLES,))
_IMAGE_POSITIONS = _fourier(32, (field("num_frames"), field("image_size"), field("image_size")))
_QUERIES_OF_A_MODALITY = {
    "concat_preprocessed_input": False,
    "use_query_residual": False,
    "position_encoding_only": True,
}
_OUTPUTS = field("output_num_channels")

TASKS: Mapping[str, Specs] = {
    "PerceiverForMaskedLM": {
        "input_preprocessor": _TEXT,
        "decoder": PartSpec(
            "PerceiverBasicDecoder",
            {
                "output_num_channels": field("d_latents"),
                "output_index_dims": field("max_position_embeddings"),
                "num_channels": width("text_preprocessor"),
                "qk_channels": Computed("8 * 32", lambda config: 8 * 32),
                "v_channels": width("text_preprocessor"),
                "num_heads": 8,
                "use_query_residual": False,
                "final_project": False,
                "trainable_position_encoding_kwargs": {
                    "num_channels": width("text_preprocessor"),
                    "index_dims": field("max_position_embeddings"),
                },
            },
        ),
    },
    "PerceiverForSequenceClassification": {"input_preprocessor": _TEXT, "decoder": _CLASSIFIER},
    "PerceiverForImageClassificationLearned": {
        "input_preprocessor": PartSpec(
            "PerceiverImagePreprocessor",
            {
                "prep_type": "conv1x1",
                "spatial_downsample": 1,
                "out_channels": 256,
                "position_encoding_type": "trainable",
                "concat_or_add_pos": "concat",
                "project_pos_dim": 256,
                "trainable_position_encoding_kwargs": {
                    "num_channels": 256,
                    "index_dims": Computed("config.image_size ** 2", lambda config: config["image_size"] ** 2),
                },
            },
        ),
        "decoder": _CLASSIFIER,
    },
    "PerceiverForImageClassificationFourier": {
        "input_preprocessor": PartSpec(
            "PerceiverImagePreprocessor",
            {
                "prep_type": "pixels",
                "spatial_downsample": 1,
                "fourier_position_encoding_kwargs": _fourier(64, (224, 224)),
            },
        ),
        "decoder": _CLASSIFIER,
    },
    "PerceiverForImageClassificationConvProcessing": {
        "input_preprocessor": PartSpec(
            "PerceiverImagePreprocessor",
            {
                "prep_type": "conv",
                "spatial_downsample": 1,
                "position_encoding_type": "fourier",
                "fourier_position_encoding_kwargs": _fourier(64, (56, 56)),
            },
        ),
        "decoder": _CLASSIFIER,
    },
    "PerceiverForOpticalFlow": {
        "input_preprocessor": PartSpec(
            "PerceiverImagePreprocessor",
            {
                "prep_type": "patches",
                "spatial_downsample": 1,
                "conv_after_patching": True,
                "conv_after_patching_in_channels": 54,
                "temporal_downsample": 2,
                "position_encoding_type": "fourier",
                "fourier_position_encoding_kwargs": _fourier(64, field("train_size")),
            },
        ),
        "decoder": PartSpec(
            "PerceiverOpticalFlowDecoder",
            {
                "num_channels": width("image_preprocessor"),
                "output_image_shape": field("train_size"),
                "rescale_factor": 100.0,
                "use_query_residual": False,
                "output_num_channels": 2,
                "position_encoding_type": "fourier",
                "fourier_position_encoding_kwargs": _fourier(64, field("train_size")),
            },
        ),
    },
    "PerceiverForMultimodalAutoencoding": {
        "input_preprocessor": PartSpec(
            "PerceiverMultimodalPreprocessor",
            {
                "min_padding_size": 4,
                "modalities": {
                    "audio": PartSpec(
                        "PerceiverAudioPreprocessor",
                        {
                            "position_encoding_type": "fourier",
                            "fourier_position_encoding_kwargs": _AUDIO_POSITIONS,
                            "prep_type": "patches",
                            "samples_per_patch": field("samples_per_patch"),
                        },
                    ),
                    "image": PartSpec(
                        "PerceiverImagePreprocessor",
                        {
                            "position_encoding_type": "fourier",
                            "fourier_position_encoding_kwargs": _IMAGE_POSITIONS,
                            "prep_type": "patches",
                            "spatial_downsample": 4,
                            "temporal_downsample": 1,
                        },
                    ),
                    "label": PartSpec("PerceiverOneHotPreprocessor", {}),
                },
                "mask_probs": {"image": 0.0, "audio": 0.0, "label": 1.0},
            },
        ),
        "decoder": PartSpec(
            "PerceiverMultimodalDecoder",
            {
                "concat_preprocessed_input": False,
                "modalities": {
                    "audio": PartSpec(
                        "PerceiverBasicDecoder",
                        {
                            **_QUERIES_OF_A_MODALITY,
                            "output_index_dims": (_AUDIO_PATCHES,),
                            "output_num_channels": _OUTPUTS,
                            "position_encoding_type": "fourier",
                            "fourier_position_encoding_kwargs": _AUDIO_POSITIONS,
                        },
                    ),
                    "image": PartSpec(
                        "PerceiverBasicVideoAutoencodingDecoder",
                        {
                            **_QUERIES_OF_A_MODALITY,
                            "output_shape": field("output_shape"),
                            "output_num_channels": _OUTPUTS,
                            "position_encoding_type": "fourier",
                            "fourier_position_encoding_kwargs": _IMAGE_POSITIONS,
                        },
                    ),
                    "label": PartSpec(
                        "PerceiverClassificationDecoder",
                        {
                            **_QUERIES_OF_A_MODALITY,
                            "position_encoding_type": "trainable",
                            "trainable_position_encoding_kwargs": {
                                "num_channels": field("_label_trainable_num_channels"),
                                "index_dims": 1,
                            },
                        },
                    ),
                },
                "num_outputs": None,
                "output_num_channels": _OUTPUTS,
                "use_query_residual": False,
            },
        ),
        "output_postprocessor": PartSpec(
            "PerceiverMultimodalPostprocessor",
            {
                "modalities": {
                    "audio": PartSpec("PerceiverAudioPostprocessor", {"in_channels": _OUTPUTS}),
                    "image": PartSpec("PerceiverProjectionPostprocessor", {"in_channels": _OUTPUTS, "out_channels": 3}),
                    "label": PartSpec("PerceiverClassificationPostprocessor", {"in_channels": _OUTPUTS}),
                }
            },
        ),
    },
}


def evaluated(parts: Specs, config: Config, width_of: Callable[[Any], int]) -> dict[str, Any]:
    """The parts for a configuration, {"input_preprocessor": {"class": ..., "kwargs": ...}, ...}.

    `width_of` gives the `num_channels` of an input_preprocessor.
    """
    inputs = _evaluated(parts["input_preprocessor"], config)
    return {name: _evaluated(part, {**config, _WIDTH: width_of(inputs)}) for name, part in parts.items()}


def _evaluated(value: Any, config: Config) -> Any:
    match value:
        case PartSpec():
            return {"class": value.cls, "kwargs": _evaluated(value.kwargs, config)}
        case Computed():
            return value.value(config)
        case tuple():
            return tuple(_evaluated(item, config) for item in value)
        case Mapping():
            return {key: _evaluated(item, config) for key, item in value.items()}
    return value
