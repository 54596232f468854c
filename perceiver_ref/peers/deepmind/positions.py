"""`position_encoding.py`: building position encodings from keyword arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.core import array_of
from ...errors import InputError, one_of
from ...models.conventions import DEEPMIND
from ...models.positions import FourierPositions, Positions, ProjectedPositions, TrainablePositions
from ..base import REQUIRED
from .part import options

KEYS: dict[str, Any] = {
    "position_encoding_type": "fourier",
    "project_pos_dim": -1,
    "trainable_position_encoding_kwargs": None,
    "fourier_position_encoding_kwargs": None,
}
"""The keyword arguments that preprocessors and decoders pass on to `build_position_encoding`, with its defaults."""


def dims(value: Any) -> tuple[int, ...]:
    """Index dimensions: a number stands for one axis."""
    return (value,) if isinstance(value, int) else tuple(value)


def fourier(kwargs: Mapping[str, Any] | None, index_dims: tuple[int, ...] | None) -> FourierPositions:
    """`FourierPositionEncoding`: without max_resolution that of the grid itself."""
    known = {"num_bands": REQUIRED, "concat_pos": True, "max_resolution": None, "sine_only": False}
    chosen = options("FourierPositionEncoding", kwargs, known)
    resolution = chosen["max_resolution"] or index_dims
    if not resolution:
        raise InputError("FourierPositionEncoding needs max_resolution where the grid is not known")
    return FourierPositions(
        chosen["num_bands"], tuple(resolution), bool(chosen["concat_pos"]), bool(chosen["sine_only"]), DEEPMIND
    )


def trainable(kwargs: Mapping[str, Any] | None, size: int) -> TrainablePositions:
    """`TrainablePositionEncoding`."""
    chosen = options("TrainablePositionEncoding", kwargs, {"num_channels": 128})
    return TrainablePositions(size, chosen["num_channels"])


def build(given: Mapping[str, Any], index_dims: tuple[int, ...] | None, size: int | None = None) -> Positions:
    """`build_position_encoding`; `size` is that of a trainable table, where it is not the grid's."""
    kind = given["position_encoding_type"]
    if kind not in ("trainable", "fourier"):
        raise one_of("position_encoding_type", str(kind), ("trainable", "fourier"))
    kwargs = given[f"{kind}_position_encoding_kwargs"]
    if kwargs is None:
        raise InputError(f"position_encoding_type {kind!r} needs {kind}_position_encoding_kwargs")
    encoding: FourierPositions | TrainablePositions
    if kind == "fourier":
        encoding = fourier(kwargs, index_dims)
    else:
        if index_dims is None and size is None:
            raise InputError("a trainable position encoding needs the size of its grid")
        encoding = trainable(kwargs, size if index_dims is None and size is not None else math.prod(index_dims or ()))
    project = given["project_pos_dim"]
    return ProjectedPositions(encoding, project) if project > 0 else encoding


def is_trainable(positions: Positions) -> bool:
    """Whether it is a table, which DeepMind's code gives whole whatever points are asked for."""
    return isinstance(getattr(positions, "encoding", positions), TrainablePositions)


def points(theirs: str, ours: str) -> list[tuple[str, str]]:
    """The trace points of an encoding built below `theirs`."""
    dot = f"{ours}." if ours else ""
    slash = f"{theirs}/" if theirs else ""
    return [
        (f"{slash}trainable_position_encoding/output", f"{dot}positions"),
        (f"{slash}fourier_position_encoding/output", f"{dot}positions"),
        (f"{slash}position_encoding_projector/output", f"{dot}projected_positions"),
        (f"{slash}position_encoding_projector/linear/output", f"{dot}projected_positions"),
    ]


def like(params: Any, pos: Any) -> Any:
    """An array of the dtype and library to compute in; without any given, NumPy's float64."""
    for _, array in tree.leaves({"params": params, "pos": pos}):
        return array_of(array)
    return np.zeros(())
