"""transformers' Perceiver: the class and keyword arguments of its parts, which keep their attributes alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from .base import Unread

_FORGOTTEN = frozenset(
    ["transformers_version", "model_type", "architectures", "torch_dtype", "dtype", "_name_or_path", "name_or_path"]
)
"""Fields of a configuration that say where it comes from."""
Reader = Callable[[Any], dict[str, Any]]


def configuration(config: Any) -> dict[str, Any]:
    """The fields of a transformers' configuration that differ from its class's defaults, as JSON has them."""
    given = config.to_dict()
    try:
        usual = type(config)().to_dict()
    except Exception:  # a class that needs arguments
        usual = {}
    kept = {k: v for k, v in given.items() if k not in _FORGOTTEN and (k not in usual or usual[k] != v)}
    return {key: jsonable(value) for key, value in kept.items() if key != "label2id"}


def jsonable(value: Any) -> Any:
    """Tuples as lists, keys as text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise Unread(f"an option of type {type(value).__name__}")


def perceiver_model(module: Any) -> dict[str, Any]:
    """`PerceiverModel` with its parts."""
    made: dict[str, Any] = {"config": configuration(module.config)}
    for name in ("input_preprocessor", "decoder", "output_postprocessor"):
        if (part := getattr(module, name)) is not None:
            made[name] = spec(part)
    return made


def perceiver_task(module: Any) -> dict[str, Any]:
    """A task class, with its parts where they are not those that its source fixes."""
    from ....peers.transformers.perceiver.config import read_config
    from ....peers.transformers.perceiver.preprocessors import PREPROCESSORS, component
    from ....peers.transformers.perceiver.tasks import TASKS, evaluated

    made = {"config": configuration(module.config)}
    config = read_config(made)

    def width(part: Any) -> int:
        return int(component("input_preprocessor", PREPROCESSORS, config, part).module.channels)

    usual = evaluated(TASKS[type(module).__name__], config, width)
    parts = {part: spec(getattr(module.perceiver, part)) for part in usual}
    if not all(_holds(parts[part], jsonable(wanted)) for part, wanted in usual.items()):
        made["parts"] = parts
    return made


