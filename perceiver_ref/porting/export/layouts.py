"""The arguments of our own models: their shapes for any batch, odd and single sizes, and their masks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import InputError
from ...models.call import Call
from ...models.decoder import Decoder, GridDecoder
from ...models.flamingo import GatedCrossAttention, GatedLayers, PerceiverResampler
from ...models.inputs import (
    AudioPatches,
    ConvStem,
    GridInput,
    MultimodalInput,
    OneHotInput,
    Patches,
    Pixels,
    PointInput,
    TextInput,
)
from ...models.ledger.sizes import Shape, Sizes
from ...models.perceiver_ar import PerceiverAR
from ...models.perceiver_io import PerceiverIO
from ...models.positions import FourierPositions, ProjectedPositions, TrainablePositions
from ...models.queries import InputQueries, MultimodalQueries, PositionQueries
from ...models.resamplers import AttentionPool, Resampler
from . import draw
from .draw import Argument
from .subject import Arrays, Layout, Masking, Resize


def layout(model: Any, sizes: Sizes) -> Layout:
    """How a model of ours is called; `InputError` for parts that are not called by themselves."""
    if isinstance(model, PerceiverIO):
        return _perceiver_io(model, sizes)
    if isinstance(model, PerceiverResampler):
        return _resampler(model, sizes)
    if isinstance(model, (Resampler, AttentionPool)):
        return _one_set(model, sizes)
    if isinstance(model, (GatedCrossAttention, GatedLayers)):
        return _gated(model, sizes)
    if isinstance(model, PerceiverAR):
        return _autoregressive(model, sizes)
    raise InputError(f"give the arguments of a {type(model).__name__} as an .npz file (--inputs)")


def by_name(sizes: Sizes, names: list[str], prefix: str = "") -> dict[str, Shape]:
    """Shapes by argument; `InputError` unless there is one for each of these."""
    if not isinstance(sizes, Mapping) or sorted(sizes) != sorted(names):
        wanted = ",".join(f"{name}=..." for name in names)
        raise InputError(f"the class has several arguments: give the shape of each, as --inputs {wanted}")
    return {f"{prefix}{name}": sizes[name] for name in names}


def single(sizes: Sizes) -> Shape:
    """The shape of the only argument."""
    if isinstance(sizes, Mapping):
        raise InputError("the class has one argument: give its shape alone, such as --inputs 224x224x3")
    return sizes


def element(part: Any, shape: Shape, batch: int) -> Argument:
    """The argument that a preprocessor takes."""
    whole = (batch, *shape)
    if isinstance(part, TextInput):
        return Argument(whole, "ids", part.vocabulary)
    if isinstance(part, OneHotInput):
        return Argument(whole, "one-hot")
    if isinstance(part, PointInput):
        return Argument(whole, "unit")
    if isinstance(part, GridInput):
        return Argument(whole, "image")
    return Argument(whole)


def resized(part: Any, shape: Shape, kind: Resize) -> Shape | None:
    """Another shape of what a preprocessor takes."""
    if isinstance(part, OneHotInput):
        return shape
    if isinstance(part, GridInput):
        return _resized_grid(part, shape, kind)
    if kind == "odd" and shape[0] > 2:
        return (shape[0] - 2 + (shape[0] + 1) % 2, *shape[1:])
    return (1, *shape[1:]) if kind == "single" else None


def _resized_grid(part: GridInput, shape: Shape, kind: Resize) -> Shape | None:
    features = part.features
    if _table(part.positions):
        return None  # trained positions are those of one grid
    if isinstance(features, AudioPatches):
        patches = {"odd": 5, "single": 1}.get(kind)
        return None if patches is None else (patches * features.samples, shape[1])
    if isinstance(features, ConvStem):
        cells: Any = {"odd": (13, 19), "non-square": (8, 16)}
        if features.convolution_padding is None:  # SAME fits any size
            cells["single"] = (3, 3)
    else:
        block = features.space if isinstance(features, (Pixels, Patches)) else features.stride
        cells = {"odd": (5, 7), "non-square": (4, 8), "single": (1, 1)}
        cells = {name: (h * block, w * block) for name, (h, w) in cells.items()}
    if kind not in cells:
        return None
    frames: Shape = ()
    if len(shape) == 4:
        time = features.time if isinstance(features, (Pixels, Patches)) else 1
        frames = {"odd": (3 * time,), "single": (time,)}.get(kind, shape[:1])
    return (*frames, *cells[kind], shape[-1])


def _table(positions: Any) -> int:
    """The rows of a table of positions; 0 where any grid has an encoding."""
    encoding = positions.encoding if isinstance(positions, ProjectedPositions) else positions
    return encoding.size if isinstance(encoding, TrainablePositions) else 0


def _perceiver_io(model: PerceiverIO, sizes: Sizes) -> Layout:
    part = model.preprocessor
    several = isinstance(part, MultimodalInput)

    def arguments(batch: int, shapes: Sizes) -> dict[str, Argument]:
        if isinstance(part, MultimodalInput):
            named = by_name(shapes, part.names)
            return {f"inputs.{name}": element(part.modalities[name], named[name], batch) for name in part.names}
        return {"inputs": element(part, single(shapes), batch)}

    def other(kind: Resize) -> Sizes | None:
        if isinstance(model.decoder, GridDecoder) and isinstance(model.decoder.queries, InputQueries):
            return None  # its grid is the input's
        if isinstance(part, MultimodalInput) and isinstance(sizes, Mapping):
            found = {name: resized(part.modalities[name], sizes[name], kind) for name in part.names}
            changed = {name: shape or sizes[name] for name, shape in found.items()}
            return None if kind == "single" or changed == dict(sizes) else changed
        return resized(part, single(sizes), kind)

    def elements(inputs: Arrays) -> int:
        given: Any = {n.partition(".")[2]: a for n, a in inputs.items() if "." in n} if several else inputs["inputs"]
        if part is None:
            return int(given.shape[1])
        params = draw.nested(part.parameters(), draw.parameters(part, 0))
        state = draw.nested(part.state(), draw.state(part, 0))
        return int(part.apply(params, given, Call(state=state)).inputs.shape[1])

    maskable = isinstance(part, GridInput) and isinstance(part.features, Pixels) and part.features.space == 1
    own = not several and (maskable or not isinstance(part, GridInput))
    return Layout(
        sizes,
        arguments,
        other,
        Masking("mask", "inputs" if own else None),
        elements,
        _traits(model),
    )


def _traits(model: PerceiverIO) -> frozenset[str]:
    part, found = model.preprocessor, {"latents"}
    if isinstance(part, TextInput):
        found.add("tokens")
    elif part is None or not isinstance(part, (GridInput, MultimodalInput, PointInput, OneHotInput)):
        found.add("vectors")
    if isinstance(part, GridInput) and isinstance(part.positions, FourierPositions):
        found.add("positions")
    if isinstance(model.decoder, Decoder):
        queries = model.decoder.queries
        if isinstance(queries, MultimodalQueries) or (isinstance(queries, PositionQueries) and queries.size > 1):
            found.add("points")
    return frozenset(found)


def _resampler(model: PerceiverResampler, sizes: Sizes) -> Layout:
    usual = single(sizes)

    def other(kind: Resize) -> Sizes | None:
        media, frames, tokens, width = (1, 1, *usual)[-4:] if len(usual) < 4 else usual
        table = model.frames or 0
        changed: dict[str, Shape] = {
            "odd": (min(3, model.media or 3), frames, tokens + 1, width),
            "single": (1, 1, 1, width),
            **({"fewer-frames": (media, table - 1, tokens, width)} if table > 1 else {}),
            **({"more-frames": (media, table + 3, tokens, width)} if table else {}),
        }
        return changed.get(kind)

    return Layout(
        usual,
        lambda batch, shapes: {"features": Argument((batch, *single(shapes)))},
        other,
        Masking("mask", "features", flat=False),
        lambda inputs: math.prod(inputs["features"].shape[1:-1]),
        frozenset({"latents", "vectors"}),
    )


def _one_set(model: Resampler | AttentionPool, sizes: Sizes) -> Layout:
    """A resampler or pool of one set of features."""
    if len(model.arguments) > 1:
        raise InputError("give the features and latents of a Resampler as an .npz file (--inputs)")
    tokens, width = single(sizes)
    fixed = model.places is not None
    return Layout(
        (tokens, width),
        lambda batch, shapes: {"features": Argument((batch, *single(shapes)))},
        lambda kind: None if fixed else {"odd": (tokens + 2, width), "single": (1, width)}.get(kind),
        Masking("mask", "features"),
        lambda inputs: inputs["features"].shape[1],
        frozenset({"latents", "vectors"}),
    )


def _gated(model: Any, sizes: Sizes) -> Layout:
    usual = by_name(sizes, ["text", "media"])

    def arguments(batch: int, shapes: Sizes) -> dict[str, Argument]:
        named = by_name(shapes, ["text", "media"])
        text = (batch, *named["text"])
        return {
            "text": Argument(text),
            "media": Argument((batch, *named["media"])),
            "locations": Argument(text[:2], "tags"),
        }

    def other(kind: Resize) -> Sizes | None:
        (length, d), (media, tokens, c) = usual["text"], usual["media"]
        changed: dict[str, Sizes] = {
            "odd": {"text": (length - 2 if length > 3 else length, d), "media": (media + 1, tokens, c)},
            "single": {"text": (1, d), "media": (1, 1, c)},
        }
        return changed.get(kind)

    return Layout(usual, arguments, other, None, lambda inputs: 0, frozenset({"vectors", "gates", "tags"}))


def _autoregressive(model: PerceiverAR, sizes: Sizes) -> Layout:
    (length,) = single(sizes)
    return Layout(
        sizes,
        lambda batch, shapes: {"ids": Argument((batch, *single(shapes)), "ids", model.vocabulary)},
        lambda kind: {"odd": (length - 2 if length > 3 else length,)}.get(kind),
        Masking("mask", "ids", left=True),
        lambda inputs: inputs["ids"].shape[1],
        frozenset({"tokens", "prefix"}),
        call={"prefix": max(length - model.latents, 0)},
    )


def spread(mask: np.ndarray, argument: np.ndarray) -> np.ndarray:
    """A mask (B, M) over the elements of an argument, (B, ..., 1) of its leading axes, to broadcast over channels."""
    shape = argument.shape if argument.dtype.kind != "f" else (*argument.shape[:-1], 1)
    return mask.reshape(shape)
