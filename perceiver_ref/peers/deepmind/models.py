"""`Perceiver`, and the models that DeepMind's notebooks make of it: masked language modelling and optical flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.call import Call
from ...models.inputs import TextInput, flow_patches
from ...models.outputs import TiedEmbedding
from ...models.perceiver_io import PerceiverIO
from ..base import REQUIRED, Arguments, Given, Outputs, Rebuilt
from ..names import Table, same
from . import decoders, encoder, positions, postprocessors, preprocessors
from .decoders import Widths, wanted_points, width_of
from .names import Names
from .part import NamedPart, component, flags, mask, no_dropout, options, rebuilt

_ARGUMENTS = ("inputs", "pos", "input_mask", "query_mask", "subsampled_output_points")
_PERCEIVER = {
    "encoder": REQUIRED,
    "decoder": REQUIRED,
    "input_preprocessor": None,
    "output_postprocessor": None,
    "name": None,
}


class _Model:
    """A `Perceiver` put together: model, names, and how it is called."""

    def __init__(self, given: Any, inputs: Any, params: Mapping[str, tuple[int, ...]], called: set[str]) -> None:
        cls, kwargs = component(given, "perceiver")
        if cls != "Perceiver":
            raise one_of("class of a perceiver", cls, ("Perceiver",))
        chosen = options("Perceiver", kwargs, _PERCEIVER)
        encoder_cls, encoder_kwargs = component(chosen["encoder"], "encoder")
        if encoder_cls != "PerceiverEncoder":
            raise one_of("encoder", encoder_cls, ("PerceiverEncoder",))
        names = Names()
        name = encoder_kwargs.get("name") or "perceiver_encoder"
        norm = params.get(f"{name}/~/cross_attention/layer_norm_1/scale")
        before = NamedPart(None)
        width, features = _own_width(inputs, norm), None
        if chosen["input_preprocessor"] is not None:
            known = preprocessors.Known(inputs, params, norm[0] if norm else None)
            before = preprocessors.build(chosen["input_preprocessor"], known, names)
            width, features = before.model.channels, _features(before.model)
        if width is None:
            raise InputError("the width of the encoder's inputs follows from neither inputs nor parameters")
        coded = encoder.build(encoder_kwargs, width, names)
        widths = Widths(coded.model.channels, width, features)
        decoded, self.decoder_class = decoders.build(chosen["decoder"], widths, names)
        after = NamedPart(None)
        if chosen["output_postprocessor"] is not None:
            after = postprocessors.build(chosen["output_postprocessor"], width_of(decoded.model), names)
        self.dropout = encoder_kwargs.get("dropout_prob", 0.0)
        self.model = PerceiverIO(coded.model, before.model, decoded.model, after.model)
        self.table: dict[str, Any] = {
            "input": ("", before.table),
            "encoder": ("", coded.table),
            "decoder": ("", decoded.table),
            "output": ("", after.table),
        }
        grids = [] if "pos" in called else list(before.grids)
        for grid in decoded.grids:  # single points need no grid
            modality = grid.removeprefix("decoder.queries").removesuffix("grid").strip(".")
            if f"subsampled_output_points/{modality}".rstrip("/") not in called:
                grids.append(grid)
        self.part = NamedPart(
            None,
            points=[*before.points, *coded.points, *decoded.points, *after.points],
            grids=grids,
            layers=[*coded.layers, *decoded.layers],
            state={"input": ("", before.state)} if before.state else {},
        )

    def run(self, model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Any:
        """`Perceiver.__call__`: the outputs, an array or a dict of them by modality."""
        no_dropout("PerceiverEncoder", self.dropout, bool(flags("Perceiver", called)["is_training"]))
        known = _collected(arguments)
        inputs, pos = known["inputs"], known["pos"]
        if inputs is None:
            raise InputError("Perceiver needs the argument 'inputs'")
        if isinstance(inputs, Mapping) and pos is not None:
            pos = dict.fromkeys(inputs, pos)  # the same for every modality
        return model.apply(
            params,
            inputs,
            pos=pos,
            mask=mask(known["input_mask"]),
            query_mask=mask(known["query_mask"]) if self.decoder_class == "BasicDecoder" else None,
            points=wanted_points(model.decoder, known["subsampled_output_points"]),
            call=call,
        )


def _own_width(inputs: Any, norm: tuple[int, ...] | None) -> int | None:
    if isinstance(inputs, tuple):
        return int(inputs[-1])
    return norm[0] if norm else None


def _features(model: Any) -> Any:
    """The width of a preprocessor's elements without positions, by modality where there are several."""
    if hasattr(model, "modalities"):
        return {name: _features(part) for name, part in model.modalities.items()}
    return model.features.channels if hasattr(model, "features") else model.channels


