"""transformers' building blocks on their own: layers, preprocessors, decoders, position encodings, functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ....autograd import ops
from ....autograd.tree import Tree
from ....errors import InputError
from ....models.attention import CrossAttention, SelfAttention
from ....models.call import Call
from ....models.decoder import ProjectionDecoder
from ....models.inputs import GridInput, space_to_depth
from ....models.outputs import MultimodalOutput
from ....models.positions import linear_positions
from ....models.queries import Request
from ....models.tracing import scope, trace
from ...base import Arguments, Function, Given, Outputs, Rebuilt, options, read_call
from ...names import below, bind, same
from .config import attend_in, conventions, read_config
from .decoders import DECODERS, POSTPROCESSORS
from .forward import by_name, channels_last, interpolating, square
from .names import IGNORED, LAYER, LAYER_POINTS, Component
from .preprocessors import PREPROCESSORS, fourier, require, trainable
from .quirks import first_item_features

Forward = Callable[[Any, Tree, Arguments, Mapping[str, Any], Call], Outputs]

_LAYER: dict[str, Any] = {
    "is_cross_attention": False,
    "qk_channels": None,
    "v_channels": None,
    "num_heads": 1,
    "q_dim": None,
    "kv_dim": None,
    "widening_factor": 4,
    "use_query_residual": True,
}
_FEATURES: dict[str, Any] = {"num_bands": None, "max_resolution": (224, 224), "concat_pos": True, "sine_only": False}


def _built(part: Component, forward: Forward, ours: str = "") -> Rebuilt:
    module = part.module
    return Rebuilt(
        module,
        bind(module.parameters(), part.table),
        forward,
        below("", ours, part.points),
        bind(module.state(), part.state),
        IGNORED,
    )


def _kwargs(given: Given) -> Mapping[str, Any]:
    return given.config.get("kwargs") or {}


def shapes_of(inputs: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The shape of the argument that is one of `names`, by modality where it has several; None when it is not given."""
    for name in names:
        if name in inputs:
            return inputs[name]
        if parts := {key[len(name) + 1 :]: shape for key, shape in inputs.items() if key.startswith(f"{name}.")}:
            return parts
    return None


