"""Random parameters, states, inputs and cotangents: each array from its own stream of the seed and its name."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...autograd import tree
from ...autograd.tree import Tree
from ...models.module import Module, Parameter

Kind = Literal["normal", "image", "ids", "unit", "one-hot", "tags", "real"]
"""What an argument holds: standard normal values, values in [-1, 1] ("image", "unit"), token ids, one-hot rows, True
where a medium's tag is ("tags") or where an element is real ("real")."""

TABLES = ("latents", "embedding", "embeddings", "positions", "table", "padding", "mask")
"""Last parts of paths whose arrays are tables of vectors, not matrices that multiply."""


@dataclass(frozen=True)
class Argument:
    """An array that a class is called with: its whole shape, what it holds, and the number of token ids."""

    shape: tuple[int, ...]
    kind: Kind = "normal"
    vocabulary: int = 0
    dtype: str = ""
    """Where it is neither that of the case nor the usual one of the kind."""


def rng(seed: int, name: str) -> np.random.Generator:
    """The stream of one array."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def parameters(model: Module, seed: int) -> dict[str, np.ndarray]:
    """Parameters by our paths, float64. Not `Module.init`, whose zeros and ones hide what is swapped or left out."""
    return {path: _parameter(path, p, seed) for path, p in tree.flatten(model.parameters()).items()}


def _parameter(path: str, parameter: Parameter, seed: int) -> np.ndarray:
    values: np.ndarray = rng(seed, path).standard_normal(parameter.shape)
    last = path.rpartition("/")[2]
    if last.endswith("_gate"):  # open enough for what they let through, of either sign
        values[...] = np.sign(values) * (0.7 + 0.4 * np.abs(np.tanh(values)))
        return values
    if last == "scale":
        return 1 + 0.3 * values
    if last in TABLES or last.endswith("embedding"):
        return values
    if len(parameter.shape) > 1:
        return values / math.sqrt(max(math.prod(parameter.shape[:-1]), 1))
    return 0.5 * values


def state(model: Module, seed: int) -> dict[str, np.ndarray]:
    """Running statistics by our paths, as three updates with Haiku's bias correction leave them."""
    arrays = {}
    for path, parameter in tree.leaves(model.state()):
        parent, _, last = path.rpartition("/")
        kind = last.removesuffix("_hidden")
        values = rng(seed, f"{parent}/{kind}").standard_normal(parameter.shape)
        values = 0.3 * values if kind == "mean" else 0.5 + np.abs(values)
        arrays[path] = np.full(parameter.shape, 3.0) if last == "count" else values
        if last.endswith("_hidden"):
            arrays[path] = values * (1 - 0.9**3)
    return arrays


def argument(name: str, wanted: Argument, seed: int) -> np.ndarray:
    """The values of an argument; float64, int64 or bool unless it asks for another dtype."""
    stream = rng(seed, f"input/{name}")
    made: Any
    if wanted.kind == "ids":
        made = stream.integers(0, wanted.vocabulary, wanted.shape)
    elif wanted.kind in ("image", "unit"):
        made = stream.uniform(-1, 1, wanted.shape)
    elif wanted.kind == "one-hot":
        made = np.eye(wanted.shape[-1])[stream.integers(0, wanted.shape[-1], wanted.shape[:-1])]
    elif wanted.kind == "tags":
        made = np.zeros(wanted.shape, bool)
        made[:, :: max(wanted.shape[1] // 2, 1)] = True
    elif wanted.kind == "real":
        made = np.ones(wanted.shape, bool)
    else:
        made = stream.standard_normal(wanted.shape)
    result: np.ndarray = made.astype(wanted.dtype) if wanted.dtype else made
    return result


def cotangents(outputs: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Fixed factors of the loss, one for each floating-point output."""
    return {
        name: rng(seed, f"cotangent/{name}").standard_normal(output.shape)
        for name, output in outputs.items()
        if output.dtype.kind == "f"
    }


def nested(spec: Tree, flat: dict[str, np.ndarray]) -> Tree:
    """Parameters or running statistics by path as the tree that the model takes."""
    return tree.unflatten_like(spec, [flat[path] for path, _ in tree.leaves(spec)])