def _collected(arguments: Arguments) -> dict[str, Any]:
    """Arguments by name, those named "<name>/<modality>" as dicts."""
    known: dict[str, Any] = dict.fromkeys(_ARGUMENTS)
    for key, value in arguments.items():
        name, _, modality = key.partition("/")
        if name not in known:
            raise one_of("argument of Perceiver", key, _ARGUMENTS)
        if modality:
            known[name] = {**(known[name] or {}), modality: value}
        else:
            known[name] = value
    return known


def perceiver(given: Given) -> Rebuilt:
    """`Perceiver`: output "out", or one by modality."""
    made = _Model(given.config, _collected(dict(given.inputs))["inputs"], given.params, set(given.inputs))

    def run(model: Any, params: Tree, arguments: Arguments, options: Mapping[str, Any], call: Call) -> Outputs:
        out = made.run(model, params, arguments, options, call)
        return dict(out) if isinstance(out, Mapping) else {"out": out}

    return rebuilt(made.model, made.table, run, made.part)


_LANGUAGE = {
    "embed_dim": REQUIRED,
    "vocab_size": REQUIRED,
    "max_seq_len": None,
    "input_position_encoding": REQUIRED,
    "perceiver": REQUIRED,
    "embedding_decoder": None,
}


def language_model(given: Given) -> Rebuilt:
    """The masked language modelling notebook: embeddings and positions in, logits by the same embedding out."""
    chosen = options("the language model", given.config, _LANGUAGE)
    cls, kwargs = component(chosen["input_position_encoding"], "input_position_encoding")
    if cls != "TrainablePositionEncoding":
        raise one_of("input_position_encoding", cls, ("TrainablePositionEncoding",))
    known = {"index_dim": REQUIRED, "num_channels": 128, "name": None}
    placed = options("TrainablePositionEncoding", kwargs, known)
    width = chosen["embed_dim"]
    if placed["num_channels"] != width:
        raise InputError(f"positions ({placed['num_channels']} channels) are added to embeddings ({width})")
    made = _Model(chosen["perceiver"], (0, 0, width), given.params, set(given.inputs))
    if made.model.preprocessor is not None or made.model.postprocessor is not None:
        raise InputError("the language model's perceiver has neither preprocessor nor postprocessor")
    text = TextInput(chosen["vocab_size"], placed["index_dim"], width)
    made.model = replace(made.model, preprocessor=text)
    model = replace(made.model, postprocessor=TiedEmbedding(chosen["vocab_size"]))
    table: Table = {
        "encoder": made.table["encoder"],
        "decoder": made.table["decoder"],
        "input/embedding": ("embed/embeddings", same),
        "input/positions/table": ("trainable_position_encoding/pos_embs", same),
        "output/bias": ("embedding_decoder/bias", same),
    }
    points = [
        ("embed/output", "input.embedding"),
        *positions.points("", "input"),
        ("embedding_decoder/output", "output"),
    ]

    def run(model: Any, params: Tree, arguments: Arguments, options: Mapping[str, Any], call: Call) -> Outputs:
        embeddings = made.run(model.with_fields(postprocessor=None), params, arguments, options, call)
        return {"logits": model.postprocess(params, embeddings), "output_embeddings": embeddings}

    part = NamedPart(None, {}, [*points, *made.part.points], made.part.grids, made.part.layers)
    return rebuilt(model, table, run, part)


def optical_flow(given: Given) -> Rebuilt:
    """The optical flow notebook: patches of two frames in, flow times `flow_scale_factor` out."""
    chosen = options("the optical flow model", given.config, {"flow_scale_factor": 20.0, "perceiver": REQUIRED})
    images = given.inputs.get("images")
    shape = None if images is None else (*images[:-1], 9 * images[-1])
    made = _Model(chosen["perceiver"], shape, given.params, {"inputs"})
    factor = 20.0 if chosen["flow_scale_factor"] is None else chosen["flow_scale_factor"]
    return rebuilt(made.model, made.table, partial(_flow, made, factor), made.part)


def _flow(
    made: _Model,
    factor: float,
    model: Any,
    params: Tree,
    arguments: Arguments,
    options: Mapping[str, Any],
    call: Call,
) -> Outputs:
    if set(arguments) != {"images"}:
        raise InputError(f"the optical flow model takes the argument images, got {', '.join(arguments)}")
    out = made.run(model, params, {"inputs": flow_patches(arguments["images"])}, options, call)
    return {"flow": ops.multiply(out, factor)}
