"""The decoders of `perceiver.py`.

Their quirks: only BasicDecoder itself uses a query_mask; a trainable encoding gives all its queries whatever points are
asked for; MultimodalDecoder says how many outputs a modality has only if `subsampled_index_dims` is given, else the
postprocessor goes by the number of INPUTS; `num_z_channels` is never used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError, one_of
from ...models.conventions import DEEPMIND
from ...models.decoder import ClassificationDecoder, Decoder, GridDecoder, ProjectionDecoder
from ...models.queries import InputQueries, MultimodalQueries, Points, PositionQueries
from ..base import REQUIRED
from ..names import Table, same
from . import positions
from .encoder import CROSS_NORMS
from .names import CROSS_ATTENTION, LINEAR, POSITIONS, Names, layer_points
from .part import NamedPart, component, options


@dataclass(frozen=True)
class Sized(Decoder):
    """A decoder whose outputs are cut by `declared` sizes; None leaves the input's."""

    declared: Mapping[str, int] | None = None

    def sizes(self, points: Points | None = None) -> dict[str, int] | None:
        """As declared, whatever was decoded."""
        return None if self.declared is None else dict(self.declared)


@dataclass(frozen=True)
class Widths:
    """Of latents, preprocessed inputs, their features (by modality, where several), queries of a caller."""

    latents: int
    inputs: int | None = None
    features: Any = None
    queries: int | None = None


_BASIC = {
    "output_num_channels": REQUIRED,
    "output_index_dims": None,
    "subsampled_index_dims": None,
    "num_z_channels": 1024,
    "qk_channels": None,
    "v_channels": None,
    "use_query_residual": False,
    "output_w_init": None,
    "concat_preprocessed_input": False,
    "num_heads": 1,
    "final_project": True,
    "name": None,
    **positions.KEYS,
    "position_encoding_type": "trainable",
}


def _basic(
    kwargs: Mapping[str, Any],
    widths: Widths,
    name: str,
    cls: type[Decoder] = Decoder,
    queries: Any = None,
    theirs: str = "",
    **fields: Any,
) -> NamedPart:
    """A BasicDecoder of this full name, with its own queries unless others are given; `theirs` is the one around it."""
    chosen = options("BasicDecoder", kwargs, _BASIC)
    grids: list[str] = []
    if queries is None and chosen["position_encoding_type"] != "none":
        queries = _position_queries(chosen, widths.features)
        grids = [] if positions.is_trainable(queries.positions) else ["decoder.queries.grid"]
    channels = widths.queries if queries is None else queries.channels
    if channels is None:
        raise InputError("position_encoding_type 'none' makes no queries: give the decoder a query")
    model = cls(
        widths.latents,
        channels,
        queries=queries,
        outputs=chosen["output_num_channels"] if chosen["final_project"] else None,
        heads=chosen["num_heads"],
        qk_channels=chosen["qk_channels"],
        v_channels=chosen["v_channels"],
        query_residual=bool(chosen["use_query_residual"]),
        conventions=DEEPMIND,
        **fields,
    )
    table: Table = {
        "queries": (f"{name}/~", POSITIONS),
        "cross_attention": (f"{name}/cross_attention", CROSS_ATTENTION),
        "output": (f"{name}/output", LINEAR),
    }
    points = [
        (f"{name}/query", "decoder.queries"),
        (f"{name}/output", "decoder.output"),
        *layer_points(f"{name}/cross_attention", "decoder.cross_attention", CROSS_NORMS),
        *positions.points(f"{name}/~", "decoder.queries"),
    ]
    if theirs:
        points += [(f"{theirs}/query", "decoder.queries"), (f"{theirs}/output", "decoder")]
    return NamedPart(model, table, points, grids, ["decoder.cross_attention.attention"])


def _position_queries(chosen: Mapping[str, Any], features: Any) -> PositionQueries:
    if chosen["output_index_dims"] is None:
        raise InputError("BasicDecoder needs output_index_dims to make queries")
    index_dims = positions.dims(chosen["output_index_dims"])
    concat = bool(chosen["concat_preprocessed_input"])
    if concat and not isinstance(features, int):
        raise InputError("concat_preprocessed_input needs inputs_without_pos")
    encoding = positions.build(chosen, index_dims)
    return PositionQueries(encoding, index_dims, concat, DEEPMIND, features if concat else 0)


