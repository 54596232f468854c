"""transformers' decoders and postprocessors, from their class names and keyword arguments, as ours with their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import ClassificationDecoder, Decoder, GridDecoder, ProjectionDecoder
from ...outputs import AudioOutput, ClassificationOutput, MultimodalOutput, ProjectionOutput
from ...position import TrainablePositions
from ...queries import MultimodalQueries
from ..base import options
from ..names import Rows, below, renamed, same
from .config import attend_in, conventions
from .names import (
    CLASSIFIER,
    DECODER,
    DECODER_POINTS,
    PROJECTION,
    QUERIES,
    QUERIES_POINTS,
    Component,
    by_modality,
)
from .preprocessors import POSITIONS, Config, Shapes, choose, component, positions, require
from .quirks import FlattenedGridQueries, FlowQueries, InputSizedDecoder

_BASIC: dict[str, Any] = {
    **POSITIONS,
    "position_encoding_type": "trainable",
    "output_num_channels": None,
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
    "position_encoding_only": False,
    "out_channels": None,
}


def _decoder(config: Config, kwargs: Mapping[str, Any], what: str, cls: Any = Decoder, **own: Any) -> Decoder:
    """The PerceiverBasicDecoder at the bottom of each decoder."""
    chosen = options(what, kwargs, _BASIC)
    queries = own.pop("queries", None) or _queries(config, what, chosen)
    made: Decoder = cls(
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
        attend_in=attend_in(config),
        **own,
    )
    return made


def _queries(config: Config, what: str, chosen: Mapping[str, Any]) -> FlattenedGridQueries | None:
    if choose(what, chosen, "position_encoding_type", ("trainable", "fourier", "none")) == "none":
        return None
    encoding = positions(config, what, chosen)
    dims = chosen["output_index_dims"]
    if chosen["position_encoding_type"] == "trainable":
        base = encoding if isinstance(encoding, TrainablePositions) else getattr(encoding, "encoding", None)
        dims = base.size if isinstance(base, TrainablePositions) else None
    index_dims = () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    return FlattenedGridQueries(
        encoding, index_dims, bool(chosen["concat_preprocessed_input"]), conventions=conventions(config)
    )


def _component(module: Decoder, inner: bool) -> Component:
    """Names of a decoder of one modality; `inner` ones hold a PerceiverBasicDecoder as their `decoder`."""
    rows: Rows = [*below("", "queries", QUERIES_POINTS), *DECODER_POINTS]
    if not inner:
        return Component(module, DECODER, [("", ""), *rows])
    return Component(module, renamed("decoder", DECODER), [("", ""), *below("decoder", "", [("", "output"), *rows])])


def basic(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverBasicDecoder."""
    return _component(_decoder(config, kwargs, "PerceiverBasicDecoder"), inner=False)


