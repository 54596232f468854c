"""What every reader gives: arrays by name, what a text prints of others, and what is to be said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...host import json_text
from ...host.files import existing_file
from ...host.memory import require
from ...weights.formats.npz import check_name
from ...weights.formats.opcodes import shown

GROUPS = (
    *("param", "state", "input", "output", "cotangent", "grad_param", "grad_input"),
    *("trace", "state_out", "output_as_run", "sample", "statistics", "expected"),
)
"""What stands before the first slash of a key of the vector format."""
META = "meta"
"""The key of a case's meta, JSON as text."""
MOST = 1 << 17
"""Arrays of a dump, files of a folder."""


@dataclass(frozen=True)
class Printed:
    """What a text shows of an array: of each axis that is longer than 2 * `edge` the first and last `edge` elements.

    `resolution` is half a unit of each value's last digit, of the shape of `values`; `dtype` that of the array printed.
    `statistics` are numbers over the whole array with their resolution: "sum", "mean", "min", "max".
    """

    values: np.ndarray
    shape: tuple[int, ...]
    edge: int
    resolution: np.ndarray
    dtype: str
    statistics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class Held:
    """Arrays by plain names or by those of the vector format, `meta` among them as a 0-d text array.

    `dtypes` has the dtype of an array in the file where it is another here, as of bfloat16.
    """

    arrays: dict[str, np.ndarray | Printed]
    notes: list[str] = field(default_factory=list)
    dtypes: dict[str, str] = field(default_factory=dict)

    def add(self, path: object, name: str, value: np.ndarray | Printed, dtype: str = "") -> None:
        """One array more; `InputError` for a name that is there, or that cannot be printed."""
        check_name(path, name)
        if name in self.arrays:
            raise InputError(f"{path}: the name {shown(name)!r} is there twice")
        if len(self.arrays) >= MOST:
            raise InputError(f"{path} holds more than {MOST:,} arrays; leave some out")
        self.arrays[name] = value
        if dtype and isinstance(value, np.ndarray) and dtype != value.dtype.name:
            self.dtypes[name] = dtype

    def add_calls(
        self, path: object, calls: Mapping[str, list[np.ndarray | Printed]], dtypes: Mapping[str, str]
    ) -> None:
        """The values of points by name: those of a point that was met n times as `name@0` to `name@n-1`."""
        for name, values in calls.items():
            for i, value in enumerate(values):
                self.add(path, name if len(values) == 1 else f"{name}@{i}", value, dtypes.get(name, ""))


def text_array(meta: Any, path: object) -> np.ndarray:
    """A case's meta, an object or its text, as `.npz` files have it."""
    if isinstance(meta, str):
        return np.array(meta)
    try:
        return np.array(json.dumps(meta))
    except (TypeError, ValueError, RecursionError):
        raise InputError(f"{path}: meta is neither JSON as text nor made of what JSON has") from None


def corners(array: np.ndarray, edge: int) -> np.ndarray:
    """Of each axis longer than 2 * `edge` the first and last `edge` elements, as PyTorch and ggml print arrays.

    >>> corners(np.arange(9), 2)
    array([0, 1, 7, 8])
    """
    for axis, n in enumerate(array.shape):
        if n > 2 * edge:
            array = array.take([*range(edge), *range(n - edge, n)], axis)
    return array


def cornered(shape: tuple[int, ...], edge: int) -> tuple[int, ...]:
    """The shape of an array's corners."""
    return tuple(min(n, 2 * edge) for n in shape)


def read_json_of(path: Path, what: str, limit: int) -> Any:
    """The value of a JSON file of at most `limit` bytes; `InputError` for what is none."""
    existing_file(path, what)
    if path.stat().st_size > limit:
        raise InputError(f"{path} has more than {limit >> 20} MiB; write {what} in parts, or as .safetensors")
    require(str(path), 4 * path.stat().st_size)
    try:
        return json_text.parse(path.read_bytes(), limit=limit)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({shown(error, 120)}); expected {what}") from None


def beside(index: Path, name: Any) -> Path:
    """A file that an index names, which must lie in the index's folder or below it; `InputError` otherwise."""
    folder = index.parent
    problem = InputError(f"{index}: {shown(name)!r} is no file in its folder; name files relative to it, without ..")
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 1000 or "\\" in name:
        raise problem
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise problem
    path = folder / relative
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        raise problem from None
    if not inside:  # through a link
        raise problem
    return existing_file(path, f"an array of {index.name}")