def _named(kwargs: Mapping[str, Any], default: str, names: Names) -> str:
    return names(kwargs.get("name") or default)


def _inner(what: str, kwargs: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A wrapping decoder's own options, and the BasicDecoder's."""
    chosen = options(what, {key: value for key, value in kwargs.items() if key in own}, own)
    return chosen, {key: value for key, value in kwargs.items() if key not in own and key != "name"}


def _basic_decoder(kwargs: Mapping[str, Any], widths: Widths, names: Names) -> NamedPart:
    return _basic(kwargs, widths, _named(kwargs, "basic_decoder", names))


def _classification(kwargs: Mapping[str, Any], widths: Widths, names: Names) -> NamedPart:
    name = _named(kwargs, "classification_decoder", names)
    chosen, rest = _inner("ClassificationDecoder", kwargs, {"num_classes": REQUIRED})
    inner = {**rest, "output_num_channels": chosen["num_classes"], "output_index_dims": (1,)}
    return _basic(inner, widths, f"{name}/~/basic_decoder", ClassificationDecoder, theirs=name)


def _video_kwargs(kwargs: Mapping[str, Any]) -> tuple[tuple[int, ...], dict[str, Any]]:
    chosen, rest = _inner("BasicVideoAutoencodingDecoder", kwargs, {"output_shape": REQUIRED})
    shape = tuple(chosen["output_shape"])
    if len(shape) != 4:
        raise InputError(f"output_shape must be (batch, time, height, width), got {shape}")
    return shape[1:], {**rest, "output_index_dims": shape[1:]}


def _video(kwargs: Mapping[str, Any], widths: Widths, names: Names) -> NamedPart:
    name = _named(kwargs, "basic_video_autoencoding_decoder", names)
    grid, inner = _video_kwargs(kwargs)
    return _basic(inner, widths, f"{name}/~/basic_decoder", GridDecoder, theirs=name, grid=grid)


def _flow(kwargs: Mapping[str, Any], widths: Widths, names: Names) -> NamedPart:
    name = _named(kwargs, "flow_decoder", names)
    own = {"output_image_shape": REQUIRED, "output_num_channels": 2, "rescale_factor": 100.0}
    chosen, rest = _inner("FlowDecoder", kwargs, own)
    if widths.inputs is None:
        raise InputError("FlowDecoder's queries are the inputs: give them")
    return _basic(
        {**rest, "output_num_channels": chosen["output_num_channels"]},
        widths,
        f"{name}/~/basic_decoder",
        GridDecoder,
        InputQueries(widths.inputs),
        name,
        grid=tuple(chosen["output_image_shape"]),
        rescale=chosen["rescale_factor"],
    )


def _projection(kwargs: Mapping[str, Any], widths: Widths, names: Names) -> NamedPart:
    chosen = options(
        "ProjectionDecoder", kwargs, {"num_classes": REQUIRED, "final_avg_before_project": False, "name": None}
    )
    name = names(chosen["name"] or "projection_decoder")
    model = ProjectionDecoder(widths.latents, chosen["num_classes"])
    return NamedPart(model, {"output": (f"{name}/~/logits", LINEAR)}, [(f"{name}/output", "decoder")])


_MULTIMODAL = {"modalities": REQUIRED, "num_outputs": None, "min_padding_size": 2, "subsampled_index_dims": None}


def _multimodal(kwargs: Mapping[str, Any], widths: Widths, names: Names) -> NamedPart:
    chosen, rest = _inner("MultimodalDecoder", kwargs, _MULTIMODAL)
    if not isinstance(widths.features, Mapping):
        raise InputError("MultimodalDecoder needs a MultimodalPreprocessor")
    members: dict[str, PositionQueries] = {}
    table: dict[str, Any] = {}
    points: list[tuple[str, str]] = []
    grids = []
    for m, given in chosen["modalities"].items():
        member, full, outer = _member(given, widths.features.get(m), names, m)
        members[m] = member
        ours = f"decoder.queries.{m}"
        table[f"modalities/{m}"] = (f"{full}/~", POSITIONS)
        points += [(f"{scope}/query", f"{ours}.own") for scope in {full, outer}]
        points += positions.points(f"{full}/~", ours)
        if not positions.is_trainable(member.positions):
            grids.append(f"{ours}.grid")
    name = _named(kwargs, "multimodal_decoder", names)
    for m in members:
        table[f"padding/{m}"] = (f"{name}/~decoder_query/{m}_padding/pos_embs", same)
        points.append((f"{name}/~decoder_query/{m}_padding/output", f"decoder.queries.{m}.padding"))
    part = _basic(
        {**rest, "position_encoding_type": "none", "concat_preprocessed_input": False},
        widths,
        f"{name}/~/basic_decoder",
        Sized,
        MultimodalQueries(members, chosen["min_padding_size"]),
        name,
        declared=chosen["subsampled_index_dims"],
    )
    # an output of several modalities is flat: the inner decoder's and the outer one's are the same
    return NamedPart(part.model, {**part.table, "queries": ("", table)}, [*points, *part.points], grids, part.layers)


def _member(given: Any, features: Any, names: Names, modality: str) -> tuple[PositionQueries, str, str]:
    """(queries, name of the BasicDecoder, name of the decoder around it) of one modality of a MultimodalDecoder."""
    cls, kwargs = component(given, f"the decoder of {modality}")
    if cls == "BasicDecoder":
        outer = full = _named(kwargs, "basic_decoder", names)
        inner = dict(kwargs)
    elif cls == "ClassificationDecoder":
        outer = _named(kwargs, "classification_decoder", names)
        chosen, inner = _inner(cls, kwargs, {"num_classes": REQUIRED})
        inner |= {"output_num_channels": chosen["num_classes"], "output_index_dims": (1,)}
    elif cls == "BasicVideoAutoencodingDecoder":
        outer = _named(kwargs, "basic_video_autoencoding_decoder", names)
        inner = _video_kwargs(kwargs)[1]
    else:
        raise one_of(f"decoder of modality {modality!r}", cls, set(DECODERS) - {"MultimodalDecoder", "FlowDecoder"})
    full = outer if cls == "BasicDecoder" else f"{outer}/~/basic_decoder"
    return _position_queries(options("BasicDecoder", inner, _BASIC), features), full, outer


DECODERS: dict[str, Any] = {
    "BasicDecoder": _basic_decoder,
    "ClassificationDecoder": _classification,
    "BasicVideoAutoencodingDecoder": _video,
    "FlowDecoder": _flow,
    "MultimodalDecoder": _multimodal,
    "ProjectionDecoder": _projection,
}


def build(given: Any, widths: Widths, names: Names) -> tuple[NamedPart, str]:
    """The decoder of a configuration, and its class."""
    cls, kwargs = component(given, "decoder", frozenset(["list_output_shape"]))
    if cls not in DECODERS:
        raise one_of("decoder", cls, DECODERS)
    part: NamedPart = DECODERS[cls](kwargs, widths, names)
    return part, cls


def wanted_points(decoder: Any, points: Any) -> Any:
    """The points that DeepMind's code heeds: those of Fourier positions."""
    queries = getattr(decoder, "queries", None)
    if points is None or isinstance(queries, InputQueries):
        if points is not None:
            raise InputError("FlowDecoder decodes all its inputs: it takes no subsampled points")
        return None
    if isinstance(queries, MultimodalQueries):
        known = queries.modalities
        unknown = sorted(set(points) - set(known))
        if unknown:
            raise one_of("modality of subsampled_output_points", unknown[0], known)
        return {m: at for m, at in points.items() if not positions.is_trainable(known[m].positions)}
    if isinstance(queries, PositionQueries) and positions.is_trainable(queries.positions):
        return None
    return points


def width_of(decoder: Decoder | ProjectionDecoder) -> int:
    """The width of a decoder's outputs."""
    if decoder.outputs is not None:
        return decoder.outputs
    assert isinstance(decoder, Decoder)
    return decoder.query_channels
