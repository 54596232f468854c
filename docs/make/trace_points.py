"""The names of all traced points, as one table: what `trace` gives for every model here, and docs/TRACE.md.

Written out anew by `python docs/make trace > docs/TRACE.md`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Point:
    """A traced value: name (numbers and modalities in angle brackets), what it is, and its shape.

    `kinds`: the places where it is found, "" for a name that stands on its own.
    """

    name: str
    what: str
    shape: str
    kinds: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Place:
    """A part with points inside, whose names follow its own and a dot. Its own name stands for its result."""

    name: str
    kind: str
    what: str
    shape: str


_LAYERS = ("cross", "self", "resampler", "gated", "pool")

PLACES = (
    Place(
        "encoder.cross_attention", "cross", "latents after attending to the inputs, where that is done once", "B, N, D"
    ),
    Place("encoder.cross_attention.<block>", "cross", "the same, where it is done before several blocks", "B, N, D"),
    Place("encoder.blocks.<block>.<layer>", "self", "latents after a layer of self-attention", "B, N, D"),
    Place("decoder.cross_attention", "cross", "outputs after attending to the latents", "B, O, E"),
    Place("resampler.layers.<layer>", "resampler", "latents of every medium after a layer", "B, m, N, D or B, N, D"),
    Place("pool", "pool", "what learned queries get of one set of features", "B, N, E or B, E"),
    Place("vision.layers.<layer>", "self", "patches of every image after a layer", "F, S, C"),
    Place("gated.<block>", "gated", "text after a gated cross-attention", "B, L, D"),
    Place("language.layers.<layer>", "self", "text after a layer of the language model", "B, L, D"),
    Place("cross_attention.<layer>", "cross", "Perceiver AR: latents after attending to the inputs", "B, N, D"),
    Place("layers.<layer>", "self", "Perceiver AR: latents after a layer of self-attention", "B, N, D"),
    Place("input", "input", "what the latents attend to", "B, M, C"),
    Place("input.<modality>", "input", "elements of one modality, with their positions", "B, M, C"),
    Place("decoder.queries", "queries", "the queries", "B, O, E"),
    Place("decoder.queries.<modality>", "queries", "queries of one modality, padded to a common width", "B, O, E"),
    Place("output", "output", "what the model gives", "as given"),
    Place("output.<modality>", "output", "what the model gives for one modality", "as given"),
)
"""Places of layers and modalities."""

POINTS = (
    Point("query_norm", "the latents or queries normed", "..., N, D", ("cross",)),
    Point("key_value_norm", "what is attended to normed", "..., M, C", ("cross",)),
    Point("projected", "features after a linear map", "B, S, D", ("pool",)),
    Point("features_norm", "features, of a medium or all, normed", "..., S, D", ("resampler", "pool")),
    Point("latents_norm", "the latents normed; of a pool, (N, D)", "..., N, D", ("resampler", "pool")),
    Point("norm", "the input of attention normed", "..., N, D", ("self", "gated")),
    Point("attention.query", "queries, all heads side by side", "..., N, H d", _LAYERS),
    Point("attention.key", "keys, all heads side by side", "..., M, H d", _LAYERS),
    Point("attention.value", "values, all heads side by side", "..., M, H e", _LAYERS),
    Point("attention.query_norm", "queries of each head normed, with `qk_norm`", "..., H, N, d", ("gated", "pool")),
    Point("attention.key_norm", "keys of each head normed, with `qk_norm`", "..., H, M, d", ("gated", "pool")),
    Point("attention.weights", "what multiplies the values (1)", "..., H, N, M", _LAYERS),
    Point("attention.softmax", "the same, with rows that see nothing uniform instead of 0", "..., H, N, M", _LAYERS),
    Point("attention.mixed", "weighted sums of values, all heads side by side", "..., N, H e", _LAYERS),
    Point("attention", "the same after the last linear map", "..., N, D", _LAYERS),
    Point("attention_seen", "0 for tokens before any medium", "B, L, D", ("gated",)),
    Point("attention_gated", "times tanh of the gate", "B, L, D", ("gated",)),
    Point("attention_residual", "the sum of the input and what attention gives", "..., N, D", _LAYERS),
    Point("mlp_norm", "the input of the MLP normed", "..., N, D", _LAYERS),
    Point("mlp.hidden", "after its first linear map", "..., N, K", _LAYERS),
    Point("mlp.gate", "after the linear map of the gate, for GEGLU and its like", "..., N, K", _LAYERS),
    Point("mlp.gate_activation", "the gate after the activation, for GEGLU and its like", "..., N, K", _LAYERS),
    Point("mlp.activation", "after the activation function", "..., N, K", _LAYERS),
    Point("mlp", "after its last linear map", "..., N, D", _LAYERS),
    Point("mlp_gated", "times tanh of the gate", "B, L, D", ("gated",)),
    Point("norm", "after all that, normed", "B, N, D", ("pool",)),
    Point("output", "after the last linear map", "B, N, E", ("pool",)),
    Point("embedding", "rows of the table for each token", "B, M, C", ("input",)),
    Point("features", "elements without positions", "B, M, C", ("input",)),
    Point("linear", "features of patches after their linear map", "B, *grid, C", ("input",)),
    Point("<layer>.convolution", "after a convolution, frames along the batch", "F, h, w, C", ("input",)),
    Point("<layer>.norm", "the same after batch normalisation", "F, h, w, C", ("input",)),
    Point("stem", "after all convolutions and poolings", "F, h, w, C", ("input",)),
    Point("grid", "coordinates of a grid's places", "*grid, axes", ("input", "queries")),
    Point("positions", "encoded positions, learned or Fourier features", "M, C", ("input", "queries")),
    Point("projected_positions", "the same after a linear map", "M, C", ("input", "queries")),
    Point("position_layers.<layer>", "what a layer adds to the positions", "M, C", ("input",)),
    Point("padding", "what widens a modality to the common width", "1, C", ("input", "queries")),
    Point("mask", "what stands in place of a masked element", "1, C", ("input",)),
    Point("padded", "elements of the common width, some of them masked", "B, M, C", ("input",)),
    Point("own", "queries before they are widened", "B, O, C", ("queries",)),
    Point("linear", "after the linear map", "B, O, E", ("output",)),
    Point("upsample.<layer>", "after a transposed convolution, frames along the batch", "F, h, w, C", ("output",)),
    Point("upsample", "after all of them", "F, h, w, C", ("output",)),
    Point("encoder.latents", "the learned latents, or those given", "B, N, D"),
    Point("encoder", "the latents at the end", "B, N, D"),
    Point("decoder.mean", "the latents averaged, for Perceiver's projection", "B, D"),
    Point("decoder.output", "after the last linear map", "B, O, E"),
    Point("decoder", "what the decoder gives: of a classifier, its only output", "B, O, E or B, E or B, *grid, E"),
    Point("vision.patches", "patches of every image after their linear map", "F, S, C"),
    Point("vision", "features of all media, by frame", "B, m, T, S, C"),
    Point("resampler.features", "with embeddings of frames, or of one set", "B, m, T S, D or B, S, D"),
    Point("resampler.positions", "learned positions of one set of features", "S, C"),
    Point("resampler.projected", "features after their linear map", "..., S, D"),
    Point("resampler.pooled.norm", "the mean of mapped features, normed", "B, D"),
    Point("resampler.pooled.linear", "all latents that are made of it, side by side", "B, P D"),
    Point("resampler.pooled", "the same, apart", "B, P, D"),
    Point("resampler.latents", "the latents at the start", "B, m, N, D or B, N, D"),
    Point("resampler.output", "the latents after the last linear map", "B, N, E"),
    Point("resampler", "the latents at the end, normed", "B, m, N, D or B, N, D"),
    Point("language.embedding", "rows of the table for each token", "B, L, D"),
    Point("language.input", "the same with positions", "B, L, D"),
    Point("language.norm", "text after all layers, normed", "B, L, D"),
    Point("language.logits", "logits of the next token", "B, L, V"),
    Point("embedding", "Perceiver AR: rows of the table for each token", "B, M, C"),
    Point("positions", "Perceiver AR: rows of the table of positions", "B, M, C"),
    Point("input", "Perceiver AR: tokens with positions", "B, M, C"),
    Point("latents", "Perceiver AR: the last tokens, as latents", "B, N, D"),
    Point("final", "Perceiver AR: latents after all layers, normed where the model does that", "B, N, D"),
    Point("logits", "Perceiver AR: logits of the next token", "B, N, V"),
)  # fmt: skip
"""All points: those of places, in the order of computation, and those that stand on their own."""

ARRANGEMENTS = (
    Point("attention.key_value", "keys and values side by side, as one linear map gives them", "..., M, H (d + e)"),
    Point("attention.keys", "Perceiver AR: keys of prefix and latents together", "B, M, H d"),
    Point("attention.values", "Perceiver AR: values of prefix and latents together", "B, M, H e"),
    Point("attention.query.heads", "`attention.query` with an axis of heads", "..., H, N, d"),
    Point("attention.key.heads", "`attention.key` with an axis of heads", "..., H, M, d"),
    Point("attention.mixed.heads", "`attention.mixed` with an axis of heads", "..., H, N, e"),
    Point("attention.queries_first", "of a pool, `attention` with queries before the batch", "N, B, D"),
    Point("latents_norm.batch", "of a pool, `latents_norm` repeated for the batch", "B, N, D"),
    Point("attention.weights.flat", "`attention.weights` with batch and heads on one axis", "B H, N, M"),
    Point("attention_residual.flat", "`attention_residual` with batch and latents on one axis", "B N, D"),
    Point("attention_gate", "tanh of the gate on attention", "1 or D"),
    Point("mlp_gate", "tanh of the gate on the MLP", "1 or D"),
    Point("mlp.hidden_gate", "channels and gates of a gated MLP side by side", "..., N, 2 K"),
    Point("patches", "blocks of pixels before their linear map", "B, *grid, C"),
    Point("<layer>.padded", "the input of a convolution with its padding", "F, h, w, C"),
    Point("<layer>.activation", "after the activation function behind a convolution", "F, h, w, C"),
    Point("convolution", "after a convolution of width 1", "B, *grid, C"),
)
"""Values that have points of their own, or follow from them, as other implementations arrange them."""

_KINDS = {
    "cross": "a cross-attention",
    "self": "a self-attention",
    "resampler": "a layer of the resampler",
    "pool": "an attention pooler",
    "gated": "a gated cross-attention",
    "input": "an input",
    "queries": "queries",
    "output": "an output",
}
_LETTERS = """\
Shapes: B batch, M inputs, N latents (inside an attention: whatever attends), O outputs, L text, m media of an example,
T frames of a medium, S tokens of a frame, F images of the whole batch; C, D, E, K, V channels; H heads, d and e their
channels; `...` any axes. (1) Maps of more than 4 million elements only where `trace(only)` asks for their names."""


def main(arguments: Sequence[str]) -> int:
    """The command: prints the page."""
    print(markdown(), end="")
    return 0


def rows(name: str) -> list[Point | Place]:
    """The rows that a traced name has: one, but for the few names that two models use; none for an unknown name.

    A layer that is run alone, outside of a model, has the points of its kind without a place before them, and the empty
    name for its result.
    """
    bare = re.sub(r"@\d+$", "", name)
    return [row for pattern, row in _patterns() if pattern.fullmatch(bare)]


def markdown() -> str:
    """docs/TRACE.md."""
    return "\n".join(_markdown()) + "\n"


@cache
def _patterns() -> list[tuple[re.Pattern[str], Point | Place]]:
    made: list[tuple[re.Pattern[str], Point | Place]] = [(_pattern(place.name), place) for place in PLACES]
    for point in POINTS:
        for kind in point.kinds:
            places = "|".join(_pattern(place.name).pattern for place in PLACES if place.kind == kind)
            before = rf"(?:(?:{places})\.)?" if places else ""
            made.append((re.compile(before + _pattern(point.name).pattern), point))
    return made


def _pattern(name: str) -> re.Pattern[str]:
    """A name with `<modality>` for a word and other `<...>` for numbers."""
    text = re.escape(name).replace("<modality>", r"[a-z_]+")
    return re.compile(re.sub(r"<\w+>", r"\\d+", text))


def _markdown() -> list[str]:
    lines = [
        "# Names of traced points",
        "",
        "`with pr.trace() as t: model.apply(...)` fills `t` with these names, in the order of computation, and",
        "`perceiver-ref run --trace` writes them. The same part has the same names in every model. A name that occurs",
        "again gets `@1`, `@2` and so on at its end. A layer that is run alone has the names of its kind without",
        "anything before them, and the empty name for its result.",
        "",
        "This page is made of the table in [trace_points.py](make/trace_points.py):",
        "`python docs/make trace > docs/TRACE.md`.",
        "",
        _LETTERS,
        "",
        "## Parts",
        "",
        "Each name stands for the part's result, and before the names of the points inside.",
        "",
        "| name | what it is | shape | points inside |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{p.name}` | {p.what} | {_shape(p.shape)} | of {_KINDS[p.kind]} |" for p in PLACES]
    for kind, title in _KINDS.items():
        lines += ["", f"## Inside {title}", "", "| name | what it is | shape |", "| --- | --- | --- |"]
        lines += [_line(point) for point in POINTS if kind in point.kinds]
    lines += ["", "## Others", "", "| name | what it is | shape |", "| --- | --- | --- |"]
    lines += [_line(point) for point in POINTS if "" in point.kinds]
    return lines + _arrangements()


def _arrangements() -> list[str]:
    """The section of what only a set of names asks for."""
    return [
        "",
        "## As others arrange them",
        "",
        "A trace of a set of names, `pr.trace({name, ...})`, may also have these, at the ends of names; no other trace",
        "has them. `check` and `diagnose` compare modules of other implementations with them. Images are there with",
        "channels first, `<name>.channels_first`; so are the other points of convolutions.",
        "",
        "| name | what it is | shape |",
        "| --- | --- | --- |",
        *map(_line, ARRANGEMENTS),
    ]


def _line(point: Point) -> str:
    return f"| `{point.name}` | {point.what} | {_shape(point.shape)} |"


def _shape(shape: str) -> str:
    return " or ".join(f"({part})".replace("*", r"\*") if part != "as given" else part for part in shape.split(" or "))
