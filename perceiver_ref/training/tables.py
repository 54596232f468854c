"""Rows of numbers: tables in CSV and `.npz` files, and a model that takes each column of a row as an element."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import InputError, listed, one_of, shortened
from ..host.files import AnyPath, existing_file
from ..models.decoder import classification_decoder
from ..models.encoder import Encoder
from ..models.inputs import AudioPatches, GridInput
from ..models.perceiver_io import PerceiverIO
from ..models.positions import TrainablePositions

LABELS = ("label", "labels", "class", "target", "targets", "y")
"""Names of the column that says what a row is; without one of them it is the last."""
_LARGEST = 1 << 30  # bytes of a file of text


def table_model(
    columns: int,
    outputs: int,
    *,
    latents: int = 16,
    channels: int = 32,
    layers: int = 2,
    heads: int = 4,
    width: int = 1,
    place: int | None = None,
) -> PerceiverIO:
    """A Perceiver IO of rows of numbers: inputs (B, columns, width) -> (B, outputs).

    An element is a column's number, or its `width` numbers, beside a trained vector of `place` channels that says which
    column it is. Numbers should be standardised, so that they are of about the size of these vectors.
    """
    place = max(channels - width, width) if place is None else place
    inputs = GridInput(AudioPatches(1, width), TrainablePositions(columns, place, deviation=1 / math.sqrt(place)))
    encoder = Encoder(
        inputs.channels, latents, channels, layers=layers, cross_heads=1, self_heads=heads, qk_channels=channels
    )
    return PerceiverIO(encoder, inputs, classification_decoder(channels, outputs, heads=1))


@dataclass(frozen=True)
class Table:
    """Columns of numbers by their names, values (rows, columns) in float32, and of each row a label, as text."""

    names: tuple[str, ...]
    values: np.ndarray
    labels: tuple[str, ...] | None


def read_table(path: AnyPath, label: str | None = None, *, labelled: bool = True, names: Sequence[str] = ()) -> Table:
    """A CSV file with a line of names first: numbers, and one column of labels, `label` or one of `LABELS` or the last.

    With `labelled` False there need be no labels, and `names` are the columns wanted, in this order. Raises
    `InputError`, naming line and column, for what is no number; an empty field is none either.
    """
    path = existing_file(path, "a CSV file with a line of names first")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} has more than {_LARGEST >> 30} GiB; give an .npz file")
    header, rows = _rows(path)
    if labelled:
        chosen = _label(header, label, path)
        wanted = [name for name in header if name != chosen]
    else:
        chosen = None
        wanted = list(names) or header
        if missing := [name for name in wanted if name not in header]:
            raise InputError(f"{path} has no column {listed(map(repr, missing), 4)}; the model was trained with it")
    places = [header.index(name) for name in wanted]
    values = np.empty((len(rows), len(places)), np.float32)
    for i, row in enumerate(rows):
        for j, place in enumerate(places):
            values[i, j] = _number(row[place], path, i, header[place])
    at = None if chosen is None else header.index(chosen)
    return Table(tuple(wanted), values, None if at is None else tuple(row[at].strip() for row in rows))


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            start = file.read(4096)
            file.seek(0)
            separator = max(",;\t", key=start.partition("\n")[0].count)
            lines = [row for row in csv.reader(file, delimiter=separator) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8 ({error})") from None
    if len(lines) < 2:
        raise InputError(f"{path} needs a line of names and at least one row, got {len(lines)} lines")
    header = [name.strip() for name in lines[0]]
    if len(set(header)) < len(header) or not all(header):
        raise InputError(f"{path}: the first line must name every column, each otherwise, got {shortened(header)}")
    if _values(header):
        raise InputError(f"{path}: the first line must name the columns, and holds values: {shortened(header)}")
    for i, row in enumerate(lines[1:]):
        if len(row) != len(header):
            raise InputError(f"{path}: row {i + 1} has {len(row)} fields, the line of names {len(header)}")
    return header, lines[1:]


def _values(header: list[str]) -> bool:
    """Whether a first line is of values, not of names: numbers, one other at most, and no count of the columns."""
    numbers = [name for name in header if _is_number(name)]
    if len(numbers) < max(1, len(header) - 1):
        return False
    counted = all(name.isdecimal() for name in numbers) and all(int(b) - int(a) == 1 for a, b in pairwise(numbers))
    return not counted or (len(numbers) < 3 and numbers[0] not in ("0", "1"))  # pandas counts columns without names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _label(header: list[str], label: str | None, path: Path) -> str:
    if label is not None:
        if label not in header:
            raise one_of(f"column of {path}", label, header)
        return label
    return next((name for name in header if name.lower() in LABELS), header[-1])


def _number(text: str, path: Path, row: int, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}: row {row + 1}, column {shortened(column)}: {shortened(text)} is no finite number")
    return value
