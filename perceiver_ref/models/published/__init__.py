"""The published configurations, by name (Perceiver; Perceiver IO, table 9; Flamingo, table 4; DeepMind's notebooks; and
resamplers that came later).

`presets()` are the models that the papers present, `variants()` those of their ablations and other rows of their
tables; `preset` makes either. One file for each task; every file states what its source leaves open.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import InputError, one_of
from ..conventions import DIALECTS, FLAMINGO_DIALECTS, POOLER_DIALECTS, RESAMPLER_DIALECTS, Conventions
from . import audioset, flamingo, flow, imagenet, language, perceiver, resamplers, starcraft, video
from .language import language_model
from .scaling import SIZES, scaled

PRESETS: dict[str, Callable[[Conventions], Any]] = {
    **perceiver.PRESETS,
    **imagenet.PRESETS,
    **language.PRESETS,
    **flow.PRESETS,
    **video.PRESETS,
    **audioset.PRESETS,
    **starcraft.PRESETS,
    **flamingo.PRESETS,
    **resamplers.PRESETS,
}
VARIANTS: dict[str, Callable[[Conventions], Any]] = {**perceiver.VARIANTS, **imagenet.VARIANTS, **audioset.VARIANTS}

INPUTS: dict[str, Any] = {
    "perceiver/modelnet40": (2048, 3),
    "perceiver-io/starcraft": (512, 256),
    **flamingo.INPUTS,
    **resamplers.INPUTS,
}
"""The shape of one example where the model's own positions do not give it."""

_DIALECTS: dict[str, dict[str, Conventions]] = {
    "perceiver": DIALECTS,
    "perceiver-io": DIALECTS,
    "flamingo": FLAMINGO_DIALECTS,
    **{name: {name: own} for name, own in {**RESAMPLER_DIALECTS, **POOLER_DIALECTS}.items()},
}
_DEFAULT = {"perceiver": "deepmind", "perceiver-io": "deepmind", "flamingo": "paper"}


def presets() -> list[str]:
    """The names of the papers' models, and of later ones of their family."""
    return sorted(PRESETS)


def variants() -> list[str]:
    """The further names that `preset` knows: ablations, and other rows of the papers' tables."""
    return sorted(VARIANTS)


def is_preset(name: str, *, peer: str | None = None, cls: str | None = None) -> bool:
    """Whether a model given by a preset's name or a configuration's file is a preset.

    `peer` and `cls` are those of a configuration. Raises `InputError` for what is neither, and where they are given
    with a preset.
    """
    known = name in PRESETS or name in VARIANTS
    if known and (peer or cls):
        raise InputError(f"{name} is a preset; --peer and --class go with a configuration file")
    if not (known or peer or name.endswith(".json") or Path(name).exists()):
        raise one_of("preset", name, {**PRESETS, **VARIANTS})
    return known


def preset(name: str, *, dialect: str | None = None, **sizes: int) -> Any:
    """The model of a published configuration, without parameters: call its `init` or load some.

    `sizes` are other ones than published, with all that hangs on them (`scaling`): latents, channels, layers, blocks,
    heads; inputs and length of text; classes of a classifier.

    `dialect` names the implementation whose conventions it follows: by default DeepMind's released code, and the paper
    for Flamingo, of which none was released; a later model has its own alone. Raises `InputError` listing the known
    names.

    >>> f"{preset('perceiver-io/language').count():,}"
    '201,108,230'
    >>> f"{preset('perceiver-io/language', latents=5, channels=12, layers=2, inputs=24).count():,}"
    '110,198'
    """
    known = {**PRESETS, **VARIANTS}
    if name not in known:
        raise one_of("preset", name, known)
    family = name.partition("/")[0]
    dialects, chosen = _DIALECTS[family], _DEFAULT.get(family, family) if dialect is None else dialect
    if chosen not in dialects:
        raise one_of(f"dialect of {name}", chosen, dialects)
    made = known[name](dialects[chosen])
    if unknown := [size for size in sizes if size not in SIZES]:
        raise one_of("size of a preset", unknown[0], SIZES)
    return scaled(name, made, sizes) if sizes else made


__all__ = ["INPUTS", "PRESETS", "VARIANTS", "is_preset", "language_model", "preset", "presets", "variants"]
