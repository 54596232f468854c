"""The forward passes of transformers' models, by the names of their arguments and outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....autograd import ops
from ....autograd.core import array_of
from ....autograd.tree import Tree
from ....errors import InputError
from ....models.call import Call
from ....models.inputs import AudioPatches, GridInput, MultimodalInput
from ....models.perceiver_io import PerceiverIO
from ....models.positions import ProjectedPositions, TrainablePositions
from ....models.queries import Request
from ....models.tracing import trace
from ...base import Arguments, Option, Outputs, read_call

_INPUTS = ("inputs", "input_ids", "pixel_values")
_ARGUMENTS = {*_INPUTS, "attention_mask", "labels", "subsampled_output_points"}
_OPTIONS = {
    "output_attentions": Option(bool),
    "output_hidden_states": Option(bool),
    "return_dict": Option(bool),
    "interpolate_pos_encoding": False,
}
_FROM_CONFIG = ("output_attentions", "output_hidden_states", "return_dict")
"""Options that the configuration has where a call does not give them."""


def forward(
    model: PerceiverIO,
    config: Mapping[str, Any],
    loss: Any,
    is_model: bool,
    params: Tree,
    arguments: Arguments,
    called: Mapping[str, Any],
    call: Call,
) -> Outputs:
    """The peer's forward: outputs by the names of its output classes, without `return_dict` also by their places."""
    values, wanted = read_call("forward", arguments, called, _ARGUMENTS, _OPTIONS)
    wanted |= {name: config[name] for name in _FROM_CONFIG if wanted[name] is None}
    inputs = values[single(values, _INPUTS)]
    if wanted["interpolate_pos_encoding"]:
        model = replace(model, preprocessor=interpolating(model.preprocessor))
    mask, bias = _masks(values.get("attention_mask"))
    layers = [f"encoder.blocks.{b}.{i}" for b in range(model.encoder.blocks) for i in range(model.encoder.layers)]
    crosses = ["encoder.cross_attention", *(["decoder.cross_attention"] if model.decoder else [])]
    keep = {"encoder.cross_attention", *layers} if wanted["output_hidden_states"] else set()
    if wanted["output_attentions"]:
        keep |= {f"{layer}.attention.weights" for layer in (*layers, *crosses)}
    with trace(keep.__contains__, tensors=True) as traced:
        inputs = channels_last(model.preprocessor, inputs)
        latents, elements = model.encode(params, inputs, mask=mask, bias=bias, call=call)
        out = model.decode(params, latents, Request(points=values.get("subsampled_output_points")), elements)
    results: Outputs = {"last_hidden_state": latents}
    if model.decoder is not None:
        results |= by_name("logits", out)
    if "labels" in values:
        if loss is None:
            raise InputError("this class computes no loss: leave out labels")
        results["loss"] = loss(config, out, values["labels"])
    if wanted["output_hidden_states"]:
        states = _hidden_states(model, traced)
        results |= {f"hidden_states.{i}": state for i, state in enumerate(states)}
    if wanted["output_attentions"]:
        for kind, layer_names in (("attentions", layers), ("cross_attentions", crosses)):
            maps = [traced[f"{layer}.attention.weights"] for layer in layer_names]
            results |= {f"{kind}.{i}": weights for i, weights in enumerate(maps)}
    return results if wanted["return_dict"] else results | by_place(results, whole=is_model)


