"""Labelled examples of a file: inputs of one kind, standardised, and the numbers of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import InputError, listed, shortened
from ...host.files import AnyPath, existing_file
from ...weights.formats.npz import read_npz
from ..tables import read_table

Kind = Literal["table", "sequence", "image"]
_INPUTS = ("inputs", "x", "X", "images", "data")
_LABELS = ("labels", "y", "targets", "target")
_LARGEST = 10_000  # classes


@dataclass(frozen=True)
class Raw:
    """Inputs (N, ...) as they are and labels (N,) as text; the names of the columns of a CSV file."""

    inputs: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Scaling:
    """How raw inputs become a model's: (x - mean) / scale, by column or channel; kept in the saved model's `task`.

    `shape` is that of one example. Tables are (N, D) -> (N, D, 1), images of bytes (N, H, W) -> (N, H, W, 1).
    """

    kind: Kind
    shape: tuple[int, ...]
    mean: np.ndarray
    scale: np.ndarray
    names: tuple[str, ...] | None = None

    def apply(self, inputs: np.ndarray) -> np.ndarray:
        """Raw inputs (N, ...) as the model takes them, float32; `InputError` for another shape of an example."""
        given = np.asarray(inputs)
        if given.dtype.kind not in "biuf":
            raise InputError(f"inputs must be numbers, got {given.dtype}")
        if given.ndim == len(self.shape):
            given = given[..., None]  # of one channel
        if given.shape[1:] != self.shape:
            raise InputError(f"the model takes examples of shape {_said(self.shape)}, got {_said(given.shape[1:])}")
        made = (given.astype(np.float64) - self.mean) / self.scale
        if not np.isfinite(made).all():
            raise InputError("inputs hold a NaN or an infinity")
        single: np.ndarray = made.astype(np.float32)
        return single

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "mean": self.mean.reshape(-1).tolist(),
            "scale": self.scale.reshape(-1).tolist(),
            "names": None if self.names is None else list(self.names),
        }


def scaling_of(given: Any, where: object) -> Scaling:
    """The inverse of `plain`, from a file that may hold anything; `InputError` for what is no such thing."""
    try:
        shape = tuple(given["shape"])
        mean, scale = (np.array(given[name], np.float64) for name in ("mean", "scale"))
        names = None if given["names"] is None else tuple(given["names"])
        right = (
            given["kind"] in ("table", "sequence", "image")
            and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
            and len(shape) == {"table": 2, "sequence": 2, "image": 3}[given["kind"]]
            and mean.shape == scale.shape == (shape[0] if given["kind"] == "table" else shape[-1],)
            and bool(np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all())
            and (names is None or (len(names) == shape[0] and all(isinstance(name, str) for name in names)))
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        right = False
    if not right:
        raise InputError(f"{where}: task: inputs do not say how examples are scaled")
    return Scaling(given["kind"], shape, *_placed(given["kind"], mean, scale), names)


def fitted_scaling(inputs: np.ndarray, names: tuple[str, ...] | None) -> Scaling:
    """The mean and the deviation of each column of a table, or of each channel, over the training examples.

    A column that never changes has scale 1.
    """
    kinds: dict[int, Kind] = {2: "table", 3: "sequence", 4: "image"}
    if inputs.dtype == np.uint8 and inputs.ndim == 3:
        inputs = inputs[..., None]  # images without colours
    kind = kinds.get(inputs.ndim)
    if kind is None:
        raise InputError(
            f"inputs must be rows (N, D), sequences (N, M, C) or images (N, H, W, C), got {_said(inputs.shape)}"
        )
    given = inputs[..., None] if kind == "table" else inputs
    axes = (0, 2) if kind == "table" else tuple(range(given.ndim - 1))
    wide = given.astype(np.float64)
    mean, deviation = wide.mean(axes), wide.std(axes)
    scale = np.where(deviation > 1e-9 * np.maximum(abs(mean), 1), deviation, 1.0)
    return Scaling(kind, given.shape[1:], *_placed(kind, mean, scale), names)


def _placed(kind: Kind, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Beside an example: columns are the first axis, channels the last."""
    return (mean[:, None], scale[:, None]) if kind == "table" else (mean, scale)


def _said(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def read_examples(path: AnyPath, label: str | None = None) -> tuple[Raw, Raw | None]:
    """(all or training examples, test examples) of an .npz or a CSV file; see `train classify --help`."""
    path = existing_file(path, "an .npz or a CSV file of labelled examples")
    if path.suffix == ".npz":
        arrays = read_npz(path)
        train = _of_arrays(arrays, "", path)
        test = _of_arrays(arrays, "test_", path) if any(name.startswith("test_") for name in arrays) else None
        return train, test
    table = read_table(path, label)
    assert table.labels is not None
    return Raw(table.values, np.array(table.labels), table.names), None


def _of_arrays(arrays: Mapping[str, np.ndarray], prefix: str, path: Path) -> Raw:
    found = []
    for names in (_INPUTS, _LABELS):
        chosen = [prefix + name for name in names if prefix + name in arrays]
        if len(chosen) != 1:
            known, what = " or ".join(prefix + name for name in names), listed(arrays)
            raise InputError(f"{path} needs one array called {known}; it has {what}")
        found.append(arrays[chosen[0]])
    inputs, labels = found
    if inputs.dtype.kind not in "biuf" or not np.isfinite(inputs.astype(np.float64)).all():
        raise InputError(f"{path}: inputs must be finite numbers, got {inputs.dtype}")
    if labels.ndim != 1 or labels.dtype.kind not in "biuU" or len(labels) != len(inputs):
        raise InputError(
            f"{path}: labels must be whole numbers or text, one for each of the {len(inputs)} examples, got "
            f"{labels.dtype} of shape {_said(labels.shape)}"
        )
    return Raw(inputs, labels.astype(str))


def numbered(labels: np.ndarray, classes: list[str], path: object) -> np.ndarray:
    """The numbers of labels; `InputError` for one that no training example has."""
    numbers = {name: i for i, name in enumerate(classes)}
    if unknown := sorted(set(labels.tolist()) - set(numbers)):
        raise InputError(f"{path}: the label {shortened(unknown[0])} is that of no training example")
    return np.array([numbers[label] for label in labels.tolist()], np.int64)


def classes_of(labels: np.ndarray, path: object) -> list[str]:
    """The classes, numbers in their order, others by the alphabet."""
    found = set(labels.tolist())
    if not 2 <= len(found) <= _LARGEST:
        raise InputError(f"{path}: labels must be of 2 to {_LARGEST:,} classes, got {len(found)}")
    whole = all(text.lstrip("-").isdigit() for text in found)
    return sorted(found, key=int) if whole else sorted(found)