def _layer(given: Given) -> Rebuilt:
    """A PerceiverLayer: masks are added to the logits; it returns a tuple (output, attention map)."""
    config, chosen = read_config(given.config, "kwargs"), options("PerceiverLayer", _kwargs(given), _LAYER)
    require("PerceiverLayer", chosen, "q_dim")
    crosses = chosen["is_cross_attention"]
    shared = {
        "heads": chosen["num_heads"],
        "qk_channels": chosen["qk_channels"],
        "v_channels": chosen["v_channels"],
        "widening": chosen["widening_factor"],
        "query_residual": chosen["use_query_residual"],
        "conventions": conventions(config),
    }
    module: Any
    if crosses:
        require("PerceiverLayer", chosen, "kv_dim")
        module = CrossAttention(chosen["q_dim"], chosen["kv_dim"], attend_in=attend_in(config), **shared)
    else:
        module = SelfAttention(chosen["q_dim"], **shared)

    def forward(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        known = {"hidden_states", "attention_mask", "inputs", "inputs_mask"}
        values, wanted = read_call("PerceiverLayer", arguments, called, known, {"output_attentions": False})
        if ("inputs" in values) != crosses:
            raise InputError("a PerceiverLayer takes inputs if, and only if, is_cross_attention is true")
        with trace("attention.weights".__eq__, tensors=True) as traced:
            if crosses:
                out = model.apply(params, values["hidden_states"], values["inputs"], bias=values.get("inputs_mask"))
            else:
                out = model.apply(params, values["hidden_states"], bias=values.get("attention_mask"))
        return {"out0": out, **({"out1": traced["attention.weights"]} if wanted["output_attentions"] else {})}

    return _built(Component(module, LAYER, LAYER_POINTS), forward)


def _preprocessor(name: str, given: Given) -> Rebuilt:
    """A preprocessor: it returns a tuple (inputs, sizes by modality, inputs without positions)."""
    config = read_config(given.config, "kwargs")
    part = PREPROCESSORS[name](config, _kwargs(given), shapes_of(given.inputs, ("inputs",)))

    def forward(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        defaults = {"network_input_is_1d": True, "interpolate_pos_encoding": False}
        values, wanted = read_call(name, arguments, called, {"inputs", "pos"}, defaults)
        model = interpolating(model) if wanted["interpolate_pos_encoding"] else model
        if isinstance(model, GridInput) and not wanted["network_input_is_1d"]:
            model = model.with_fields(flatten=False)
        with scope("input"):
            elements = model.apply(params, channels_last(model, values["inputs"]), call)
        return {"out0": elements.inputs, **by_name("out2", elements.features)}

    return _built(part, forward, "input")


def _decoder(name: str, given: Given) -> Rebuilt:
    """A decoder, given its queries."""
    part = DECODERS[name](read_config(given.config, "kwargs"), _kwargs(given))

    def forward(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, wanted = read_call(name, arguments, called, {"query", "z", "query_mask"}, {"output_attentions": False})
        if isinstance(model, ProjectionDecoder):
            return {"out": model.apply(params, values["z"])}
        maps = "decoder.cross_attention.attention.weights"
        with trace(maps.__eq__, tensors=True) as traced:
            out = model.apply(params, values["z"], Request(values["query"]))
        return {"logits": out, **({"cross_attentions.0": traced[maps]} if wanted["output_attentions"] else {})}

    return _built(part, forward, "decoder")


def _postprocessor(name: str, given: Given) -> Rebuilt:
    """A postprocessor; `modality_sizes` says how several modalities share the outputs."""
    part = POSTPROCESSORS[name](read_config(given.config, "kwargs"), _kwargs(given))

    def forward(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        sizes = {key.partition(".")[2]: n for key, n in called.items() if key.startswith("modality_sizes.")}
        rest = {key: value for key, value in called.items() if not key.startswith("modality_sizes.")}
        values, wanted = read_call(name, arguments, rest, {"inputs", "pos"}, {"modality_sizes": None})
        with scope("output"):
            out = model.apply(params, values["inputs"], sizes=wanted["modality_sizes"] or sizes or None)
        return by_name("out", out) if not isinstance(model, MultimodalOutput) else dict(out)

    return _built(part, forward, "output")


def _trainable_positions(given: Given) -> Rebuilt:
    """A PerceiverTrainablePositionEncoding, repeated for the batch."""
    module = trainable(_kwargs(given))

    def forward(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        defaults = {"batch_size": None, "interpolate_pos_encoding": False, "input_size": None}
        _, wanted = read_call("forward", arguments, called, set(), defaults)
        size = (model.size,)
        if wanted["interpolate_pos_encoding"]:
            model, size = square(model), tuple(wanted["input_size"])
        out = model.apply(params, size, like=params["table"])
        if wanted["batch_size"] is not None:
            out = ops.broadcast_to(out, shape=(wanted["batch_size"], *out.shape))
        return {"out": out}

    return _built(Component(module, {"table": ("position_embeddings", same)}, [("", "positions")]), forward)


def _function(what: str, known: set[str], defaults: dict[str, Any], function: Callable[..., Any]) -> Any:
    """A function of arrays and options, which are in the call (or, for a class, in the configuration's kwargs)."""

    def rebuild(given: Given) -> Rebuilt:
        config, kwargs = read_config(given.config, "kwargs"), _kwargs(given)

        def forward(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
            values, wanted = read_call(what, arguments, {**kwargs, **called}, known, defaults)
            return {"out": function(config, values, wanted)}

        return Rebuilt(Function(function), [], forward)

    return rebuild


def _fourier_encoding(config: Any, values: Any, wanted: dict[str, Any]) -> Any:
    require("PerceiverFourierPositionEncoding", wanted, "index_dims", "batch_size")
    encoding = fourier(config, {name: wanted[name] for name in _FEATURES})
    grid, pos = tuple(wanted["index_dims"]), values.get("pos")
    if pos is not None:
        if pos.shape[-1] != len(grid):
            raise InputError(f"pos has {pos.shape[-1]} coordinates for a grid of {len(grid)} axes, {grid}")
        return encoding.apply({}, grid, like=pos, pos=pos)
    out = encoding.apply({}, grid, like=np.zeros(()))
    return ops.broadcast_to(out, shape=(wanted["batch_size"], *out.shape)) if encoding.concat_pos else out


def _fourier_features(config: Any, values: Any, wanted: dict[str, Any]) -> Any:
    require("generate_fourier_features", wanted, "num_bands")
    options = {name: wanted[name] for name in ("concat_pos", "sine_only")}
    return first_item_features(values["pos"], wanted["num_bands"], tuple(wanted["max_resolution"]), **options)


def _linear_positions(config: Any, values: Any, wanted: dict[str, Any]) -> Any:
    require("build_linear_positions", wanted, "index_dims")
    return linear_positions(tuple(wanted["index_dims"]), ends=tuple(wanted["output_range"]))


def _space_to_depth(config: Any, values: Any, wanted: dict[str, Any]) -> Any:
    axes = len(values["frames"].shape)
    frames = ops.transpose(values["frames"], axes=(*range(axes - 3), axes - 2, axes - 1, axes - 3))
    return space_to_depth(frames, space=wanted["spatial_block_size"], time=wanted["temporal_block_size"])


_ENCODING = {**_FEATURES, "max_resolution": None, "index_dims": None, "batch_size": None}
PARTS: dict[str, Callable[[Given], Rebuilt]] = {
    "PerceiverLayer": _layer,
    **{name: partial(_preprocessor, name) for name in PREPROCESSORS},
    **{name: partial(_decoder, name) for name in DECODERS},
    **{name: partial(_postprocessor, name) for name in POSTPROCESSORS},
    "PerceiverTrainablePositionEncoding": _trainable_positions,
    "PerceiverFourierPositionEncoding": _function("forward", {"pos"}, _ENCODING, _fourier_encoding),
    "generate_fourier_features": _function("generate_fourier_features", {"pos"}, _FEATURES, _fourier_features),
    "build_linear_positions": _function(
        "build_linear_positions", set(), {"index_dims": None, "output_range": (-1.0, 1.0)}, _linear_positions
    ),
    "space_to_depth": _function(
        "space_to_depth", {"frames"}, {"temporal_block_size": 1, "spatial_block_size": 1}, _space_to_depth
    ),
}
