"""The conformance pack: a few cases of every kind of model and each operation alone, small enough for a repository."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...models.module import Module
from ...models.perceiver_ar import PerceiverAR
from ...models.published import preset
from ...models.rotary import Rotary, frequencies
from ...peers.reference import NAME, rebuilt, to_config
from ..cases import Case
from .adversarial import rows
from .layouts import layout
from .make import ExportOptions, make
from .operations import OPERATIONS
from .small import Small, reductions, small
from .subject import Exported

_SMALL = Small(latents=5, channels=12, width=9, head=5, layers=2, length=7, bands=2, side=5)
_DEEP = replace(_SMALL, layers=3)
"""Where blocks repeat: with as many layers as blocks, two orders of them may be one."""
_CONVOLVED = replace(_DEEP, side=3, width=23)
"""So many channels that of the first pixel some are what the pool takes."""
_VIDEO = replace(_SMALL, side=3, length=4, patch=1)


@dataclass(frozen=True)
class PackedModel:
    """A model of the pack: its name there, the preset that it is a small one of, its cases beside "plain"."""

    id: str
    preset: str
    cases: tuple[str, ...]
    to: Small = _SMALL


ENTRIES: tuple[PackedModel, ...] = (
    PackedModel(
        "language",
        "perceiver-io/language",
        ("padding", "masked-row", "repeated-tokens", "tiny-variance", "gelu-tails", "some-points"),
    ),
    PackedModel("image-fourier", "perceiver-io/imagenet-fourier", ("batch-1", "non-square", "own-positions"), _DEEP),
    PackedModel("image-learned", "perceiver-io/imagenet-learned", ("batch-1",), _DEEP),
    PackedModel("image-conv", "perceiver-io/imagenet-conv", ("odd-sizes",), _CONVOLVED),
    PackedModel("flow", "perceiver-io/optical-flow", ("large-outputs",), replace(_SMALL, side=4)),
    PackedModel("multimodal", "perceiver-io/multimodal", (), _VIDEO),
    PackedModel("audio-video", "perceiver-io/audioset", (), _VIDEO),
    PackedModel("entities", "perceiver-io/starcraft", ("mask-holes", "batch-1", "single")),
    PackedModel("perceiver", "perceiver/imagenet", ("batch-1", "large-logits"), replace(_DEEP, side=4)),
    PackedModel("points", "perceiver/modelnet40", ("batch-1", "padding"), replace(_DEEP, side=4)),
    PackedModel("resampler", "flamingo/resampler-3b", ("padding", "more-frames", "single")),
    PackedModel(
        "gated",
        "flamingo/gated-xattn-9b",
        ("text-before-media", "more-tags-than-media", "all-media", "gates-closed", "gates-turned"),
    ),
)

AUTOREGRESSIVE = PerceiverAR(
    vocabulary=9,
    length=8,
    latents=5,
    channels=12,
    layers=2,
    cross_heads=3,
    self_heads=3,
    cross_widening=1,
    self_widening=1,
    cross_rotary=Rotary(frequencies(4)),
    self_rotary=Rotary(frequencies(4)),
)
"""Perceiver AR, of which the papers' configurations leave more open than sizes."""


def pack(options: ExportOptions | None = None) -> Iterator[Case]:
    """Every case of the pack; traces are in the plain ones alone."""
    options = options or ExportOptions()
    for entry in ENTRIES:
        published = preset(entry.preset)
        model, sizes = small(published, entry.to)
        notes = f"{entry.preset}, reduced: {'; '.join(reductions(published, model))}"
        yield from _cases(own_subject(entry.id, entry.preset, model, sizes, notes), entry.cases, options)
    subject = own_subject("autoregressive", "PerceiverAR", AUTOREGRESSIVE, (AUTOREGRESSIVE.length,), "")
    yield from _cases(subject, ("padding", "no-prefix"), options)
    for operation in OPERATIONS:
        yield make(operation.subject, operation.row, options)


def own_subject(name: str, cls: str, model: Module, sizes: Any, notes: str) -> Exported:
    """A model of ours."""
    return Exported(name, NAME, cls, to_config(model), rebuilt(model), layout(model, sizes), notes)


def _cases(subject: Exported, chosen: tuple[str, ...], options: ExportOptions) -> Iterator[Case]:
    for row in rows(subject, ["plain", *chosen]):
        yield make(subject, row, replace(options, trace=options.trace and row.id == "plain"))