def _holds(given: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one, or holds all the entries of it."""
    if isinstance(wanted, Mapping):
        return isinstance(given, Mapping) and all(k in given and _holds(given[k], v) for k, v in wanted.items())
    return bool(given == wanted or (isinstance(wanted, list) and [given] == wanted))


def spec(part: Any) -> dict[str, Any]:
    """{"class": name, "kwargs": arguments} of a part of a model."""
    name = type(part).__name__
    if name not in READERS or not type(part).__module__.startswith("transformers."):
        raise Unread(f"a part of class {type(part).__module__}.{name}")
    return {"class": name, "kwargs": jsonable(READERS[name](part))}


def standalone(part: Any) -> dict[str, Any]:
    """A part on its own, with as much of a configuration as shows in it."""
    made = spec(part)["kwargs"]
    return {"config": _configuration_of(part), "kwargs": made}


def layer(module: Any) -> dict[str, Any]:
    """`PerceiverLayer`."""
    inner = module.attention.self
    made = {**_layer(module), "q_dim": inner.query.in_features, "kv_dim": inner.key.in_features}
    made["is_cross_attention"] = hasattr(inner.layernorm2, "normalized_shape")
    return {"config": _activation(module), "kwargs": made}


def position_encoding(module: Any) -> dict[str, Any]:
    """A position encoding on its own."""
    (kind,) = (value for key, value in _positions(module).items() if key.endswith("kwargs"))
    return {"config": {}, "kwargs": jsonable(kind)}


def _configuration_of(part: Any) -> dict[str, Any]:
    if hasattr(part, "config"):
        return configuration(part.config)
    made: dict[str, Any] = {}
    name = type(part).__name__
    inner: Any
    for inner in (part, getattr(part, "decoder", None)):
        if hasattr(inner, "decoding_cross_attention"):
            made["d_latents"] = inner.decoding_cross_attention.attention.self.key.in_features
            made |= _activation(inner.decoding_cross_attention)
    if name == "PerceiverClassificationDecoder":
        made["num_labels"] = part.num_labels
    if name == "PerceiverProjectionDecoder":
        made |= {"d_latents": part.classifier.in_features, "num_labels": part.classifier.out_features}
    if name == "PerceiverClassificationPostprocessor":
        made["num_labels"] = part.classifier.out_features
    if name == "PerceiverAudioPostprocessor":
        made["samples_per_patch"] = part.classifier.out_features
    for inner in getattr(part, "modalities", {}).values():
        for key, value in _configuration_of(inner).items():
            if made.setdefault(key, value) != value:
                raise Unread(f"modalities of several configurations: {key} is {made[key]} and {value}")
    return made


def _activation(module: Any) -> dict[str, str]:
    """The `hidden_act` of a layer: transformers' name of the class of its activation."""
    found = module.mlp.intermediate_act_fn
    names = getattr(sys.modules.get("transformers.activations"), "ACT2FN", {})
    for name in names:
        made = names[name]
        if type(made) is type(found) and vars_of(made) == vars_of(found):
            return {"hidden_act": name}
    raise Unread(f"an activation of class {type(found).__name__}")


def vars_of(module: Any) -> dict[str, str]:
    """The attributes of a module without parts and parameters, in words: functions by their names."""
    own = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
    return {key: getattr(value, "__qualname__", repr(value)) for key, value in own.items()}


def _layer(module: Any) -> dict[str, Any]:
    attend = module.attention.self
    first = module.mlp.dense1
    return {
        "num_heads": attend.num_heads,
        "qk_channels": attend.qk_channels,
        "v_channels": attend.v_channels,
        "widening_factor": first.out_features // first.in_features,
        "use_query_residual": bool(module.attention.use_query_residual),
    }


def _positions(encoding: Any) -> dict[str, Any]:
    match type(encoding).__name__:
        case "PerceiverFourierPositionEncoding":
            names = ("num_bands", "max_resolution", "concat_pos", "sine_only")
            own = {name: getattr(encoding, name) for name in names}
            return {"position_encoding_type": "fourier", "fourier_position_encoding_kwargs": own}
        case "PerceiverTrainablePositionEncoding":
            own = {"index_dims": encoding._index_dims, "num_channels": encoding._num_channels}
            return {"position_encoding_type": "trainable", "trainable_position_encoding_kwargs": own}
    raise Unread(f"positions of class {type(encoding).__name__}")


def _attributes(module: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


def _image(module: Any) -> dict[str, Any]:
    names = ("prep_type", "spatial_downsample", "temporal_downsample", "in_channels", "out_channels")
    made = _attributes(module, *names, "conv_after_patching", "concat_or_add_pos", "project_pos_dim")
    if module.conv_after_patching:
        made["conv_after_patching_in_channels"] = module.conv_after_patches.in_features
    if module.prep_type == "conv":
        made["conv2d_use_batchnorm"] = hasattr(module.convnet.batchnorm, "running_mean")
    return {**made, **_positions(module.position_embeddings)}


def _audio(module: Any) -> dict[str, Any]:
    made = _attributes(module, "samples_per_patch", "concat_or_add_pos", "project_pos_dim")
    if module.project_pos_dim > 0:
        made["out_channels"] = module.positions_projection.in_features
    return {"prep_type": "patches", **made, **_positions(module.position_embeddings)}


def _modalities(module: Any) -> dict[str, Any]:
    return {"modalities": {name: spec(part) for name, part in module.modalities.items()}}


def _several(module: Any) -> dict[str, Any]:
    return {**_modalities(module), **_attributes(module, "min_padding_size", "mask_probs")}


def _basic(module: Any) -> dict[str, Any]:
    names = ("output_num_channels", "position_encoding_type", "output_index_dims", "num_channels")
    made = _attributes(module, *names, "concat_preprocessed_input", "final_project", "position_encoding_only")
    made |= module.position_encoding_kwargs
    return made if module.position_encoding_only else {**made, **_layer(module.decoding_cross_attention)}


def _inner(module: Any, *without: str) -> dict[str, Any]:
    return {key: value for key, value in _basic(module.decoder).items() if key not in without}


def _classification(module: Any) -> dict[str, Any]:
    return _inner(module, "output_num_channels", "output_index_dims")


def _flow(module: Any) -> dict[str, Any]:
    own = _attributes(module, "output_image_shape", "rescale_factor", "output_num_channels")
    return {**_inner(module), **own}


def _video(module: Any) -> dict[str, Any]:
    return {**_inner(module, "output_index_dims"), "output_shape": module.output_shape}


def _multimodal_decoder(module: Any) -> dict[str, Any]:
    made = _inner(module, "output_index_dims", "num_channels", "position_encoding_type")
    return {**made, **_modalities(module), **_attributes(module, "num_outputs", "min_padding_size")}


def _nothing(module: Any) -> dict[str, Any]:
    return {}


READERS: dict[str, Reader] = {
    "PerceiverTextPreprocessor": _nothing,
    "PerceiverImagePreprocessor": _image,
    "PerceiverAudioPreprocessor": _audio,
    "PerceiverOneHotPreprocessor": _nothing,
    "PerceiverMultimodalPreprocessor": _several,
    "PerceiverProjectionDecoder": _nothing,
    "PerceiverBasicDecoder": _basic,
    "PerceiverClassificationDecoder": _classification,
    "PerceiverOpticalFlowDecoder": _flow,
    "PerceiverBasicVideoAutoencodingDecoder": _video,
    "PerceiverMultimodalDecoder": _multimodal_decoder,
    "PerceiverAudioPostprocessor": lambda m: {"in_channels": m.classifier.in_features},
    "PerceiverClassificationPostprocessor": lambda m: {"in_channels": m.classifier.in_features},
    "PerceiverProjectionPostprocessor": lambda m: {
        "in_channels": m.classifier.in_features,
        "out_channels": m.classifier.out_features,
    },
    "PerceiverMultimodalPostprocessor": lambda m: {**_modalities(m), "input_is_dict": bool(m.input_is_dict)},
}
"""How each part's keyword arguments are read."""
