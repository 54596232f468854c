"""docs/MODELS.md: `python docs/make models > docs/MODELS.md`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from perceiver_ref.peers.reference.configuration import TYPES
from perceiver_ref.peers.reference.models import CALLERS

from .activations import ACTIVATIONS
from .arguments import ARGUMENTS
from .courses import MODELS, ROUTINES
from .fields import FIELDS

_INTRO = """\
# The models, for a port in another language

What each model computes, without Python: its inputs, every field of its configuration, and its course, point by point
in the order in which they are computed. Configurations are the `config` of cases and of `export`
([VECTORS.md](VECTORS.md)), `{"type": ..., every field}` with parts nested; parameters are called by their place in
them, weights are (inputs, outputs). The output is `output/out`, those of several modalities `output/out.<modality>`.
The equations with their sources are in [SPEC.md](SPEC.md), shapes of all points in [TRACE.md](TRACE.md). Each line with
`=` below a place is a traced point, `trace/<place>.<name>` of a case: a port that records them under these names is
compared line by line.

In what follows norm is layer norm, or RMS norm with `conventions.norm` "rms": (x - mean) / sqrt(variance + norm_eps) *
scale + offset over the last axis, the variance being the mean of squares; or L2 norm with "l2": x / max(|x|, norm_eps)
* sqrt(D) * scale, |x| being the length of the last axis, of size D. A term b is left out where the conventions
say that there is none. Numbers count from 0.

