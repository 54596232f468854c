"""Hugging Face transformers' Perceiver (`transformers.models.perceiver`, version 5.23).

Read off its source: linear weights are (outputs, inputs); images are channels-first; a fully masked row averages all
values, since `finfo.min` is added to its logits; `layer_norm_eps` of the configuration is never used (1e-5 is);
`query_mask` is ignored. Sizes that the task classes fix in code are in `tasks`, what only this implementation does is
in `quirks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ....errors import InputError
from ....models.outputs import MultimodalOutput, TiedEmbedding
from ....models.perceiver_io import PerceiverIO
from ...base import Given, Peer, Rebuilt, options
from ...names import Rows, Table, below, bind, renamed, same
from .config import encoder, read_config
from .decoders import DECODERS, POSTPROCESSORS
from .forward import forward, sequence_loss, token_loss
from .names import ENCODER, ENCODER_POINTS, IGNORED, Component
from .parts import PARTS, shapes_of
from .preprocessors import PREPROCESSORS, component
from .replacements import replaced
from .tasks import TASKS, evaluated

_LOSSES: dict[str, Any] = {
    "PerceiverForMaskedLM": token_loss,
    "PerceiverForSequenceClassification": sequence_loss,
    "PerceiverForImageClassificationLearned": sequence_loss,
    "PerceiverForImageClassificationFourier": sequence_loss,
    "PerceiverForImageClassificationConvProcessing": sequence_loss,
    "PerceiverForOpticalFlow": None,
    "PerceiverForMultimodalAutoencoding": None,
}
_SQUARE = ("PerceiverForImageClassificationLearned", "PerceiverForMultimodalAutoencoding")
"""Classes that compute with `image_size`, which they take for one number."""
_PARTS = (
    ("input", "input_preprocessor", PREPROCESSORS),
    ("decoder", "decoder", DECODERS),
    ("output", "output_postprocessor", POSTPROCESSORS),
)


def _perceiver_model(given: Given) -> Rebuilt:
    return _rebuilt(given, read_config(given.config, *(theirs for _, theirs, _ in _PARTS)), given.config)


def _task(name: str, given: Given) -> Rebuilt:
    """A task class: a PerceiverModel below `perceiver`, and for language the tied output embedding beside it.

    `parts` are given for a model whose parts are not those that the class makes, as for a PerceiverModel.
    """
    config = read_config(given.config, "hard_coded_replacements", "parts")
    if name in _SQUARE and not isinstance(config["image_size"], int):
        raise InputError(f"{name} needs one number as image_size, got {config['image_size']}")

    def width(part: Any) -> int:
        channels: int = component("input_preprocessor", PREPROCESSORS, config, part).module.channels
        return channels

    parts = replaced(name, TASKS[name], given.config.get("hard_coded_replacements"))
    specs = evaluated(parts, config, width) if "parts" not in given.config else _parts(given.config["parts"])
    return _rebuilt(given, config, specs, "perceiver", name == "PerceiverForMaskedLM", _LOSSES[name])


def _parts(given: Any) -> dict[str, Any]:
    known = dict.fromkeys(theirs for _, theirs, _ in _PARTS)
    return options("parts", given, known)


def _rebuilt(
    given: Given,
    config: Mapping[str, Any],
    specs: Mapping[str, Any],
    prefix: str = "",
    tied: bool = False,
    loss: Any = None,
) -> Rebuilt:
    shape = shapes_of(given.inputs, ("inputs", "pixel_values", "input_ids"))
    components: dict[str, Component] = {
        ours: component(theirs, builders, config, specs[theirs], shape if ours == "input" else None)
        for ours, theirs, builders in _PARTS
        if specs.get(theirs) is not None
    }
    if "output" in components and "decoder" not in components:
        raise InputError("an output_postprocessor needs a decoder: without one it is never called")
    modules = {name: part.module for name, part in components.items()}
    table: dict[str, Any] = {"encoder": ("", ENCODER)}
    state: dict[str, Any] = {}
    points: Rows = below("", "encoder", ENCODER_POINTS)
    for ours, theirs, _ in _PARTS:
        if ours in components:
            table[ours], state[ours] = (theirs, components[ours].table), (theirs, components[ours].state)
            points += below(theirs, ours, components[ours].points)
    bindings: Table = renamed(prefix, table) if prefix else table
    rows = below(prefix, "", points)
    if prefix:  # the PerceiverModel inside gives what its last part does
        rows += [(prefix, "output" if "output" in components else "decoder")]
        rows += [(rf"{prefix}\.(\w+)", r"output.\1")] if isinstance(modules.get("output"), MultimodalOutput) else []
    if tied:
        modules["output"] = TiedEmbedding(config["vocab_size"])
        bindings = {**bindings, "output/bias": ("embedding_decoder.bias", same)}
        rows.append(("embedding_decoder", "output"))
    inputs = modules["input"].channels if "input" in modules else config["d_model"]
    model = PerceiverIO(encoder(config, inputs), modules.get("input"), modules.get("decoder"), modules.get("output"))
    return Rebuilt(
        model,
        bind(model.parameters(), bindings),
        lambda model, *given: forward(model, config, loss, not prefix, *given),
        rows,
        bind(model.state(), renamed(prefix, state) if prefix else state),
        IGNORED,
    )


PEER = Peer("hf", {"PerceiverModel": _perceiver_model, **{name: partial(_task, name) for name in _LOSSES}, **PARTS})
