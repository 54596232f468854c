"""The preprocessors and decoders that a PerceiverModel is built from, by class name."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ...conventions import Conventions
from ...decoder import ClassificationDecoder, Decoder
from ...errors import InputError, one_of
from ...inputs import GridInput, Pixels, TextInput
from ...position import FourierPositions, TrainablePositions
from ...queries import PositionQueries
from ..base import options
from .config import conventions


def _fourier(kwargs: Mapping[str, Any], chosen_by: Conventions) -> FourierPositions:
    known = {"num_bands": None, "max_resolution": None, "concat_pos": True, "sine_only": False}
    chosen = options("fourier_position_encoding_kwargs", kwargs, known)
    return FourierPositions(
        chosen["num_bands"],
        tuple(chosen["max_resolution"]),
        chosen["concat_pos"],
        chosen["sine_only"],
        chosen_by,
    )


def _trainable(kwargs: Mapping[str, Any]) -> TrainablePositions:
    chosen = options("trainable_position_encoding_kwargs", kwargs, {"index_dims": None, "num_channels": 128})
    dims = chosen["index_dims"]
    size = dims if isinstance(dims, int) else prod(dims)
    return TrainablePositions(size, chosen["num_channels"])


def _image_preprocessor(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> GridInput:
    known = {
        "prep_type": "conv",
        "spatial_downsample": 4,
        "in_channels": 3,
        "position_encoding_type": "fourier",
        "concat_or_add_pos": "concat",
        "fourier_position_encoding_kwargs": {},
    }
    chosen = options("PerceiverImagePreprocessor", kwargs, known)
    supported = {
        "prep_type": "pixels",
        "spatial_downsample": 1,
        "position_encoding_type": "fourier",
        "concat_or_add_pos": "concat",
    }
    for key, value in supported.items():
        if chosen[key] != value:
            raise InputError(
                f"PerceiverImagePreprocessor with {key} {chosen[key]!r} is not supported; only {value!r} is"
            )
    positions = _fourier(chosen["fourier_position_encoding_kwargs"], conventions(config))
    return GridInput(Pixels(chosen["in_channels"]), positions)


def text_preprocessor(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TextInput:
    options("PerceiverTextPreprocessor", kwargs, {})
    return TextInput(config["vocab_size"], config["max_position_embeddings"], config["d_model"])


_BASIC_DECODER = {
    "output_num_channels": None,
    "position_encoding_type": "trainable",
    "output_index_dims": None,
    "num_channels": 128,
    "subsampled_index_dims": None,
    "qk_channels": None,
    "v_channels": None,
    "num_heads": 1,
    "widening_factor": 1,
    "use_query_residual": False,
    "concat_preprocessed_input": False,
    "final_project": True,
    "trainable_position_encoding_kwargs": None,
}


def _basic_decoder(config: Mapping[str, Any], kwargs: Mapping[str, Any], cls: type[Decoder] = Decoder) -> Decoder:
    chosen = options("PerceiverBasicDecoder", kwargs, _BASIC_DECODER)
    queries: PositionQueries | None = None
    if chosen["position_encoding_type"] == "trainable":
        positions = _trainable(chosen["trainable_position_encoding_kwargs"] or {})
        queries = PositionQueries(positions, (positions.size,), chosen["concat_preprocessed_input"])
    elif chosen["position_encoding_type"] != "none":
        raise InputError(
            f"PerceiverBasicDecoder with position_encoding_type {chosen['position_encoding_type']!r} is not supported; "
            "only 'trainable' and 'none' are"
        )
    return cls(
        config["d_latents"],
        chosen["num_channels"],
        queries=queries,
        outputs=chosen["output_num_channels"] if chosen["final_project"] else None,
        heads=chosen["num_heads"],
        qk_channels=chosen["qk_channels"],
        v_channels=chosen["v_channels"],
        widening=chosen["widening_factor"],
        query_residual=chosen["use_query_residual"],
        conventions=conventions(config),
    )


def _classification_decoder(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Decoder:
    return _basic_decoder(config, {**kwargs, "output_num_channels": config["num_labels"]}, ClassificationDecoder)


PREPROCESSORS = {
    "PerceiverImagePreprocessor": _image_preprocessor,
    "PerceiverTextPreprocessor": text_preprocessor,
}
DECODERS = {
    "PerceiverBasicDecoder": _basic_decoder,
    "PerceiverClassificationDecoder": _classification_decoder,
}


def component(kind: str, table: Mapping[str, Any], config: Mapping[str, Any], given: Any) -> Any:
    if given is None:
        return None
    name = str(given.get("class")).rpartition(".")[2]
    if name not in table:
        raise one_of(kind, name, table)
    return table[name](config, given.get("kwargs", {}))