This page is made of the tables in [docs/make/descriptions](make/descriptions), which a test holds against the classes
and their traces: `python docs/make models > docs/MODELS.md`.
"""
_PARTS = (
    ("Layers", ("Attention", "MLP", "LayerNorm", "RMSNorm", "L2Norm", "BatchNorm", "Rotary")),
    ("Models that commands save", ("Flamingo", "LanguageModel", "PatchEncoder", "Features", "Pointing")),
    ("Conventions", ("Conventions",)),
    ("Encoder and decoders", ("Encoder", "Decoder", "ClassificationDecoder", "GridDecoder", "ProjectionDecoder")),
    (
        "Preprocessors",
        (
            *("TextInput", "GridInput", "MultimodalInput", "OneHotInput", "PointInput", "VectorInput"),
            *("Pixels", "Patches", "Conv1x1", "ConvStem", "AudioPatches"),
        ),
    ),
    ("Positions", ("FourierPositions", "TrainablePositions", "ProjectedPositions")),
    ("Queries", ("PositionQueries", "InputQueries", "MultimodalQueries")),
    (
        "Postprocessors",
        (
            *("IdentityOutput", "ProjectionOutput", "ClassificationOutput", "AudioOutput", "ImageOutput"),
            *("MultimodalOutput", "TiedEmbedding"),
        ),
    ),
)
"""Types that are parts of models, by section."""


@dataclass(frozen=True)
class Line:
    """A line of a course at full length: how deep it stands, whether it opens a loop, and the pattern of its point."""

    depth: int
    loop: bool
    point: re.Pattern[str] | None
    text: str


def main(arguments: Sequence[str]) -> int:
    """The command: prints the page."""
    print(markdown(), end="")
    return 0


def course(name: str) -> list[Line]:
    """The lines of a model with those of all routines in their places."""
    return list(_lines(MODELS[name][1], "", 0))


def _lines(text: str, place: str, depth: int) -> Iterator[Line]:
    for row in text.strip("\n").splitlines():
        stripped = row.strip()
        own = depth + (len(row) - len(row.lstrip())) // 4
        if stripped.startswith("@"):
            routine, where, _ = _call(stripped)
            yield from _lines(ROUTINES[routine][1], _joined(place, where), own)
        elif ":=" in stripped:
            yield Line(own, False, _pattern(_joined(place, stripped.partition(" := ")[0])), stripped)
        else:
            yield Line(own, stripped.startswith("for "), None, stripped)


def _call(row: str) -> tuple[str, str, str]:
    """(routine, place, of what) of a line that begins with @."""
    call, _, rest = row.partition(" | ")
    routine, where = call.removeprefix("@").split(" ")
    return routine, where, rest


def _joined(place: str, name: str) -> str:
    return place if name == "." else f"{place}.{name}" if place else name


def _pattern(name: str) -> re.Pattern[str]:
    escaped = re.escape(name).replace(r"\[", "(?:").replace(r"\]", ")?")
    escaped = escaped.replace("<modality>", "[a-z_]+")
    return re.compile(re.sub(r"<\w+>", r"\\d+", escaped))


def markdown() -> str:
    """docs/MODELS.md."""
    lines = [_INTRO, "## What all of them are made of", "", "```text"]
    for name, text in ROUTINES.values():
        lines += [name, *(f"    {row}" for row in _shown(text)), ""]
    lines[-1] = "```"
    for name, (title, text) in MODELS.items():
        lines += ["", f"## {title}", "", f"Class `{name}`. It is called with:", "", *_arguments(name)]
        lines += ["", "Its course:", "", "```text", *_shown(text), "```", ""]
        lines += _fields(name)
        if name == "GatedLayers":
            lines += ["", *_fields("GatedCrossAttention")]
    for title, types in _PARTS:
        lines += ["", f"## {title}"]
        for name in types:
            lines += ["", *_fields(name)]
            if name == "Conventions":
                rows = [f"| `{activation}` | `{formula}` |" for activation, formula in ACTIVATIONS.items()]
                lines += ["", "Activations:", "", "| activation | of x |", "| --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def _shown(text: str) -> list[str]:
    made = []
    for row in text.strip("\n").splitlines():
        indent, stripped = row[: len(row) - len(row.lstrip())], row.strip()
        if stripped.startswith("@"):
            routine, where, rest = _call(stripped)
            stripped = f"{routine}" + ("" if where == "." else f" at {where}") + f", {rest}"
        else:
            name, found, value = stripped.partition(" := ")
            value, _, condition = value.partition(" ? ")
            name = "(the place's own)" if name == "." else name
            stripped = f"{name} = {value}" + (f"      [{condition}]" if condition else "") if found else stripped
        made.append(indent + stripped)
    return made


def _arguments(name: str) -> list[str]:
    caller = next(c for cls, c in CALLERS.items() if cls.__name__ == name)
    kinds = {**dict.fromkeys(caller.required, "array"), **dict.fromkeys(caller.optional, "array, optional")}
    kinds |= {key: f"in `call`, {_json(value)} by default" for key, value in caller.options.items()}
    rows = [f"| `{key}` | {kind} | {ARGUMENTS[name][key]} |" for key, kind in kinds.items()]
    return ["| argument | | what |", "| --- | --- | --- |", *rows]


def _fields(name: str) -> list[str]:
    cls = TYPES[name]
    lines = [f"Fields of `{name}`:" if FIELDS[name] else f"`{name}` has no fields.", ""]
    if not FIELDS[name]:
        return lines[:1]
    lines += ["| field | type | default | what |", "| --- | --- | --- | --- |"]
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        literal = get_origin(hints[f.name]) is Literal
        kind = " or ".join(_json(value) for value in get_args(hints[f.name])) if literal else _type(str(f.type))
        lines.append(f"| `{f.name}` | {kind} | {_default(f)} | {FIELDS[name][f.name]} |")
    return lines


def _type(annotation: str) -> str:
    """An annotation in JSON's words."""
    made = re.sub(r"Literal\[(.*?)\]", lambda m: m[1].replace("'", '"').replace('", "', '" or "'), annotation)
    words = {"None": "null", "bool": "true or false", "float": "number", "Count": "whole number", "int": "whole number"}
    words |= {"NotNegative": "number", "Share": "number"}
    parts = [words.get(part.strip(), part.strip()) for part in made.split("|")]
    return ", ".join(re.sub(r"\bint\b|\bCount\b", "whole number", part) for part in parts).replace("|", r"\|")


def _default(field: Any) -> str:
    if field.default is dataclasses.MISSING:
        return ""
    if dataclasses.is_dataclass(field.default):
        return "DeepMind's" if getattr(field.default, "activation", "") == "gelu_tanh" else "the model's own"
    return f"`{_json(field.default)}`"


def _json(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_json, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
