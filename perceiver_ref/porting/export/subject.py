"""What vectors are made of: a class that can be rebuilt, and how the arguments of a call to it are laid out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...autograd import tree
from ...errors import InputError
from ...models.ledger.sizes import Sizes
from ...peers import Rebuilt
from ...peers.names import Binding, flat
from . import draw
from .draw import Argument

Arrays = dict[str, np.ndarray]
Resize = Literal["odd", "non-square", "single", "fewer-frames", "more-frames"]


@dataclass(frozen=True)
class Masking:
    """The argument that says which elements are real, and the one whose elements they are (None: made of an image)."""

    name: str
    of: str | None
    dtype: str = "bool"
    left: bool = False
    """Whether padding must come first."""
    flat: bool = True
    """(batch, elements), or of the argument's shape without channels."""
    inverted: bool = False
    """Whether True says that an element is padding."""


@dataclass(frozen=True)
class Layout:
    """Arguments for any batch and sizes; what the adversarial cases need to know of them.

    `resized` gives sizes of another kind, None where the class has none. `elements` is the number of elements that a
    mask is of. `traits` are further words on what the class has, which rows ask for. `outputs` says which outputs of
    the reference the class itself returns.
    """

    sizes: Sizes
    arguments: Callable[[int, Sizes], dict[str, Argument]]
    resized: Callable[[Resize], Sizes | None] = lambda kind: None
    mask: Masking | None = None
    elements: Callable[[Arrays], int] = lambda inputs: 0
    traits: frozenset[str] = frozenset()
    outputs: Callable[[str], bool] = lambda name: True
    call: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """A class with everything that its cases share. `id` is the first part of theirs."""

    id: str
    peer: str
    cls: str
    config: Mapping[str, Any]
    rebuilt: Rebuilt
    layout: Layout
    notes: str = ""
    weights: Mapping[str, np.ndarray] | None = None
    """The peer's arrays; None: drawn."""
    given: Mapping[str, np.ndarray] | None = None
    """Arguments that were given; None: drawn."""


@dataclass
class Draft:
    """A case in the making: everything but the results, parameters by our paths."""

    subject: Exported
    params: Arrays
    state: Arrays
    inputs: Arrays
    call: dict[str, Any]
    seed: int

    @property
    def batch(self) -> int:
        """The number of examples."""
        return int(next(iter(self.inputs.values())).shape[0])

    def stream(self, name: str) -> np.random.Generator:
        """Random numbers for an array that an adversarial case changes."""
        return draw.rng(self.seed, f"adversarial/{name}")


def arrays_by_name(rebuilt: Rebuilt, params: Arrays, state: Arrays) -> Arrays:
    """Parameters and state by our paths as the peer's arrays."""
    ours = {id(b): (params if group == "param" else state)[b.path] for group, b in _bindings(rebuilt)}
    by_name: dict[str, list[Binding]] = {}
    for _, b in _bindings(rebuilt):
        by_name.setdefault(b.name, []).append(b)
    made = {}
    for name, parts in by_name.items():
        made[name] = np.zeros(shape_of(parts), ours[id(parts[0])].dtype)
        for b in parts:
            b.view(made[name])[...] = ours[id(b)]
    return made


def paths_by_name(rebuilt: Rebuilt) -> dict[str, tuple[str, tuple[int, ...]]]:
    """For each of the peer's arrays, one of our paths of which it holds the array, and its own shape."""
    by_name: dict[str, list[Binding]] = {}
    for _, b in _bindings(rebuilt):
        by_name.setdefault(b.name, []).append(b)
    return {name: (parts[0].path, shape_of(parts)) for name, parts in by_name.items()}


def paths_of(rebuilt: Rebuilt, arrays: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
    """The inverse, for weights that were given: parameters and state by our paths, as copies."""
    params, state = rebuilt.load(arrays, "the weights")
    return (
        {path: np.array(a) for path, a in tree.flatten(params).items()},
        {path: np.array(a) for path, a in tree.flatten(state).items()},
    )


def _bindings(rebuilt: Rebuilt) -> list[tuple[str, Binding]]:
    return [("param", b) for b in rebuilt.bindings] + [("state", b) for b in rebuilt.state]


def shape_of(parts: list[Binding]) -> tuple[int, ...]:
    """The shape of a peer's array, of which only views are declared: the one that these views cover exactly."""
    shape = parts[0].shape
    rows = sum(math.prod(b.shape[-1:]) for b in parts)
    rest = tuple(shape[-2::-1])
    candidates = [shape, shape[::-1], (*shape[:-1], rows), (rows, *rest)]
    candidates += [(shape[-1], shape[-2], *shape[:-2])] if len(shape) > 2 else []
    candidates += [(*shape[::-1], 1), (*shape[::-1], 1, 1)] if len(shape) == 2 else []
    candidates += [(shape[0], 1, *shape[1:]), (1, *shape), (1, 1, *shape)] if shape else []
    for candidate in candidates:
        if not any(b.view is flat for b in parts) and _covered(parts, candidate):
            return candidate
    raise InputError(
        f"the shape of {parts[0].name} does not follow from the configuration: give parameters of the peer (--weights)"
    )


def _covered(parts: list[Binding], shape: tuple[int, ...]) -> bool:
    """Whether every element of an array of this shape is in a part, and all parts have the right shape."""
    seen = np.zeros(shape, np.int8)
    try:
        for b in parts:
            part = b.view(seen)
            if part.shape != b.shape or not np.shares_memory(part, seen):
                return False
            part[...] = 1
    except (IndexError, ValueError, TypeError):
        return False
    return bool(seen.all())
