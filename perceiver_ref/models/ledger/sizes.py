"""The inputs that a model is costed on: the shape of one example, `224x224x3`, for each modality."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ..inputs import (
    AudioPatches,
    Conv1x1,
    ConvStem,
    GridInput,
    MultimodalInput,
    OneHotInput,
    Patches,
    Pixels,
    TextInput,
)
from ..positions import FourierPositions, ProjectedPositions
from .sketch import sketch

_LARGEST_TEXT = 1 << 26  # tokens: they are real ones
_LARGEST = 1 << 40  # elements: sizes in bytes then stay within 64 bits

Shape = tuple[int, ...]
Sizes = Shape | Mapping[str, Shape]
"""The shape of one example, without the batch axis; by name for several modalities."""


def parse_sizes(text: str) -> Sizes:
    """`2048`, `224x224x3`, or `image=16x224x224x3,audio=30720x1,label=700`. Raises `InputError`."""
    if "=" not in text:
        return _parse_shape(text)
    sizes = {}
    for part in text.split(","):
        name, _, shape = part.partition("=")
        if not name or name in sizes:
            raise InputError(f"--inputs {text!r}: give each modality once, as image=224x224x3,label=1000")
        sizes[name] = _parse_shape(shape)
    return sizes


def default_sizes(model: Any) -> Sizes:
    """The inputs that the model's position encodings were made for; `InputError` where they do not tell.

    A model may say itself what `apply` takes (`own_arguments`), and by `indices` which of it are whole numbers.
    """
    own = own_arguments(model)
    if own is None or not all(own.values()):
        if places := getattr(model, "places", None):
            return (places, model.width)
        return _default(getattr(model, "preprocessor", None))
    known = {name: tuple(n for n in shape or () if n is not None) for name, shape in own.items()}
    if any(len(known[name]) < len(shape or ()) for name, shape in own.items()):
        wanted = [_wanted(shape) for shape in own.values()]
        words = wanted[0] if len(own) == 1 else ",".join(f"{n}={w}" for n, w in zip(own, wanted) if "?" in w)
        raise InputError(f"the model does not say how many inputs it takes; give numbers for each ?: --inputs {words}")
    return known if len(known) > 1 else next(iter(known.values()))


Known = tuple[int | None, ...] | None
"""What is known of a shape: its sizes, None for one that is not known; None where nothing is."""


def own_arguments(model: Any) -> Mapping[str, Known] | None:
    """The arguments of a model that has `arguments`: their names in order, or what is known of their shapes by name."""
    found = getattr(model, "arguments", None)
    return dict.fromkeys(found) if isinstance(found, tuple) else found


def _wanted(known: Known) -> str:
    return "..." if known is None else "x".join("?" if n is None else str(n) for n in known)


def example(model: Any, sizes: Sizes, *, batch: int = 1, dtype: Any = np.float32) -> Tree:
    """Inputs of these sizes without elements, as `model.apply` takes them; `InputError` where they do not fit.

    A model of several arguments gets a tuple.
    """
    if batch < 1:
        raise InputError(f"the batch must be at least 1, got {batch}")
    if (own := own_arguments(model)) is not None:
        return _own(own, sizes, batch, dtype, getattr(model, "indices", ()))
    preprocessor = getattr(model, "preprocessor", None)
    if not isinstance(preprocessor, MultimodalInput):
        if isinstance(sizes, Mapping):
            raise InputError("the model has a single input: give its shape alone, such as --inputs 224x224x3")
        return _array(preprocessor, sizes, batch, dtype)
    parts = _by_name(sizes, preprocessor.names)
    return {name: _array(preprocessor.modalities[name], parts[name], batch, dtype) for name in preprocessor.names}


def _own(arguments: Mapping[str, Known], sizes: Sizes, batch: int, dtype: Any, indices: Collection[str]) -> Tree:
    """The arguments of a model that says what they are; those that are not given are as it says."""
    given = sizes if isinstance(sizes, Mapping) else dict.fromkeys(list(arguments)[:1], sizes)
    if not isinstance(sizes, Mapping) and len(arguments) > 1:
        given = _by_name(sizes, sorted(arguments))
    if unknown := [name for name in given if name not in arguments]:
        raise one_of("input of the model", unknown[0], arguments)
    made = []
    for name, known in arguments.items():
        shape = given.get(name, known or ())
        fits = known is None or (len(shape) == len(known) and all(n in (None, m) for n, m in zip(known, shape)))
        if not shape or None in shape or not fits:
            raise InputError(f"{name} must be of the shape {_wanted(known)}, with numbers: --inputs {name}=...")
        sized = tuple(n for n in shape if n is not None)
        made.append(_array(None, sized, batch, dtype, whole=name in indices))
    return tuple(made) if len(made) > 1 else made[0]


def _by_name(sizes: Sizes, names: list[str]) -> Mapping[str, Shape]:
    if not isinstance(sizes, Mapping) or sorted(sizes) != names:
        wanted = ",".join(f"{name}=..." for name in names)
        raise InputError(f"the model has several inputs: give the shape of each, as --inputs {wanted}")
    return sizes


def _array(part: Any, shape: Shape, batch: int, dtype: Any, *, whole: bool = False) -> Any:
    if batch * math.prod(shape) > _LARGEST:
        raise InputError(f"an input of {batch} x {'x'.join(map(str, shape))} elements is too large to count")
    if whole or isinstance(part, TextInput):
        if batch * math.prod(shape) > _LARGEST_TEXT:
            raise InputError(f"a text of {batch} x {'x'.join(map(str, shape))} tokens is too large to count")
        return np.zeros((batch, *shape), np.int64)  # read for their range
    return sketch((batch, *shape), dtype)


def _parse_shape(text: str) -> Shape:
    parts = text.strip().split("x")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--inputs: {text!r} is not a shape; write the sizes of one example, such as 224x224x3")
    return tuple(map(int, parts))


def _default(part: Any) -> Sizes:
    if isinstance(part, MultimodalInput):
        sizes = {name: _default(part.modalities[name]) for name in part.names}
        return {name: size for name, size in sizes.items() if not isinstance(size, Mapping)}
    if isinstance(part, TextInput):
        return (part.length,)
    if isinstance(part, OneHotInput):
        return (part.channels,)
    if isinstance(part, GridInput) and (grid := _grid(part.positions)):
        return _raw(part.features, grid)
    raise InputError("the model does not say how many inputs it takes; give the shape of one example with --inputs")


def _grid(positions: Any) -> Shape | None:
    """The grid that an encoding was made for."""
    if isinstance(positions, ProjectedPositions):
        return _grid(positions.encoding)
    if isinstance(positions, FourierPositions):
        return positions.max_resolution
    if getattr(positions, "resize", None):
        return tuple(positions.resize)
    side = math.isqrt(positions.size)
    return (side, side) if side * side == positions.size else None


def _raw(features: Any, grid: Shape) -> Shape:
    """The image, video or audio whose features lie on this grid."""
    if isinstance(features, AudioPatches):
        return (grid[0], features.audio_channels)  # resolutions of sound are in samples
    space = time = 1
    if isinstance(features, Pixels | Patches):
        space, time = features.space, features.time
    elif isinstance(features, Conv1x1):
        space = features.stride
    elif isinstance(features, ConvStem):
        space = 4**features.layers
    frames: Shape = (grid[0] * time,) if len(grid) == 3 else (time,) if getattr(features, "video", False) else ()
    return (*frames, *(n * space for n in grid[-2:]), features.image_channels)