def single(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The only one of these arguments that was given."""
    found = [name for name in names if name in values]
    if len(found) != 1:
        raise InputError(f"give exactly one of the arguments {', '.join(names)}")
    return found[0]


def by_place(results: Outputs, *, whole: bool) -> Outputs:
    """The outputs as the peer's tuple has them, out0, out1, ...; only the `whole` PerceiverModel has the latents.

    The decoder's attention map follows the tuple of the encoder's as an element of its own.
    """
    order = ["logits", *(["last_hidden_state"] if whole else []), "hidden_states", "attentions", "cross_attentions"]
    groups: list[Outputs] = []
    for name in ("loss", *order):
        own = {key[len(name) :]: value for key, value in results.items() if re.fullmatch(rf"{name}(\..*)?", key)}
        late = own.pop(".1", None) if name == "cross_attentions" else None
        groups += [group for group in (own, {"": late} if late is not None else {}) if group]
    return {f"out{i}{rest}": value for i, group in enumerate(groups) for rest, value in group.items()}


def by_name(name: str, value: Any) -> Outputs:
    """An output, or one for each modality of it."""
    return {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}


def channels_last(preprocessor: Any, x: Any) -> Any:
    """The peer's inputs as ours: channels of images and video last, audio as samples, the same for each modality."""
    if isinstance(preprocessor, MultimodalInput):
        if not isinstance(x, Mapping):
            raise InputError(f"inputs must be given by modality: {', '.join(preprocessor.names)}")
        parts = preprocessor.modalities
        return {name: channels_last(parts.get(name), part) for name, part in x.items()}
    if isinstance(x, Mapping):
        raise InputError(f"inputs were given by modality ({', '.join(sorted(x))}), but there is only one")
    if not isinstance(preprocessor, GridInput):
        return x
    if isinstance(preprocessor.features, AudioPatches):
        return ops.reshape(x, shape=(x.shape[0], math.prod(x.shape[1:]), 1))
    axes = len(x.shape)
    if axes not in (4, 5):
        shapes = "(batch, channels, height, width) or (batch, time, channels, height, width)"
        raise InputError(f"images must be {shapes}, got {tuple(x.shape)}")
    return ops.transpose(x, axes=(*range(axes - 3), axes - 2, axes - 1, axes - 3))


def interpolating(preprocessor: Any) -> Any:
    """The preprocessor of one image with its trainable positions resized to the image; any other as it is."""
    if not isinstance(preprocessor, GridInput) or isinstance(preprocessor.features, AudioPatches):
        return preprocessor
    positions = preprocessor.positions
    if isinstance(positions, TrainablePositions):
        return replace(preprocessor, positions=square(positions))
    if isinstance(positions, ProjectedPositions) and isinstance(positions.encoding, TrainablePositions):
        return replace(preprocessor, positions=replace(positions, encoding=square(positions.encoding)))
    return preprocessor


def square(positions: TrainablePositions) -> TrainablePositions:
    """The same table to be resized; the peer takes every table to be that of a square grid."""
    side = int(positions.size**0.5)
    return replace(positions, resize=(side, side))


def _hidden_states(model: PerceiverIO, traced: Mapping[str, Any]) -> list[Any]:
    """The input of every self-attention layer, and each block's output once more."""
    states, state = [], traced["encoder.cross_attention"]
    for b in range(model.encoder.blocks):
        for i in range(model.encoder.layers):
            states.append(state)
            state = traced[f"encoder.blocks.{b}.{i}"]
        states.append(state)
    return states


def _masks(attention_mask: Any) -> tuple[Any, Any]:
    """(mask, bias): a 2-D mask says which inputs are real, a 4-D one is added to the logits as it is."""
    if attention_mask is None:
        return None, None
    if len(attention_mask.shape) == 4:
        return None, attention_mask
    if len(attention_mask.shape) == 2:
        return array_of(attention_mask) != 0, None
    raise InputError(
        f"attention_mask must be (batch, length), 1 = attend, or (batch, 1, latents, length) to add; "
        f"got {tuple(attention_mask.shape)}"
    )


def token_loss(config: Mapping[str, Any], logits: Any, labels: Any) -> Any:
    """The mean cross-entropy of logits (..., C) and labels (...), as the class of this configuration counts it."""
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise InputError(f"labels must be {tuple(logits.shape[:-1])} like the logits, got {tuple(labels.shape)}")
    return ops.cross_entropy(logits, labels)


def sequence_loss(config: Mapping[str, Any], logits: Any, labels: Any) -> Any:
    """Regression, classification or several independent labels, guessed from labels as the peer does."""
    problem = config["problem_type"]
    if problem is None:
        integers = array_of(labels).dtype.kind in "iu"
        problem = "regression" if config["num_labels"] == 1 else "single_label" if integers else "multi_label"
    if problem == "regression":
        return ops.squared_error(ops.reshape(logits, shape=tuple(labels.shape)), labels)
    if problem.startswith("single_label"):
        return ops.cross_entropy(logits, labels)
    return ops.binary_cross_entropy(logits, labels)
