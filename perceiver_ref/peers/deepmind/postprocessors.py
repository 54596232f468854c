"""The postprocessors of `io_processors.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...errors import InputError, one_of
from ...models.outputs import (
    AudioOutput,
    ClassificationOutput,
    IdentityOutput,
    ImageOutput,
    MultimodalOutput,
    ProjectionOutput,
)
from ..base import REQUIRED
from ..names import Table
from .names import LINEAR, POINTWISE, UPSAMPLE_2D, UPSAMPLE_3D, Names, below
from .part import NamedPart, component, options


@dataclass(frozen=True)
class Strided(ImageOutput):
    """DeepMind's conv1x1 postprocessor takes `space` as a stride and so shrinks its input."""

    def laid_out(self, x: Any) -> Any:
        step = slice(None, None, self.space)
        return ops.getitem(super().laid_out(x), index=(slice(None), step, step))


def _identity(kwargs: Mapping[str, Any], inputs: int, names: Names, ours: str) -> NamedPart:
    options("IdentityPostprocessor", kwargs, {"name": None})
    return NamedPart(IdentityOutput())


def _linear(cls: Any, what: str, default: str, key: str, extra: Mapping[str, Any] | None = None) -> Any:
    """A postprocessor that is one linear map, to as many channels as the option `key` says."""

    def build(kwargs: Mapping[str, Any], inputs: int, names: Names, ours: str) -> NamedPart:
        chosen = options(what, kwargs, {key: REQUIRED if extra is None else 96, "name": None, **(extra or {})})
        for option, value in (extra or {}).items():
            if chosen[option] != value:
                raise one_of(option, str(chosen[option]), (value,))
        name = names(chosen["name"] or default)
        points = [(f"{name}/linear/output", f"{ours}.linear"), (f"{name}/output", ours)]
        return NamedPart(cls(inputs, chosen[key]), {"linear": (f"{name}/linear", LINEAR)}, points)

    return build


_IMAGE = {
    "postproc_type": "pixels",
    "spatial_upsample": 1,
    "temporal_upsample": 1,
    "n_outputs": -1,
    "input_reshape_size": None,
    "name": None,
}
_KINDS = {"pixels": "pixels", "patches": "patches", "conv1x1": "linear", "conv": "conv"}


def _image(kwargs: Mapping[str, Any], inputs: int, names: Names, ours: str) -> NamedPart:
    chosen = options("ImagePostprocessor", kwargs, _IMAGE)
    name = names(chosen["name"] or "image_postprocessor")
    kind, space, time = chosen["postproc_type"], chosen["spatial_upsample"], chosen["temporal_upsample"]
    if kind not in _KINDS:
        raise one_of("postproc_type", str(kind), _KINDS)
    if kind == "pixels" and (space, time) != (1, 1):
        raise InputError("postproc_type 'pixels' does not upsample")
    if kind == "conv1x1" and time != 1:
        raise InputError("postproc_type 'conv1x1' does not upsample in time")
    if kind in ("conv", "conv1x1") and chosen["n_outputs"] == -1:
        raise InputError(f"postproc_type {kind!r} needs n_outputs")
    grid = None if chosen["input_reshape_size"] is None else tuple(chosen["input_reshape_size"])
    cls = Strided if kind == "conv1x1" else ImageOutput
    outputs = inputs if chosen["n_outputs"] == -1 else chosen["n_outputs"]
    model = cls(inputs, outputs, _KINDS[kind], grid, space, time)  # type: ignore[arg-type]
    if kind == "conv":
        module = f"{name}/~/conv{2 if time == 1 else 3}_d_upsample"
        points = upsample_points(module, f"{ours}.upsample", time != 1)
        table = below(f"{module}/~", UPSAMPLE_2D) if time == 1 else below(module, UPSAMPLE_3D)
        return NamedPart(model, table, [(f"{name}/output", ours), *points])
    return NamedPart(model, {"linear": (f"{name}/~/conv2_d", POINTWISE)}, [(f"{name}/output", ours)])


def upsample_points(theirs: str, ours: str, video: bool) -> list[tuple[str, str]]:
    """The trace points of a Conv2DUpsample or Conv3DUpsample."""
    rows = [(f"{theirs}/output", ours)]
    if not video:
        return rows + [(f"{theirs}/~/transp_conv_{i + 1}/output", f"{ours}.{i}") for i in range(2)]
    return rows + [(f"{theirs}/conv3d_transpose_{i}/output", f"{ours}.{i}") for i in range(16)]


def _multimodal(kwargs: Mapping[str, Any], inputs: Any, names: Names, ours: str) -> NamedPart:
    """`inputs` is one width, or a dict of them by modality."""
    known = {"modalities": REQUIRED, "input_is_dict": False, "name": None}
    chosen = options("MultimodalPostprocessor", kwargs, known)
    parts = {
        m: build(given, inputs[m] if isinstance(inputs, Mapping) else inputs, names, f"{ours}.{m}")
        for m, given in chosen["modalities"].items()
    }
    table: Table = {m: ("", part.table) for m, part in parts.items()}
    model = MultimodalOutput({m: part.model for m, part in parts.items()})
    return NamedPart(model, table, [row for part in parts.values() for row in part.points])


POSTPROCESSORS: dict[str, Any] = {
    "AudioPostprocessor": _linear(
        AudioOutput, "AudioPostprocessor", "audio_postprocessor", "samples_per_patch", {"postproc_type": "patches"}
    ),
    "ClassificationPostprocessor": _linear(
        ClassificationOutput, "ClassificationPostprocessor", "classification_postprocessor", "num_classes"
    ),
    "ProjectionPostprocessor": _linear(
        ProjectionOutput, "ProjectionPostprocessor", "projection_postprocessor", "num_outputs"
    ),
    "IdentityPostprocessor": _identity,
    "ImagePostprocessor": _image,
    "MultimodalPostprocessor": _multimodal,
}


def build(given: Any, inputs: Any, names: Names, ours: str = "output") -> NamedPart:
    """The postprocessor of a configuration; its points lie below `ours`."""
    cls, kwargs = component(given, "output_postprocessor")
    if cls not in POSTPROCESSORS:
        raise one_of("output_postprocessor", cls, POSTPROCESSORS)
    part: NamedPart = POSTPROCESSORS[cls](kwargs, inputs, names, ours)
    return part
