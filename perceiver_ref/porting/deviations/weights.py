"""Weights stored in fewer bits: read back, the model is exact but for what its weights have lost.

What comes of rounded weights is no rounding error of arithmetic: it is the same in every run, and can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...autograd.core import array_of
from ..rounding.grid import cast_to
from .base import Candidate, Change, OpReplacement, Survey
from .quantized import ACTIVATIONS, FORMS, MIXED

FLOATING = ("bfloat16", "float16")
"""Formats of weights that are rounding: a model's own, halved."""
_LIKELY = (
    "of everything",
    "of all linear maps",
    "of all linear maps and embeddings",
    "of all matrices called weight",
    "of all matrices",
)
"""The sets of arrays that are tried with every form; others with those that come near."""
Reading = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""From a peer's array and its axes of output channels to what is read back of it."""


def _readings() -> dict[str, Reading]:
    def cast(name: str) -> Reading:
        return lambda array, outputs: cast_to(name)(array)

    return {**{name: cast(name) for name in FLOATING}, **{words: form.__call__ for words, form in FORMS.items()}}


READINGS = _readings()


def weights(found: Survey) -> Iterator[Candidate]:
    """Weights of linear maps, with or without the last and those that are embeddings too, or all, in each of `FORMS`.

    The likeliest sets of each form come first, the others are `rare`.
    """
    if found.partial:  # weights are stored in one way throughout
        return
    floats = {name for name, a in found.stored.items() if a.dtype.kind == "f" and a.size}
    matrices = {name for name in floats if found.stored[name].ndim > 1}

    def names(op: str, ending: str = "") -> list[str]:
        paths = [path for used in found.events if used.op == op for path in used.paths if path.endswith(ending)]
        return list(dict.fromkeys(name for path in paths if (name := found.bound.get(path, ("",))[0]) in matrices))

    linear, tables = names("linear", "weight"), set(names("take"))
    flat = [name for name in linear if found.stored[name].ndim == 2]
    parts = {
        "of all linear maps": set(flat),
        "of all linear maps and embeddings": set(flat) | tables,
        "of all matrices called weight": {name for name in matrices if name.endswith("weight")},
        "of all matrices": matrices,
        "of all linear maps but embeddings": set(flat) - tables,
        "of all linear maps but the last": set(flat[:-1]),
        "of all linear maps and convolutions of one pixel": set(linear),
        "of all linear maps and embeddings but the last": (set(flat) | tables) - set(flat[-1:]),
    }
    outputs = {name: axes for name in linear if (axes := _outputs(found, name)) is not None}
    for form, reading in READINGS.items():
        seen: list[set[str]] = [set()]
        own = {"of everything": floats, **parts} if form in FLOATING else parts
        for words, chosen in own.items():
            if chosen not in seen:
                change = Change(params=_restored(found, chosen, reading, outputs), straight=True)
                yield Candidate("dtype", f"weights in {form}, {words}", change, words not in _LIKELY)
                seen.append(chosen)
    for form, activations in MIXED:
        change = Change(
            params=_restored(found, set(flat), READINGS[form], outputs) if form else None,
            ops=_narrowed_inputs(ACTIVATIONS[activations]),
            straight=True,
        )
        start = f"weights in {form}, activations" if form else "activations"
        yield Candidate("dtype", f"{start} in {activations}, of all linear maps", change)


def _restored(found: Survey, chosen: set[str], reading: Reading, outputs: dict[str, tuple[int, ...]]) -> Any:
    """The change of parameters that these arrays, read back, make."""
    return found.restored(
        chosen,
        # computed in float32, as tools do: what lies so close to the middle of two numbers that it matters is rare
        lambda name, array: (
            reading(np.asarray(array, np.float32), outputs.get(name, (0,))).reshape(array.shape).astype(np.float64)
        ),
    ).params


def _narrowed_inputs(form: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], dict[str, OpReplacement]]:
    """Linear maps of inputs in fewer bits."""

    def run(op: Any, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        x = array_of(arguments[0])
        narrow = form(x.astype(np.float32)).astype(x.dtype)
        return op(narrow, *map(array_of, arguments[1:]), **static)

    return lambda path: {"linear": run}


def _outputs(found: Survey, name: str) -> tuple[int, ...] | None:
    """The axes of a peer's array that are output channels of a linear map: those of the last axis of our view of it."""
    array = found.stored[name]
    views = [view for path, (own, view) in found.bound.items() if own == name and path.endswith("weight")]
    for view in views:
        ours = view(array)
        if ours.ndim < 2 or not np.may_share_memory(ours, array):
            continue
        places = [i for i, n in enumerate(array.shape) if n > 1 and array.strides[i] == ours.strides[-1]]
        if not places:
            continue
        axes, size = [places[-1]], array.shape[places[-1]]
        while size < ours.shape[-1] and axes[0] > 0:  # heads and their channels apart
            axes.insert(0, axes[0] - 1)
            size *= array.shape[axes[0]]
        return tuple(axes)
    return None


def form_of(candidate: Candidate) -> str:
    """Of a candidate of `weights` the words before those that say which weights: of `READINGS`, where it is no more."""
    return candidate.variant.removeprefix("weights in ").rpartition(",")[0]