def classification(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverClassificationDecoder."""
    given = {**kwargs, "output_num_channels": config["num_labels"], "output_index_dims": 1}
    return _component(_decoder(config, given, "PerceiverClassificationDecoder", ClassificationDecoder), inner=True)


def flow(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverOpticalFlowDecoder."""
    what = "PerceiverOpticalFlowDecoder"
    own = {"output_image_shape": None, "rescale_factor": 100.0, "output_num_channels": 2}
    known = {**own, **{key: value for key, value in _BASIC.items() if key not in own}}
    chosen = options(what, kwargs, known)
    require(what, chosen, "output_image_shape")
    kind = choose(what, chosen, "position_encoding_type", ("trainable", "fourier", "none"))
    unused = None if kind == "none" else positions(config, what, chosen)
    module = _decoder(
        config,
        {key: value for key, value in chosen.items() if key in _BASIC},
        what,
        GridDecoder,
        queries=FlowQueries(chosen["num_channels"], unused),
        grid=tuple(chosen["output_image_shape"]),
        rescale=chosen["rescale_factor"],
    )
    return _component(module, inner=True)


def video(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverBasicVideoAutoencodingDecoder; `output_shape` is (batch, time, height, width)."""
    what = "PerceiverBasicVideoAutoencodingDecoder"
    chosen = options(what, kwargs, {"output_shape": None, **_BASIC})
    require(what, chosen, "output_shape")
    grid = tuple(chosen.pop("output_shape"))[1:]
    return _component(_decoder(config, {**chosen, "output_index_dims": grid}, what, GridDecoder, grid=grid), inner=True)


def multimodal(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverMultimodalDecoder: its modalities' decoders only make queries."""
    what = "PerceiverMultimodalDecoder"
    own = {"modalities": None, "num_outputs": None, "min_padding_size": 2}
    known = {**own, **{key: value for key, value in _BASIC.items() if key not in POSITIONS}}
    chosen = options(what, kwargs, known)
    require(what, chosen, "modalities")
    queries: dict[str, FlattenedGridQueries] = {}
    table: dict[str, Any] = {}
    points: Rows = []
    for name, given in chosen["modalities"].items():
        part = component("decoder of a modality", _OF_A_MODALITY, config, given).module
        inner = "" if type(part) is Decoder else ".decoder"
        only = (given.get("kwargs") or {}).get("position_encoding_only", False)
        queries[name] = part.queries
        if not only:
            declared = part.query_channels if part.outputs is None else part.outputs
            queries[name] = replace(part.queries, declared=declared, unused=replace(part, queries=None))
        table[f"queries/modalities/{name}"] = (f"modalities.{name}{inner}", QUERIES)
        table[f"queries/padding/{name}"] = (f"padding.{name}", same)
        points += below(f"modalities.{name}{inner}", f"queries.{name}", QUERIES_POINTS)
    made = MultimodalQueries(queries, chosen["min_padding_size"])
    given = {key: value for key, value in chosen.items() if key in _BASIC} | {"num_channels": made.channels}
    module = _decoder(config, given, what, InputSizedDecoder, queries=made)
    shared = {path: row for path, row in renamed("decoder", DECODER).items() if path != "queries"}
    points += below("decoder", "", [("", "output"), *DECODER_POINTS])
    return Component(module, {**table, **shared}, [("", ""), *points])


def projection(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverProjectionDecoder."""
    options("PerceiverProjectionDecoder", kwargs, {})
    return Component(
        ProjectionDecoder(config["d_latents"], config["num_labels"]), PROJECTION, [("", ""), ("classifier", "")]
    )


_OF_A_MODALITY: dict[str, Any] = {
    "PerceiverBasicDecoder": basic,
    "PerceiverBasicVideoAutoencodingDecoder": video,
    "PerceiverClassificationDecoder": classification,
}
DECODERS: dict[str, Any] = {
    **_OF_A_MODALITY,
    "PerceiverMultimodalDecoder": multimodal,
    "PerceiverOpticalFlowDecoder": flow,
    "PerceiverProjectionDecoder": projection,
}


def _linear(cls: Any, what: str, outputs: str) -> Any:
    """A postprocessor of one linear map: its class, and where the peer finds the number of outputs."""

    def build(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
        known: dict[str, Any] = {"in_channels": None, **({outputs: None} if outputs == "out_channels" else {})}
        known |= {"postproc_type": "patches"} if cls is AudioOutput else {}
        chosen = options(what, kwargs, known)
        require(what, chosen, *(name for name in known if name != "postproc_type"))
        if cls is AudioOutput:
            choose(what, chosen, "postproc_type", ("patches",))
        module = cls(chosen["in_channels"], chosen[outputs] if outputs in chosen else config[outputs])
        return Component(module, CLASSIFIER, [("", ""), ("classifier", "linear|")])

    return build


def multimodal_output(config: Config, kwargs: Mapping[str, Any], shape: Shapes = None) -> Component:
    """A PerceiverMultimodalPostprocessor."""
    what = "PerceiverMultimodalPostprocessor"
    chosen = options(what, kwargs, {"modalities": None, "input_is_dict": False})
    require(what, chosen, "modalities")
    parts = {
        name: component("postprocessor", POSTPROCESSORS, config, given) for name, given in chosen["modalities"].items()
    }
    table, points, _ = by_modality(parts, parts)
    points += [(name, name) for name in parts]  # what it returns, by modality
    return Component(MultimodalOutput({name: part.module for name, part in parts.items()}), table, points)


POSTPROCESSORS: dict[str, Any] = {
    name: _linear(cls, name, outputs)
    for name, cls, outputs in (
        ("PerceiverAudioPostprocessor", AudioOutput, "samples_per_patch"),
        ("PerceiverClassificationPostprocessor", ClassificationOutput, "num_labels"),
        ("PerceiverProjectionPostprocessor", ProjectionOutput, "out_channels"),
    )
}
POSTPROCESSORS["PerceiverMultimodalPostprocessor"] = multimodal_output
