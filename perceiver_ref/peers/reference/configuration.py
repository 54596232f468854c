"""A model as JSON and back: `{"type": "Encoder", "inputs": 8, ...}`, every field by its name, parts nested.

Tuples are lists and a dict of parts is an object without a type. Nothing but the classes of `TYPES` is ever made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...errors import InputError, input_errors, one_of, shortened
from ...models import attention, conventions, decoder, encoder, flamingo, inputs, layers, outputs, resamplers
from ...models import perceiver_ar as autoregressive
from ...models import positions as position
from ...models import queries as query_sources
from ...models.perceiver_io import PerceiverIO
from ...models.pointing import Pointing
from ...models.rotary import Rotary
from .. import bounds

TYPES: dict[str, type] = {
    made.__name__: made
    for made in (
        PerceiverIO,
        encoder.Encoder,
        decoder.Decoder,
        decoder.ClassificationDecoder,
        decoder.GridDecoder,
        decoder.ProjectionDecoder,
        query_sources.PositionQueries,
        query_sources.InputQueries,
        query_sources.MultimodalQueries,
        position.FourierPositions,
        position.TrainablePositions,
        position.ProjectedPositions,
        inputs.GridInput,
        inputs.TextInput,
        inputs.OneHotInput,
        inputs.PointInput,
        inputs.VectorInput,
        inputs.MultimodalInput,
        inputs.Pixels,
        inputs.Patches,
        inputs.Conv1x1,
        inputs.ConvStem,
        inputs.AudioPatches,
        outputs.IdentityOutput,
        outputs.ProjectionOutput,
        outputs.ClassificationOutput,
        outputs.AudioOutput,
        outputs.ImageOutput,
        outputs.MultimodalOutput,
        outputs.TiedEmbedding,
        attention.Attention,
        attention.CrossAttention,
        attention.SelfAttention,
        layers.MLP,
        layers.LayerNorm,
        layers.RMSNorm,
        layers.L2Norm,
        layers.BatchNorm,
        flamingo.PerceiverResampler,
        flamingo.GatedCrossAttention,
        flamingo.GatedLayers,
        resamplers.Resampler,
        resamplers.LatentAttention,
        resamplers.AttentionPool,
        flamingo.LanguageModel,
        flamingo.PatchEncoder,
        flamingo.Features,
        flamingo.Flamingo,
        autoregressive.PerceiverAR,
        Pointing,
        Rotary,
        conventions.Conventions,
    )
}
"""What a configuration may name, by class name."""


def to_config(value: Any) -> Any:
    """The JSON value of a model or a part of it; `InputError` for a class that is not one of `TYPES`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if TYPES.get(name) is not type(value):
            raise InputError(f"a {name} is no part of a model that can be written as a configuration")
        return {"type": name, **{f.name: to_config(getattr(value, f.name)) for f in dataclasses.fields(value)}}
    if isinstance(value, Mapping):
        return {str(key): to_config(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_config(part) for part in value]
    return value


def from_config(config: Any, where: str = "the configuration") -> Any:
    """The inverse of `to_config`.

    Fields with a default may be left out. Raises `InputError`, naming the place, for an unknown type or field, one that
    is missing, and values that the class refuses.
    """
    if isinstance(config, list):
        return tuple(from_config(part, f"{where}[{i}]") for i, part in enumerate(config))
    if not isinstance(config, Mapping):
        return config
    if "type" not in config:
        return {key: from_config(part, f"{where}.{key}") for key, part in config.items()}
    name = config["type"]
    if name not in TYPES:
        raise one_of(f"type in {where}", str(name), TYPES)
    fields = {f.name: f for f in dataclasses.fields(TYPES[name])}
    given = {key: from_config(part, f"{where}.{key}") for key, part in config.items() if key != "type"}
    for key in given:
        if key not in fields:
            raise one_of(f"field of {name} in {where}", key, fields)
    missing = [
        f.name
        for f in fields.values()
        if f.name not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: {name} needs {', '.join(missing)}")
    for key, value in given.items():
        _check(f"{where}: {key} of {name}", value, str(fields[key].type))
        bounds.check(f"{where}: {key} of {name}", bounds.BOUNDS.get(key), value, fields[key].default, typed=True)
    with input_errors(f"{where}: {name} cannot be made"):
        return TYPES[name](**given)


_PLAIN = {"int": int, "bool": bool, "float": (int, float), "str": str}


def _check(what: str, value: Any, annotation: str) -> None:
    """Numbers, truth values and texts must be what the field's annotation says."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    if not all(kind in _PLAIN or kind == "None" for kind in kinds):
        return
    if value is None and "None" in kinds:
        return
    for kind in kinds:
        if kind != "None" and isinstance(value, _PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool)):  # type: ignore[arg-type]
            return
    raise InputError(f"{what} must be {annotation}, got {shortened(value)}")
